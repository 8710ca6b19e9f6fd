"""Payslips of a run in which most misbehave: the true cause, the right figures, and every gap."""

import re
from dataclasses import replace
from typing import Any

import pytest

from evaluation.verdict_log import decode_log
from simulation.swarm import uid_of
from simulation.world import PUBLIC_TIMES, hotkey_of
from template.errors import NotFound, Unavailable
from template.protocol.keys import verdict_key
from template.protocol.payload import PayloadFormat
from template.public import gather
from template.public.causes import CAUSES
from template.public.facts import LogState, ReadLog, RunFacts
from template.public.gather import Gatherer
from template.public.payslip_json import payslip_json
from template.public.payslip_text import payslip_lines
from template.public.site.models import run_model
from template.public.statements import Payslip
from template.public.view import RunView
from template.training.model import payload_format
from tests.support.audited import reader
from tests.support.public import HONEST_MINERS, WINDOWS, Played
from tests.support.schemas import check_json, is_of

FRAMES = {"length", "magic", "version", "scale", "indices", "codes", "too_large", "base", "digest"}
"""What a malformed frame is refused for."""

ALWAYS = {
    "undelivered": {"not_delivered"},
    "oversized": {"too_large"},
    "idle": {"not_committed"},
    "malformed": FRAMES | {"not_committed"},
}
LIARS = {
    "liar": {"missing_alone"},
    "silent": {"no_vote"},
    "false-root": {"other_root"},
    "false-sample": {"other_sample"},
    "absent-namer": {"names_alone"},
    "weight-copier": {"no_vote", "no_log"},
}


def read_log(played: Played, window: int, validator: str = "val-a"):
    bucket, run_id = played.world.buckets[hotkey_of(validator)], played.world.spec.run_id
    return decode_log(bucket.get(verdict_key(run_id, window), max_bytes=2**24).decode())


@pytest.mark.parametrize("name", ALWAYS)
def test_a_miner_that_misbehaves_is_told_its_true_cause(played, facts, name) -> None:
    slips = played.slips(facts, name)
    assert {slip.cause for slip in slips.values()} <= ALWAYS[name]
    if name != "malformed":
        assert {slip.cause for slip in slips.values()} == ALWAYS[name]


def test_a_copier_is_refused_for_the_copy_once_there_is_something_to_copy(played, facts) -> None:
    slips = played.slips(facts, "copier")
    assert {slips[w].cause for w in range(1, WINDOWS)} == {"overlap"}
    decided = slips[WINDOWS - 1].statement("decided")
    assert "kept positions with" in decided.words
    assert any(hotkey_of(name) in decided.words for name in HONEST_MINERS)


@pytest.mark.parametrize("name", LIARS)
def test_a_validator_that_misbehaves_is_told_its_true_cause(played, facts, name) -> None:
    for slip in played.slips(facts, name).values():
        assert slip.role == "validator"
        assert set(slip.causes) >= LIARS[name], (slip.window, slip.causes)


@pytest.mark.parametrize("name", ["val-a", "val-b"])
def test_an_honest_validator_votes_as_the_majority(played, facts, name) -> None:
    assert {slip.causes for slip in played.slips(facts, name).values()} == {("votes_agree",)}


def test_the_liars_weights_stand_alone(played, facts) -> None:
    slip = played.slips(facts, "liar")[WINDOWS - 1]
    assert "weights_alone" in slip.causes
    assert slip.figure("weight_distance") > 0.5


@pytest.mark.parametrize("name", ["val-a", HONEST_MINERS[0]])
@pytest.mark.parametrize(
    ("reveal_epochs", "words"), [(0, ""), (1, "1 epoch (8 blocks)"), (3, "3 epochs (24 blocks)")]
)
def test_a_subnet_with_commit_reveal_says_how_late_a_row_counts(
    played, facts, name: str, reveal_epochs: int, words: str
) -> None:
    times = replace(PUBLIC_TIMES, reveal_epochs=reveal_epochs)
    told = replace(facts, subnet=replace(facts.subnet, weight_times=times))
    statement = played.slips(told, name)[WINDOWS - 1].statement("weights")
    assert words in statement.words
    assert ("commit-reveal on" in statement.words) == bool(words)
    assert figure(statement, "reveal_epochs") == reveal_epochs


def figure(statement: Any, name: str) -> object:
    (value,) = [each.value for each in statement.figures if each.name == name]
    return value


