"""A validator's payslip of one window: vote, log and weights beside the others'. Pure."""

from collections.abc import Mapping
from typing import Final

from template.public.causes import cause_of
from template.public.facts import CastVote, LogState, ReadLog
from template.public.money import emission, reveal_figures, reveal_words
from template.public.statements import Commands, Figure, Payslip, Statement, percent
from template.public.view import WindowView

FAR_WEIGHTS: Final = 0.1
"""Half of the summed differences from the middle weights, beyond which a row stands alone."""


def validator_slip(view: WindowView, hotkey: str, commands: Commands) -> Payslip:
    """The payslip of a hotkey with a permit, or with a vote on the window."""
    facts = view.facts
    neuron = view.run.facts.subnet.neurons.get(hotkey)
    vote = facts.vote_of(hotkey)
    uid = vote.uid if vote is not None else None if neuron is None else neuron.uid
    present_uid = uid if view.run.holds(hotkey, uid) else None
    causes = _causes(view, hotkey, present_uid)
    words = ". ".join(cause_of(name).words.capitalize() for name in causes)
    made = (
        _vote(view, vote, commands),
        _log(view, hotkey, vote, commands),
        _weights(view, present_uid, commands),
        emission(view, hotkey, uid, commands),
        _more(causes, commands, hotkey, view.window),
    )
    return Payslip(
        run_id=view.run.facts.run.run_id.hex(),
        window=view.window,
        hotkey=hotkey,
        uid=uid,
        role="validator",
        causes=causes,
        headline=f"Window {view.window}, validator: {words}.",
        statements=tuple(each for each in made if each is not None),
        validators=(),
    )


def _causes(view: WindowView, hotkey: str, uid: int | None) -> tuple[str, ...]:
    facts = view.facts
    if facts.outcome is None:
        return ("undecided",)
    if facts.chain_fault and not facts.votes:
        return ("unknown",)
    vote = facts.vote_of(hotkey)
    found = ["no_vote"] if vote is None else _vote_causes(view, vote)
    found += _log_causes(facts.logs.get(hotkey), vote)
    weights = view.run.facts.subnet.weights
    if uid is not None and (distance := _weight_distance(view, uid)) is not None:
        found += ["weights_alone"] if distance > FAR_WEIGHTS else []
    if vote is None and uid in weights and not _has_log(facts.logs.get(hotkey)):
        found.append("weights_without_log")
    # A log that is still to come is no fault beside a vote with the majority.
    return tuple(found) if set(found) - {"log_pending"} else ("votes_agree", *found)


def _vote_causes(view: WindowView, vote: CastVote) -> list[str]:
    if view.facts.outcome is not None and not any(v.agrees for v in view.facts.votes):
        return []  # without a majority nobody is away from it
    if not vote.agrees:
        return ["other_root"]
    found = [] if vote.same_tensors else ["other_sample"]
    others = [v for v in view.facts.votes if v.agrees and v.hotkey != vote.hotkey]
    total = sum(v.stake_rao for v in others)
    if total <= vote.stake_rao:
        return found  # whoever has most of the stake is never the one that stands alone

    def is_named(uid: int) -> bool:
        return 2 * sum(v.stake_rao for v in others if uid in v.named) > total

    candidates = set(view.facts.committed)
    if any(not is_named(uid) for uid in vote.named):
        found.append("names_alone")
    if any(is_named(uid) for uid in vote.missing - vote.named):
        found.append("missing_alone")
    elif any(is_named(uid) for uid in candidates - vote.named):
        found.append("names_few")
    if vote.pace and 2 * sum(v.stake_rao for v in others if v.pace == vote.pace) <= total:
        found.append("pace_alone")
    return found


def _has_log(read: ReadLog | None) -> bool:
    return read is not None and read.judgement is not None


def _log_causes(read: ReadLog | None, vote: CastVote | None) -> list[str]:
    state = LogState.NOT_ASKED if read is None else read.state
    if vote is not None and not vote.log_digest:
        return ["no_log"]
    if state in (LogState.DIFFERS, LogState.NO_LOG):
        return ["log_differs"]
    if state in (LogState.NOT_THERE, LogState.NO_ANSWER):
        return ["log_pending" if vote is not None else "no_log"]
    if state is LogState.NOT_IN_TIME:
        return ["log_pending"]  # this reader's word on its own time: no fault of the validator
    return []


def _weight_distance(view: WindowView, uid: int) -> float | None:
    """Half of the summed differences from the middle of the other rows by stake; 0 equal, 1 wholly
    other. None without a row, or without other rows of more than half of the others' stake, and of
    more than the own.
    """
    subnet = view.run.facts.subnet
    stakes = {neuron.uid: neuron.stake_rao for neuron in subnet.validators()}
    rows = {u: row for u, row in subnet.weights.items() if row and u in stakes}
    others = {u: row for u, row in rows.items() if u != uid}
    total = sum(stakes.values())
    weighed = sum(stakes[u] for u in others)
    if uid not in rows or 2 * weighed <= total - stakes[uid] or weighed <= stakes[uid]:
        return None
    uids = {u for row in rows.values() for u in row}
    middle = {u: _weighted_middle(others, stakes, u) for u in uids}
    return sum(abs(rows[uid].get(u, 0.0) - middle[u]) for u in uids) / 2


