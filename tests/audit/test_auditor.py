"""An auditor beside a run: it finds nothing wrong in honest logs, and names what is forged."""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evaluation.verdict import MEASURED
from evaluation.verdict_log import LogError, WindowLog, decode_log, encode_log
from evaluation.work import HELD_OUT
from simulation.swarm import STAKES_TAO, build_world, honest, miner_with, run, to_the_end
from simulation.world import World, hotkey_of
from template.audit.auditor import Auditor
from template.audit.findings import Findings
from template.audit.logs import audit_windows, logs_in_bucket, logs_in_files
from template.audit.vote import different_digest
from template.errors import NotFound
from template.protocol.keys import payload_key
from template.protocol.record import decode_record, encode_record
from tests.support.archive import Archive
from tests.support.audited import (
    FORGED,
    WINDOWS,
    Ancient,
    Bench,
    Replay,
    Sharing,
    Twin,
    deaf,
    live,
    published,
    reader,
    with_loss,
    with_reputation,
    with_verdict,
)

SUBNET_OWNER = "subnet owner"
"""Not on uid 0, which a stranger holds here."""


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> tuple[World, list[Findings]]:
    """A run that has ended, and what was found while it went on."""
    world = build_world(
        {**STAKES_TAO, "ancient": 0, "replay": 0, "twin": 0, SUBNET_OWNER: 0},
        evaluation__claimed_pages=8,
        evaluation__work_effect=0.01,  # in words at random no page shows the work
        schedule__num_windows=WINDOWS,
        checkpoint__every_windows=2,
        weights__min_windows=2,
        training__inner_steps=3,
    )
    world.ledger.owner_hotkey = hotkey_of(SUBNET_OWNER)
    # Windows are audited long after retention lets validators forget them.
    archives = {hotkey: Archive() for hotkey in world.buckets if hotkey != hotkey_of("owner")}
    world.buckets |= archives
    drives = {
        **honest("val-a", "m1"),
        "val-b": deaf,
        "m0": to_the_end(miner_with(Sharing)),
        "ancient": to_the_end(miner_with(Ancient)),
        "replay": to_the_end(miner_with(Replay)),
        "twin": to_the_end(miner_with(Twin)),
        "owner": live,
    }
    nodes = run(world, drives, tmp_path_factory.mktemp("run"))
    for bucket in archives.values():
        bucket.is_closed = False
    return world, nodes["owner"]


@pytest.fixture(scope="module")
def world(ended) -> World:
    return ended[0]


@pytest.fixture(scope="module")
def bench(world, tmp_path_factory) -> Bench:
    return Bench(world, tmp_path_factory.mktemp("auditor"))


def test_the_run_has_what_the_forgers_need(bench) -> None:
    statuses = {v.hotkey: v.status for v in bench.honest.verdicts}
    assert statuses[hotkey_of("ancient")] == "stale"
    assert statuses[hotkey_of("replay")] == "overlap"
    assert {statuses[hotkey_of("m0")], statuses[hotkey_of("m1")]} <= set(MEASURED)
    assert encode_log(bench.resigned(bench.honest)) == encode_log(bench.honest)


@pytest.mark.parametrize("name", ["val-a", "val-b"])
def test_honest_logs_audit_clean_from_theta_0_on(world, name, tmp_path) -> None:
    context = reader(world, tmp_path)
    auditor = Auditor(context, hotkey_of(name), 1)
    source = logs_in_bucket(context, auditor.peers, hotkey_of(name))
    found = list(audit_windows(auditor, source, 0, WINDOWS - 1))
    assert [each.window for each in found] == list(range(WINDOWS))
    assert [line for each in found for line in each.wrong] == []
    logs = [decode_log(source(w).decode()) for w in range(WINDOWS)]
    assert [each.num_losses for each in found] == [
        log.ids_S.size
        + sum(map(len, log.measured.after_KQ.values()))
        + world.spec.evaluation.held_out_pages * (log.window > 0)
        for log in logs
    ]
    unknown = [line for each in found for line in each.unknown]
    unavailable = [v for log in logs for v in log.verdicts if v.status == "unavailable"]
    assert len(unknown) == len(unavailable) == (WINDOWS if name == "val-b" else 0)
    assert all("1 others name the payload" in line for line in unknown)