@pytest.mark.parametrize("name", HONEST_MINERS)
def test_the_figures_are_those_of_the_verdict_log(played, facts, name) -> None:
    uid = uid_of(played.world, name)
    for window, slip in played.slips(facts, name).items():
        log = read_log(played, window)
        verdict = next(v for v in log.verdicts if v.uid == uid)
        assert slip.figure("gain") == verdict.gain
        assert slip.figure("gain_error") == verdict.gain_standard_error
        assert slip.figure("status") == verdict.status
        assert slip.figure("share") == log.shares.get(uid, 0.0)
        assert slip.figure("digest") == verdict.digest
        assert slip.figure("pages_claimed") == verdict.pages_consumed
        assert slip.figure("follows") is True
        assert (slip.cause == "accepted") == slip.figure("accepted")


def test_the_share_is_the_credit_over_all_credits(played, facts) -> None:
    last = WINDOWS - 1
    slips = [played.slips(facts, name)[last] for name in HONEST_MINERS]
    for slip in slips:
        expected = slip.figure("credit") / slip.figure("sum_of_credits")
        assert slip.figure("share") == pytest.approx(min(expected, slip.figure("max_share")))
    assert sum(slip.figure("credit") for slip in slips) > 0


def test_the_weights_are_those_on_chain(played, facts) -> None:
    uid, val_a = uid_of(played.world, "m1"), uid_of(played.world, "val-a")
    on_chain = played.world.ledger.weights[hotkey_of("val-a")][-1]
    slip = played.slips(facts, "m1")[WINDOWS - 1]
    assert slip.figure(f"weight/{val_a}") == on_chain.get(uid, 0.0)
    row = next(row for row in slip.validators if row.uid == val_a)
    assert row.weight == on_chain.get(uid, 0.0)


def test_emission_is_said_in_tao(played, facts) -> None:
    hotkey = hotkey_of("m0")
    neuron = replace(facts.subnet.neurons[hotkey], incentive=0.25, emission_rao=2 * 10**9)
    subnet = replace(facts.subnet, neurons={**facts.subnet.neurons, hotkey: neuron}, price_tao=0.05)
    slip = played.slips(replace(facts, subnet=subnet), "m0")[WINDOWS - 1]
    assert slip.figure("emission_tao") == pytest.approx(0.1)
    assert "0.100000 TAO at 0.050000 TAO per alpha" in slip.statement("emission").words


def test_every_statement_names_objects_a_rule_and_a_command(played, facts) -> None:
    for name in ("m0", "copier", "undelivered", "idle", "liar", "silent"):
        for slip in played.slips(facts, name).values():
            assert set(slip.causes) <= CAUSES.keys()
            for statement in slip.statements:
                assert statement.words.endswith("."), statement.topic
                assert statement.command.startswith(("tessera ", "btcli query ")), statement.topic
                if statement.figures and statement.topic != "more":
                    assert statement.sources, statement.topic
                    assert statement.rule or statement.topic == "weights", statement.topic


def test_json_keeps_to_its_schema_and_text_has_every_statement(played, facts) -> None:
    for name in ("owner", "m0", "copier", "undelivered", "idle", "liar", "silent", "false-root"):
        for slip in played.slips(facts, name).values():
            check_json(payslip_json(slip), "payslip")
            text = "\n".join(payslip_lines(slip))
            assert slip.hotkey in text
            assert all(statement.command in text for statement in slip.statements)


def test_the_schema_refuses_what_is_no_payslip(played, facts) -> None:
    row = payslip_json(played.slips(facts, "m0")[0])
    for wrong in ({**row, "window": "0"}, {**row, "more": 1}, {**row, "causes": []}):
        assert not is_of(wrong, "payslip")
    assert not is_of({key: row[key] for key in row if key != "statements"}, "payslip")


