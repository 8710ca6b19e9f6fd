"""Replaying a run: from a published state, by lineage and payloads alone, to what is voted now.

No vote of the past is taken part in and nothing of a node is read but its bucket. Where the steps
come from does not matter: they count because they lead to the root that most of the stake votes.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from template.audit.auditor import Auditor
from template.audit.logs import audit_windows, logs_in_bucket
from template.chain.ballots import read_ballot, read_records
from template.context import ReadContext
from template.errors import ChainError, ConsensusError, NotFound, SubnetError, Unavailable
from template.peers.blobs import validators_by_stake
from template.peers.client import Peers
from template.protocol.lineage import LineageStep
from template.protocol.quorum import decide
from template.protocol.record import ROOT_BYTES, Vote
from template.protocol.root import sample_digest
from template.sync.bootstrap import Bootstrap
from template.sync.lineage import read_lineage, wait_for_majority_vote
from template.sync.payload_cache import PayloadCache
from template.sync.recovery import retake_steps
from template.training.outer import OuterState, outer_step

log = logging.getLogger(__name__)

Say = Callable[[str], None]


@dataclass(kw_only=True, slots=True)
class Replayed:
    """Where a replay has come to. `wrong`: hotkey -> votes of its that do not follow."""

    start: int
    state: OuterState
    num_payloads: int = 0
    wrong: dict[str, list[str]] = field(default_factory=dict)


def replay_run(context: ReadContext, peers: Peers, since: int, say: Say) -> Replayed:
    """Replay to the state that is voted now, from the oldest one that buckets still lead on from,
    of theta_since or later. NotFound if there is none; ConsensusError if the steps are the
    run's and the parameters that come out are not those voted.
    """
    peers.refresh()
    vote = wait_for_majority_vote(context)
    steps = read_lineage(context, peers, vote.window + 1, vote.root)
    for start in _starts(context, steps, since):
        replayed = Replayed(start=start.window, state=start)
        say(f"replaying from theta_{start.window} to theta_{vote.window + 1}")
        try:
            _replay(context, peers, replayed, steps, say)
        except Unavailable as error:
            say(f"not from theta_{start.window}: {error}")
            continue
        _demand_equal(context, replayed.state, vote)
        _take_the_last(context, peers, replayed, say)
        return replayed
    raise NotFound(
        f"no published state of theta_{since} or later leads to root {vote.root.hex()} that is "
        f"voted for window {vote.window}: too few buckets answer, or they keep too little"
    )


def _take_the_last(context: ReadContext, peers: Peers, replayed: Replayed, say: Say) -> None:
    """The step on the window of the votes themselves, if these are final: it is in no root that is
    voted yet, and at the end of a run never will be; the chain's votes decide on it.
    """
    state, schedule = replayed.state, context.schedule
    window, frames = state.window - 1, PayloadCache(context, peers)
    if context.chain.finalized() < schedule.vote_block(window):
        return
    try:
        ballot = read_ballot(context.chain, schedule, window)
    except ChainError as error:
        say(f"window {window}: its votes cannot be read any more, it is left out: {error}")
        return
    decision = decide(ballot, state.voting_stakes_rao, context.spec.outer.quorum_rules())
    if missing := frames.fetch_missing(window, decision.members, decision.namers):
        say(f"window {window} is left out: no bucket has the payloads of uids "
            f"{[member.uid for member in missing]}")  # fmt: skip
        return
    payloads = frames.open_frames(window, decision.members)
    replayed.state = outer_step(state, decision, payloads, context.spec)
    replayed.num_payloads += len(decision.members)
    say(f"window {window}: {len(decision.members)} payloads, by its votes on the chain")


def _starts(context: ReadContext, steps: Sequence[LineageStep], since: int) -> Iterator[OuterState]:
    """States from which the steps lead on, oldest first: theta_0 and checkpoints."""
    every = context.spec.checkpoint.every_windows
    for step in steps:
        window = step.window + 1
        if window < since or (window % every and step.window):
            continue
        state = Bootstrap(context, Peers(context)).published_state(window, step.root)
        if state is not None:
            yield state


def _replay(
    context: ReadContext,
    peers: Peers,
    replayed: Replayed,
    steps: Sequence[LineageStep],
    say: Say,
) -> None:
    frames = PayloadCache(context, peers)
    ahead = [step for step in steps if step.window >= replayed.state.window - 1]
    _compare_votes(context, replayed)
    for step, after in retake_steps(
        replayed.state, ahead, frames.obtain_past_payloads, context.spec
    ):
        replayed.state = after
        replayed.num_payloads += len(step.members)
        say(f"window {step.window}: {len(step.members)} payloads, root {after.root[:8].hex()}")
        _compare_votes(context, replayed)


def _compare_votes(context: ReadContext, replayed: Replayed) -> None:
    """Who voted something else than what follows, as far back as the chain still tells.

    Where most of the stake was stuck, or did not agree, there is no telling who was right then.
    """
    window, state = replayed.state.window - 1, replayed.state
    schedule, chain = context.schedule, context.chain
    if chain.finalized() < schedule.vote_block(window):
        return
    try:
        ballot = read_ballot(chain, schedule, window)
    except ChainError as error:
        log.debug("votes on window %d cannot be read any more: %s", window, error)
        return
    mine = sample_digest(state.params, ballot.seed)
    if decide(ballot, (), context.spec.outer.quorum_rules()).root != state.root[:ROOT_BYTES]:
        return
    for voter in ballot.voters:
        if voter.vote.root != state.root[:ROOT_BYTES]:
            found = f"window {window}: root {voter.vote.root.hex()}, not {state.root.hex()[:32]}"
        elif voter.vote.sample_digest != mine:
            found = f"window {window}: tensors {voter.vote.sample_digest.hex()}, not {mine.hex()}"
        else:
            continue
        replayed.wrong.setdefault(voter.hotkey, []).append(found)


def _demand_equal(context: ReadContext, state: OuterState, vote: Vote) -> None:
    seed = context.chain.block_hash(context.schedule.stake_block(vote.window))
    mine = sample_digest(state.params, seed)
    if state.root[:ROOT_BYTES] != vote.root or mine != vote.sample_digest:
        raise ConsensusError(
            f"window {vote.window}: the replay ends at root {state.root.hex()[:32]} with tensors "
            f"{mine.hex()}, the stake majority votes {vote.root.hex()} with "
            f"{vote.sample_digest.hex()}"
        )


def audit_validators(context: ReadContext, replayed: Replayed, say: Say) -> None:
    """Compute the losses of every validator's verdict logs again, from the newest checkpoint that
    votes prove on; what differs joins `replayed.wrong`.
    """
    last = replayed.state.window - 2
    records = read_records(context.chain, context.chain.finalized())
    for hotkey in validators_by_stake(context):
        if hotkey not in records or records[hotkey].vote is None:
            continue  # a permit alone, as miners with stake have, makes no validator
        try:
            auditor = Auditor(context, hotkey, last)
            source = logs_in_bucket(context, auditor.peers, hotkey)
            first = auditor.next_window
            for found in audit_windows(auditor, source, first, last):
                say(f"{hotkey}: {found.place}, {found.num_losses} losses computed again")
                if found.wrong:
                    replayed.wrong.setdefault(hotkey, []).extend(found.wrong)
                for line in found.unknown:
                    say(f"{hotkey}: cannot tell: {line}")
        except SubnetError as error:
            say(f"{hotkey}: its verdicts cannot be audited: {error}")