def test_an_audit_while_the_run_goes_on_finds_the_same(ended, tmp_path) -> None:
    world, found = ended
    assert [each.window for each in found] == list(range(WINDOWS))
    auditor = Auditor(reader(world, tmp_path), hotkey_of("val-a"), 1)
    assert found == list(
        audit_windows(auditor, logs_in_files(published(world, "val-a")), 0, WINDOWS - 1)
    )


Forge = Callable[[Bench], WindowLog]
FORGERIES: Mapping[str, tuple[Forge, str]] = {}


def forgery(expected: str) -> Callable[[Forge], Forge]:
    """Register a forger, and what has to be said of its work."""

    def register(forge: Forge) -> Forge:
        FORGERIES[forge.__name__] = (forge, expected)  # type: ignore[index]
        return forge

    return register


@forgery("uid {m0}: loss after its step on page {page5}, number 5 of the pool, is ")
def one_digit_of_a_loss(bench):
    return with_loss(bench, 1.1 * bench.world.spec.evaluation.loss_tolerance)


@forgery("window 3: loss at theta on page {page5}, number 5 of the pool, is ")
def one_digit_of_a_loss_before(bench):
    measured = bench.honest.measured
    before_SQ = measured.before_SQ.copy()
    before_SQ[5] -= 1e-3
    return bench.resigned(replace(bench.honest, measured=replace(measured, before_SQ=before_SQ)))


@forgery("window 3, uid {m1}: loss after its step")
def a_loss_that_is_infinite(bench):
    measured, uid = bench.honest.measured, bench.uid("m1")
    after_KQ = np.full_like(measured.after_KQ[uid], np.inf)
    after = {**measured.after_KQ, uid: after_KQ}
    return bench.resigned(replace(bench.honest, measured=replace(measured, after_KQ=after)))


@forgery("window 3, seed is ")
def the_seed(bench):
    return replace(bench.honest, seed="00" * 32)


@forgery("page 7 of the pool: its id is {page7}, the log says 0")
def a_page_id(bench):
    ids_S = bench.honest.ids_S.copy()
    ids_S[7] = 0
    return replace(bench.honest, ids_S=ids_S)


@forgery("of the pool: its owner is uid {m0}, the log says uid {m1}")
def an_owner(bench):
    """Numbers of pages stay, or the log would not be read at all."""
    owners_S = bench.honest.measured.owners_S.copy()
    first, second = (np.flatnonzero(owners_S == bench.uid(name))[0] for name in ("m0", "m1"))
    owners_S[[first, second]] = owners_S[[second, first]]
    measured = replace(bench.honest.measured, owners_S=owners_S)
    return bench.resigned(replace(bench.honest, measured=measured))


@forgery("the pool has {pool} pages, the log says {pool_less}")
def a_page_left_out(bench):
    measured = bench.honest.measured
    last = measured.owners_S[-1]
    after = {u: a[:-1] if u == last else a for u, a in measured.after_KQ.items()}
    shorter = replace(
        measured,
        owners_S=measured.owners_S[:-1],
        before_SQ=measured.before_SQ[:-1],
        after_KQ=after,
    )
    return bench.resigned(replace(bench.honest, ids_S=bench.honest.ids_S[:-1], measured=shorter))


@forgery("window 3, {m0_hotkey}: reputation is ")
def a_test_state(bench):
    work = bench.honest.reputations[hotkey_of("m0")].evidence.work
    return with_reputation(bench, "m0", holds=not work.holds)


@forgery("window 3, {m0_hotkey}: reputation is ")
def a_rating(bench):
    mu = bench.honest.reputations[hotkey_of("m0")].rating.mu
    return with_reputation(bench, "m0", mu=np.nextafter(mu, 100.0).item())


@forgery("window 3, uid {m0}: weight is ")
def a_weight(bench):
    shares = {**bench.honest.shares, bench.uid("m0"): 0.123}
    return replace(bench.honest, shares=shares)