def test_a_recycled_uid_pays_the_hotkey_that_earned_and_tells_no_weight_of_another(
    played, facts
) -> None:
    """m1's share of window 2 stays m1's after a newcomer took its uid, whatever the chain says."""
    uid, old, new = uid_of(played.world, "m1"), hotkey_of("m1"), hotkey_of("newcomer")
    neurons = dict(facts.subnet.neurons)
    neurons[new] = replace(neurons.pop(old), hotkey=new)
    window, val_a = facts.windows[2], hotkey_of("val-a")
    read = window.logs[val_a]
    paid = replace(read, judgement=replace(read.judgement, shares={uid: 0.5, 0: 0.5}))
    window = replace(window, logs={**window.logs, val_a: paid})
    spoiled = replace(
        facts,
        windows={w: facts.windows[w] for w in (0, 1)} | {2: window},
        subnet=replace(facts.subnet, neurons=neurons),
    )
    before, newcomer = played.slips(spoiled, "m1")[2], played.slips(spoiled, "newcomer")[2]
    assert (before.uid, before.figure("share")) == (uid, 0.5)
    assert before.figure("credit") is not None
    assert before.statement("weights") is before.statement("emission") is None
    assert {row.weight for row in before.validators} == {None}
    assert next(r for r in before.validators if r.hotkey == val_a).logged_share == 0.5
    assert newcomer.figure("share") == 0.0
    assert newcomer.figure("credit") is None
    rows = {row.hotkey: row for row in run_model(RunView(spoiled), lambda _: form(played)).hotkeys}
    assert (rows[new].uid, rows[new].share) == (uid, 0.0)
    payloads = run_model(RunView(spoiled), lambda _: form(played)).windows[2].payloads
    assert next(row for row in payloads if row.uid == uid).share == 0.5


def form(played: Played) -> PayloadFormat:
    return payload_format(played.world.spec)


@pytest.mark.parametrize("word", ["accepted", "undecided", "owner", "votes_agree", "tomorrow"])
def test_a_word_that_is_no_status_never_becomes_a_cause(played, facts, word) -> None:
    """All logs of a window say it of a refused payload: none of them is the slip's decision."""
    window, uid = facts.windows[2], uid_of(played.world, "copier")
    logs = {h: spoken(read, uid, word) for h, read in window.logs.items()}
    spoiled = replace(facts, windows={**facts.windows, 2: replace(window, logs=logs)})
    slip = played.slips(spoiled, "copier")[2]
    assert slip.cause == "unheard_of"
    assert word not in slip.causes
    assert slip.figure("status") == "unheard_of"
    assert {row.status for row in slip.validators} <= {"", "unheard_of"}


def test_a_status_outweighs_a_word_that_is_none(played, facts) -> None:
    """The validator with most stake says the word; the other says why."""
    window, uid, val_a = facts.windows[2], uid_of(played.world, "copier"), hotkey_of("val-a")
    logs = {**window.logs, val_a: spoken(window.logs[val_a], uid, "accepted")}
    spoiled = replace(facts, windows={**facts.windows, 2: replace(window, logs=logs)})
    assert played.slips(spoiled, "copier")[2].cause == "overlap"


def spoken(read: ReadLog, uid: int, word: str) -> ReadLog:
    """The log with another status of a uid."""
    judgement = read.judgement
    if judgement is None or uid not in judgement.verdicts:
        return read
    verdicts = {**judgement.verdicts, uid: replace(judgement.verdicts[uid], status=word)}
    return replace(read, judgement=replace(judgement, verdicts=verdicts))


# Gaps: what cannot be read is said, and nothing fails.


def of_gaps(played: Played, context) -> RunFacts:
    return Gatherer(context, netuid=1, network="local").read(0)


def test_a_log_that_is_not_published_yet_is_said_to_be_away(played) -> None:
    """Only votes tell then: who named it, who could not fetch it, and that the reason will come."""
    last = WINDOWS - 1
    context = hiding(played, lambda key: f"/verdict/{last:08d}" in key)
    facts = of_gaps(played, context)
    slip = played.slips(facts, "copier")[last]
    assert slip.cause == "reason_pending"
    assert {row.log for row in slip.validators} == {LogState.NOT_THERE.value}
    assert "No verdict log of this window can be read yet" in slip.statement("credit").words
    assert slip.figure("stake_naming_rao") < slip.figure("stake_needed_rao")
    accepted = [n for n in HONEST_MINERS if played.slips(facts, n)[last].cause == "accepted"]
    assert accepted
    assert played.slips(facts, "undelivered")[last].cause == "not_delivered"
    assert played.slips(facts, "copier")[last - 1].cause == "overlap"
    assert played.slips(facts, "val-a")[last].causes == ("votes_agree", "log_pending")