def _weighted_middle(
    rows: Mapping[int, Mapping[int, float]], stakes: Mapping[int, int], uid: int
) -> float:
    """The weight of a uid with half of the rows' stake at or below it."""
    pairs = sorted((row.get(uid, 0.0), stakes[validator]) for validator, row in rows.items())
    half, so_far = sum(stake for _, stake in pairs) / 2, 0
    for weight, stake in pairs:
        so_far += stake
        if so_far >= half:
            return weight
    return 0.0


def _vote(view: WindowView, vote: CastVote | None, commands: Commands) -> Statement:
    outcome, schedule = view.facts.outcome, view.run.facts.run.schedule
    source = commands.commitments_at(schedule.vote_block(view.window))
    rule = (
        "Votes count as they stand at the window's vote block, by stake. Root and sample digest "
        "describe the parameters; a vote on another root names nobody."
    )
    where, command = "template/protocol/quorum.py", commands.replay
    if vote is None:
        return Statement(
            topic="vote",
            words="No vote of this hotkey on this window is known.",
            figures=(Figure("voted", False),),
            sources=(source,),
            rule=rule,
            where=where,
            command=command,
        )
    accepted = frozenset() if outcome is None else outcome.accepted
    agreed = len(vote.named & accepted)
    return Statement(
        topic="vote",
        words=(
            f"Voted root {vote.root[:16]} "
            f"({'that of the majority' if vote.agrees else 'NOT that of the majority'}), sample "
            f"digest {vote.sample_digest} ({'the same' if vote.same_tensors else 'ANOTHER'}). "
            f"Named {len(vote.named)} payloads, {agreed} of the {len(accepted)} accepted; reported "
            f"{len(vote.missing)} missing; pace of alpha {vote.pace:+d}."
        ),
        figures=(
            Figure("voted", True),
            Figure("agrees_on_root", vote.agrees),
            Figure("same_tensors", vote.same_tensors),
            Figure("num_named", len(vote.named), "payloads"),
            Figure("num_named_accepted", agreed, "payloads"),
            Figure("num_accepted", len(accepted), "payloads"),
            Figure("num_missing", len(vote.missing), "payloads"),
            Figure("pace", vote.pace),
            Figure("stake_rao", vote.stake_rao, "rao"),
        ),
        sources=(source,),
        rule=rule,
        where=where,
        command=command,
    )


def _log(view: WindowView, hotkey: str, vote: CastVote | None, commands: Commands) -> Statement:
    read = view.facts.logs.get(hotkey, ReadLog(state=LogState.NOT_ASKED))
    words = f"Verdict log: {read.state.value}"
    words += f" ({read.detail})." if read.detail else "."
    figures = [
        Figure("log", read.state.value),
        Figure("log_bytes", read.num_bytes, "bytes"),
        Figure("log_digest_voted", "" if vote is None else vote.log_digest),
    ]
    page = view.run.book(hotkey).pages.get(view.window)
    if page is not None:
        words += (
            " Its shares follow from its own losses and the logs before, to the bit."
            if page.follows
            else " Its shares do NOT follow from its own logs."
        )
        figures.append(Figure("follows", page.follows))
    return Statement(
        topic="log",
        words=words,
        figures=tuple(figures),
        sources=(commands.log_of(hotkey, view.window),),
        rule="The vote carries the digest of the log, so a log cannot be changed after the vote.",
        where="template/base/log_publisher.py, template/audit/vote.py",
        command=commands.audit(hotkey, view.window),
    )


def _weights(view: WindowView, uid: int | None, commands: Commands) -> Statement | None:
    subnet = view.run.facts.subnet
    if uid is None:
        return None
    row = subnet.weights.get(uid, {})
    source = (f"weights of subnet {view.run.facts.netuid} on chain after block {subnet.block}",)
    if subnet.weights_fault or not row:
        words = subnet.weights_fault or "No weights of this validator are on chain"
        return Statement(
            topic="weights", words=f"{words}.", sources=source, command=commands.btcli("weights")
        )
    most = sorted(row.items(), key=lambda item: (-item[1], item[0]))[:8]
    words = "Weights on chain: " + ", ".join(f"uid {u} {percent(w)}" for u, w in most if w) + "."
    distance = _weight_distance(view, uid)
    if distance is not None:
        words += f" {percent(distance)} of the weight lies elsewhere than the other stake puts it."
    words += reveal_words(subnet)
    return Statement(
        topic="weights",
        words=words,
        figures=(
            *(Figure(f"weight/{u}", w) for u, w in sorted(row.items())),
            Figure("weight_distance", distance),
            *reveal_figures(subnet),
        ),
        sources=source,
        rule="Distance: half of the summed differences from the middle weight of the other "
        "validators by stake. Honest validators set weights at different blocks, and differ a bit.",
        where="template/base/weight_setter.py",
        command=commands.btcli("weights"),
    )


def _more(causes: tuple[str, ...], commands: Commands, hotkey: str, window: int) -> Statement:
    lines = [f"{name}: {cause_of(name).remedy}" for name in causes if cause_of(name).remedy]
    return Statement(
        topic="more",
        words="; ".join(lines) + "." if lines else "Nothing holds this pay back.",
        figures=(Figure("causes", ", ".join(causes)),),
        rule="What would have been needed for more: dividends follow from weights that agree with "
        "the other validators' by stake.",
        where=", ".join(dict.fromkeys(cause_of(name).where for name in causes)),
        command=commands.audit(hotkey, window),
    )