@forgery("window 3, {m0_hotkey}: its uid is {m0}, the log says 0")
def a_uid(bench):
    return bench.resigned(replace(bench.honest, uids={**bench.honest.uids, hotkey_of("m0"): 0}))


@forgery("window 3: the burn uid, that of the subnet owner's hotkey, is {owner}, the log says 0")
def a_burn_uid(bench):
    return bench.resigned(replace(bench.honest, burn_uid=0))


@forgery("window 3: the burn uid, that of the subnet owner's hotkey, is {owner}, the log says None")
def no_burn_uid(bench):
    return bench.resigned(replace(bench.honest, burn_uid=None))


@forgery("window 3, uid 0: weight is None, the log says ")
def a_stranger_paid_what_is_burned(bench):
    shares = dict(bench.honest.shares)
    return replace(bench.honest, shares={**shares, 0: shares.pop(bench.uid(SUBNET_OWNER))})


@forgery("window 3, uid {m0}: status is {m0_status}, the log says no_gain")
def a_decision(bench):
    return with_verdict(bench, "m0", status="no_gain")


@forgery("window 3, uid {ancient}: status is stale, the log says norm")
def a_reason(bench):
    return bench.resigned(with_verdict(bench, "ancient", status="norm"))


@forgery("window 3, uid {ancient}: reason is 'stale: base window 0 is too old for 3', the log ")
def words(bench):
    return with_verdict(bench, "ancient", detail="stale: because")


@forgery("window 3, uid {m0}: reason is none, the log says 'useless'")
def more_words(bench):
    return with_verdict(bench, "m0", detail="useless")


@forgery("window 3, uid {ancient}: claims of a payload not opened is None, the log says ")
def what_was_not_opened(bench):
    return with_verdict(bench, "ancient", pages_consumed=12)


@forgery("window 3, windows known is of windows before, the log says [3]")
def knowledge(bench):
    return replace(bench.honest, known=(*bench.honest.known, FORGED))


@forgery("window 3, uid {replay}: status is overlap, the log says norm")
def another_reason(bench):
    return bench.resigned(with_verdict(bench, "replay", status="norm"))


@forgery("window 3, uid {m0}: status is no refusal, the log says overlap")
def a_refusal(bench):
    return bench.resigned(unmeasured(bench, "overlap"))


@forgery("window 3, uid {m0}: owns pages, but no payload to claim them")
def a_delivery(bench):
    return bench.resigned(unmeasured(bench, "not_delivered"))


def unmeasured(bench: Bench, status: str) -> WindowLog:
    """m0 refused: its losses are gone, its pages are not."""
    log, uid = with_verdict(bench, "m0", status=status), bench.uid("m0")
    blank: dict[str, Any] = {
        "pages_consumed": None,
        "base_window": None,
        "alike": (),
    }
    changed = replace(bench.verdict("m0"), status=status, **blank)
    verdicts = tuple(changed if v.uid == uid else v for v in log.verdicts)
    after = {u: losses_S for u, losses_S in log.measured.after_KQ.items() if u != uid}
    return replace(log, verdicts=verdicts, measured=replace(log.measured, after_KQ=after))


@forgery("window 3, uid {ancient}: status is stale, the log says no_gain")
def a_refused_payload_paid(bench):
    uid, measured = bench.uid("ancient"), bench.honest.measured
    claims: dict[str, Any] = {"pages_consumed": 12, "base_window": FORGED}
    log = with_verdict(bench, "ancient", **claims)
    after = {**measured.after_KQ, uid: measured.before_SQ[measured.owners_S == HELD_OUT] + 1e-4}
    return bench.resigned(replace(log, measured=replace(measured, after_KQ=after)))


@forgery("window 3, uid {m0}: pages_consumed is 12, the log says 11")
def a_claim(bench):
    return bench.resigned(with_verdict(bench, "m0", pages_consumed=11))


@forgery("window 3, uid {m0}: width is 1, the log says 2")
def a_width(bench):
    return bench.resigned(with_verdict(bench, "m0", width=2))