def test_a_bucket_that_is_silent_costs_its_own_column_alone(played) -> None:
    calls: list[str] = []

    class Silent:
        def get(self, key: str, *, max_bytes: int) -> bytes:
            calls.append(key)
            raise Unavailable("no answer in time")

        def size(self, key: str) -> int:
            raise Unavailable("no answer in time")

    context = opening(played, {"val-a": Silent()})
    facts = of_gaps(played, context)
    logs = [facts.windows[w].logs[hotkey_of("val-a")] for w in range(WINDOWS)]
    assert {read.state for read in logs} == {LogState.NO_ANSWER}
    assert sum("/verdict/" in key for key in calls) == 1, "asked again after a silence"
    slip = played.slips(facts, "m1")[WINDOWS - 1]
    assert slip.figure("share") == read_log(played, WINDOWS - 1, "val-b").shares.get(
        uid_of(played.world, "m1"), 0.0
    )


class Slow:
    """val-a's bucket, where each log takes `seconds` by a clock of its own."""

    def __init__(self, store, seconds: float) -> None:
        self._store, self._seconds, self.now_s = store, seconds, 0.0

    def get(self, key: str, *, max_bytes: int) -> bytes:
        self.now_s += self._seconds if "/verdict/" in key else 0.0
        return self._store.get(key, max_bytes=max_bytes)

    def size(self, key: str) -> int:
        return self._store.size(key)


def slow_gatherer(played: Played, seconds: float) -> tuple[Slow, Gatherer]:
    slow = Slow(played.world.buckets[hotkey_of("val-a")].reader(), seconds)
    context = opening(played, {"val-a": slow})
    kept: Any = {"netuid": 1, "network": "local", "max_logs": 1}
    return slow, Gatherer(context, **kept, clock=lambda: slow.now_s)


def states_of(facts: RunFacts) -> list[LogState]:
    return [facts.windows[w].logs[hotkey_of("val-a")].state for w in range(WINDOWS)]


def test_logs_beyond_the_time_are_not_asked_and_come_with_later_readings(
    played, monkeypatch
) -> None:
    monkeypatch.setattr(gather, "ASKED_AGAIN", 1)  # all windows but the newest are old
    _, gatherer = slow_gatherer(played, 25.0)
    first = gatherer.read(0)
    assert states_of(first) == [LogState.NOT_IN_TIME] * 3 + [LogState.READ] * 3
    slip = played.slips(first, "val-a")[0]
    assert "log_pending" in slip.causes
    check_json(payslip_json(slip), "payslip")
    assert states_of(gatherer.read(0)) == [LogState.READ] * WINDOWS


def test_the_time_of_decoding_is_not_the_buckets(played, monkeypatch) -> None:
    slow, gatherer = slow_gatherer(played, 1.0)

    def decode_slowly(text: str):
        slow.now_s += 1000.0
        return decode_log(text)

    monkeypatch.setattr(gather, "decode_log", decode_slowly)
    assert states_of(gatherer.read(0)) == [LogState.READ] * WINDOWS


def test_a_bucket_that_was_silent_is_asked_again_at_the_next_reading(played, monkeypatch) -> None:
    monkeypatch.setattr(gather, "ASKED_AGAIN", 1)
    slow, gatherer = slow_gatherer(played, 0.0)
    answer = slow.get

    def silent(key: str, *, max_bytes: int) -> bytes:
        raise Unavailable("no answer in time")

    monkeypatch.setattr(slow, "get", silent)
    assert set(states_of(gatherer.read(0))) == {LogState.NO_ANSWER}
    monkeypatch.setattr(slow, "get", answer)
    assert states_of(gatherer.read(0)) == [LogState.READ] * WINDOWS


def test_a_log_other_than_voted_counts_for_nothing(played) -> None:
    class Lying:
        def __init__(self, store) -> None:
            self._store = store

        def get(self, key: str, *, max_bytes: int) -> bytes:
            data = self._store.get(key, max_bytes=max_bytes)
            return data.replace(b'"no_gain"', b'"no_work"') + b"\n" if "/verdict/" in key else data

        def size(self, key: str) -> int:
            return self._store.size(key)

    context = opening(played, {"val-a": Lying(played.world.buckets[hotkey_of("val-a")].reader())})
    facts = of_gaps(played, context)
    read = facts.windows[2].logs[hotkey_of("val-a")]
    assert (read.state, read.judgement) == (LogState.DIFFERS, None)
    slip = played.slips(facts, "val-a")[2]
    assert "log_differs" in slip.causes
    assert played.slips(facts, "copier")[2].cause == "overlap", "val-b's log still says why"