@forgery("window 3, uid {m0}: part of the model is the whole model, the log says part 1 of 2")
def a_part(bench):
    return bench.resigned(with_verdict(bench, "m0", part=1, parts=2, model_share=0.5))


@forgery("uid {m0}: part of the model is range: the model cut into 2 parts; this run allows 1, ")
def a_part_that_no_run_has(bench):
    return bench.resigned(with_verdict(bench, "m0", parts=2))


@forgery("window 3, uid {m0}: model_share is 1.0, the log says 0.5")
def a_share_of_the_model(bench):
    return bench.resigned(with_verdict(bench, "m0", model_share=0.5))


@forgery("window 3, uid {ancient}: width and part of a payload not opened is (1, 0, 1, 1.0), the ")
def a_width_of_what_was_not_opened(bench):
    return bench.resigned(with_verdict(bench, "ancient", width=2))


@forgery("window 3, uid {m1}: status is no refusal, the log says claimed")
def a_list_said_to_be_claimed_before(bench):
    return with_verdict(bench, "m1", status="claimed", detail="as before")


@forgery("window 3, uid {m0}: uids alike is [{twin}], the log says []")
def an_overlap_left_out(bench):
    return bench.resigned(with_verdict(bench, "m0", alike=()))


@forgery("window 3, uid {m1}: uids alike is [], the log says [{m0}]")
def an_overlap_made_up(bench):
    return bench.resigned(with_verdict(bench, "m1", alike=(bench.uid("m0"),)))


@forgery("window 3, uid {ancient}: claims of a payload not opened is None, the log says ")
def an_overlap_of_what_was_not_opened(bench):
    return with_verdict(bench, "ancient", alike=(bench.uid("m0"),))


@forgery("window 3, uid {m0}: payload committed is ")
def a_digest(bench):
    return bench.resigned(with_verdict(bench, "m0", digest="ab" * 32))


@forgery("window 3, uid {ancient}: payload committed is (")
def a_miner_left_out(bench):
    verdicts = tuple(v for v in bench.honest.verdicts if v.uid != bench.uid("ancient"))
    return bench.resigned(replace(bench.honest, verdicts=verdicts))


@forgery("window 3, uid 2: payload committed is None, the log says ('stranger', ")
def a_miner_made_up(bench):
    stranger = replace(bench.verdict("ancient"), uid=2, hotkey="stranger", status="norm")
    verdicts = tuple(sorted((*bench.honest.verdicts, stranger), key=lambda v: v.uid))
    return bench.resigned(replace(bench.honest, verdicts=verdicts))


@forgery("window 3, vote: uids not named by the log [], the vote says [")
def anothers_log(bench):
    return decode_log(published(bench.world, "val-b")[FORGED].decode())


@forgery("window 3, window of the log is 3, the log says 2")
def another_windows_log(bench):
    return bench.logs[2]


@pytest.mark.parametrize("name", list(FORGERIES))
def test_a_forgery_is_named(bench, name) -> None:
    forge, expected = FORGERIES[name]
    facts = {each: bench.uid(each) for each in ("m0", "m1", "ancient", "replay", "twin")}
    facts |= {f"page{index}": bench.honest.ids_S[index] for index in (5, 7)}
    facts |= {"pool": bench.honest.ids_S.size, "pool_less": bench.honest.ids_S.size - 1}
    facts |= {"owner": bench.uid(SUBNET_OWNER)}
    facts |= {"m0_hotkey": hotkey_of("m0"), "m0_status": bench.verdict("m0").status}
    found = bench.audit(forge(bench))
    assert any(expected.format(**facts) in line for line in found.wrong), found


def test_what_is_not_forged_is_not_named(bench) -> None:
    """From a published checkpoint on, a loss within the tolerance among the rest."""
    assert bench.audit(bench.honest).wrong == []
    tolerance = bench.world.spec.evaluation.loss_tolerance
    found = bench.audit(with_loss(bench, 0.9 * tolerance))
    (line,) = found.wrong
    assert "these are not the bytes that it voted with" in line
    assert found.worst == pytest.approx(0.9 * tolerance, rel=1e-6)


def test_unsigned_again_a_digit_within_the_tolerance_is_named_too(bench) -> None:
    forged = with_loss(bench, 1e-9).measured
    found = bench.audit(replace(bench.honest, measured=forged))
    assert any(f"uid {bench.uid('m0')}: gain is " in line for line in found.wrong)


@contextmanager
def deleted(world: World, digest: str):
    """A payload that no bucket has, for a while."""
    key = payload_key(world.spec.run_id, FORGED, bytes.fromhex(digest))
    kept = {}
    for hotkey, bucket in world.buckets.items():
        with suppress(NotFound):
            kept[hotkey] = bucket.get(key, max_bytes=2**24)
            bucket.delete(key)
    assert kept
    yield
    for hotkey, data in kept.items():
        world.buckets[hotkey].put(key, data)


def test_a_payload_that_is_gone_is_said_and_excuses_no_other(bench) -> None:
    m0, m1 = bench.uid("m0"), bench.uid("m1")
    with deleted(bench.world, bench.verdict("m1").digest):
        found, forged = bench.audit(bench.honest), bench.audit(one_digit_of_a_loss_before(bench))
        claim = bench.audit(bench.resigned(with_verdict(bench, "m1", pages_consumed=1)))
    assert found.wrong == []
    assert any(f"uid {m1}: its payload (" in line for line in found.unknown)
    assert any(f"uid {m1}: its losses were not computed again" in line for line in found.unknown)
    assert any("loss at theta" in line for line in forged.wrong)
    assert any(f"uid {m1}: a payload with these claims" in line for line in claim.wrong)
    assert not any(f"uid {m0}" in line for line in found.wrong)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"kind": "window"}'])
def test_junk_in_the_place_of_a_log_is_named(bench, data) -> None:
    (line,) = bench.audit(data).wrong
    assert line.startswith("window 3, the object at its log's key is no log")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hotkey", ["a"]),
        ("status", None),
        ("pages_consumed", "many"),
        ("base_window", 1.5),
        ("relative_gain", 1e300),
        ("relative_gain", float("nan")),
        ("work_variance", 0.0),
        ("work_effect", 5.0),
        ("gain", float("inf")),
        ("uid", True),
    ],
)
def test_values_that_no_validator_finds_are_no_log(bench, name, value) -> None:
    rows = [json.loads(line) for line in encode_log(bench.honest).splitlines()]
    next(row for row in rows if row["kind"] == "verdict")[name] = value
    with pytest.raises(LogError):
        decode_log("".join(json.dumps(row) + "\n" for row in rows))


def test_a_log_that_is_missing_is_said(bench) -> None:
    auditor = Auditor(reader(bench.world, bench.folder), hotkey_of("val-a"), FORGED + 1)
    (found,) = audit_windows(auditor, logs_in_files({}), FORGED, FORGED)
    assert (found.wrong, found.num_losses) == ([], 0)
    assert "window 3, its log cannot be fetched" in found.unknown[0]


def test_the_digest_names_other_bytes() -> None:
    data = b"a log"
    digest = hashlib.sha256(data).digest()[:16]
    assert different_digest(3, data, digest) == []
    (line,) = different_digest(3, data + b" ", digest)
    assert line.startswith("window 3: the log's digest is ")
    assert digest.hex() in line


def test_a_vote_may_leave_out_a_late_upload_and_name_no_other(bench) -> None:
    _, values = bench.world.ledger.commitments[hotkey_of("val-a")]
    place, record = next(
        (place, record)
        for place, data in enumerate(values)
        if (record := decode_record(data)).vote is not None and record.vote.window == FORGED
    )
    assert record.vote is not None
    named, before = record.vote.uids, values[place]
    assert named
    stranger = max(named) + 1
    try:
        for uids, is_wrong in ((named - {min(named)}, False), (named | {stranger}, True)):
            values[place] = encode_record(replace(record, vote=replace(record.vote, uids=uids)))
            found = bench.audit(bench.honest)
            assert any("not named by the log" in line for line in found.wrong) == is_wrong
            assert any("uploads were late" in line for line in found.unknown) != is_wrong
    finally:
        values[place] = before