@pytest.mark.parametrize("junk", [b"", b"{}", b"\xff\x00", b'{"kind": "window"}\n'])
def test_junk_in_place_of_a_log_is_no_log(played, junk) -> None:
    class Junk:
        def get(self, key: str, *, max_bytes: int) -> bytes:
            return junk

        def size(self, key: str) -> int:
            return len(junk)

    facts = of_gaps(played, opening(played, {"val-a": Junk(), "val-b": Junk()}))
    states = {facts.windows[w].logs[hotkey_of("val-a")].state for w in range(WINDOWS)}
    assert states <= {LogState.DIFFERS, LogState.NO_LOG}
    assert len(list(payslip_lines(played.slips(facts, "m0")[1]))) > 10


def test_a_chain_that_forgot_leaves_what_the_logs_say(played) -> None:
    world = played.world
    try:
        world.ledger.kept_blocks = 10
        facts = played.gatherer().read(0)
    finally:
        world.ledger.kept_blocks = 10**9
    assert facts.windows[1].chain_fault
    assert facts.windows[1].logs[hotkey_of("val-a")].state is LogState.UNPROVEN
    assert played.slips(facts, "copier")[2].cause == "overlap"
    assert "accepted" in {played.slips(facts, name)[2].cause for name in HONEST_MINERS}


def test_a_stranger_and_a_window_to_come_have_payslips_too(played, facts) -> None:
    slips = played.slips(facts, "nobody")
    assert {slip.cause for slip in slips.values()} == {"not_registered"}
    assert slips[0].uid is None
    ahead = played.gatherer().read(WINDOWS, WINDOWS)
    assert played.slips(ahead, "m0")[WINDOWS].cause in ("undecided", "not_committed")


def test_a_payslip_reads_the_past_of_one_validator_alone(played) -> None:
    gatherer = played.gatherer()
    facts = gatherer.read_for_payslip(WINDOWS - 1)
    logs = {w: set(facts.windows[w].judgements()) for w in facts.windows}
    assert logs[0] == {hotkey_of("val-a")}
    assert logs[WINDOWS - 1] >= {hotkey_of("val-a"), hotkey_of("val-b")}
    in_full = played.slips(played.gatherer().read(0), "m1")[WINDOWS - 1]
    slip: Payslip = played.slips(facts, "m1")[WINDOWS - 1]
    assert slip.figure("credit") == in_full.figure("credit")


def test_a_second_reading_asks_only_for_what_is_not_there(played) -> None:
    keys: list[str] = []

    class Counting:
        def __init__(self, store) -> None:
            self._store = store

        def get(self, key: str, *, max_bytes: int) -> bytes:
            keys.append(key)
            return self._store.get(key, max_bytes=max_bytes)

        def size(self, key: str) -> int:
            return self._store.size(key)

    store = Counting(played.world.buckets[hotkey_of("val-a")].reader())
    gatherer = Gatherer(opening(played, {"val-a": store}), netuid=1, network="local")
    first = gatherer.read(0)
    verdicts = [key for key in keys if "/verdict/" in key]
    assert len(verdicts) == WINDOWS
    keys.clear()
    assert gatherer.read(0).windows == first.windows
    assert not [key for key in keys if "/verdict/" in key]


def test_no_secret_is_in_a_payslip(played, facts) -> None:
    secret = played.world.access(hotkey_of("m0")).access_key_id
    for name in ("m0", "val-a", "undelivered"):
        for slip in played.slips(facts, name).values():
            text = "\n".join(payslip_lines(slip))
            assert secret not in text
            assert not re.search(r"ro-[A-Za-z0-9]{6}", text)


def opening(played: Played, stores):
    """A reader to whom some buckets, by name, are others."""
    context = reader(played.world, played.folder / "reader")
    others = {hotkey_of(name): store for name, store in stores.items()}

    def opened(hotkey, access):
        return others[hotkey] if hotkey in others else context.open_bucket(hotkey, access)

    return replace(context, open_bucket=opened)


def hiding(played: Played, is_hidden) -> Any:
    """A reader for whom objects of some keys are not there."""

    class Hiding:
        def __init__(self, store) -> None:
            self._store = store

        def get(self, key: str, *, max_bytes: int) -> bytes:
            if is_hidden(key):
                raise NotFound(f"{key} does not exist")
            return self._store.get(key, max_bytes=max_bytes)

        def size(self, key: str) -> int:
            return self._store.size(key)

    context: Any = reader(played.world, played.folder / "reader")
    return replace(context, open_bucket=lambda h, _a: Hiding(played.world.buckets[h].reader()))
