"""The one line in which a miner tells what became of a window."""

import logging
import re
from dataclasses import replace

import pytest

from evaluation.verdict_log import decode_log
from localnet.adversaries.catalogue import BEHAVIOURS
from simulation.swarm import TINY, build_world, honest, metrics, run, to_the_end, uid_of
from simulation.world import hotkey_of
from template.base.pending import PendingPayload, PendingPayloads
from template.base.told import PATIENCE_WINDOWS, Teller
from template.errors import NotFound
from template.peers.client import Peers
from template.protocol.keys import verdict_key
from template.protocol.quorum import Decision

STAKES_TAO = {"owner": 0, "val-a": 1000, "val-b": 900, "m0": 0, "m1": 0, "oversized": 0}
WINDOWS = 5
LINE = re.compile(r"window (\d+): 1 steps, loss [\d.]+, uploaded \d+ bytes; (.*)")


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _play(folder, **overrides: object):
    """A world, its nodes, and every line told by its miners."""
    heard, logger = Lines(), logging.getLogger("template.base.told")
    level = logger.level
    logger.addHandler(heard)
    logger.setLevel(logging.INFO)
    try:
        world = build_world(STAKES_TAO, **{**TINY, "schedule__num_windows": WINDOWS, **overrides})
        drives = honest("val-a", "val-b", "m0", "m1")
        drives["oversized"] = to_the_end(BEHAVIOURS["oversized"].build)
        nodes = run(world, drives, folder)
    finally:
        logger.removeHandler(heard)
        logger.setLevel(level)
    return world, nodes, heard.lines


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    return _play(tmp_path_factory.mktemp("told"))


def test_under_duels_the_outcome_is_told_at_once_and_the_logs_later(tmp_path) -> None:
    world, nodes, lines = _play(tmp_path, weights__duel_share=0.25, schedule__tempo_blocks=16)
    first = [line for line in lines if LINE.match(line)]
    assert len(first) == 3 * WINDOWS
    late = [line for line in first if "share of the pay" not in line]
    assert len(late) >= 3 * (WINDOWS - 1), "only the last window's logs are public at once"
    assert all("the verdict logs come after the votes on window" in line for line in late)
    assert all("% of the voting stake" in line for line in first)
    second = [line for line in lines if "by the verdict logs: " in line]
    assert {int(line.split()[1].rstrip(",")) for line in second} >= {0, 1, 2}
    assert all("share of the pay" in line for line in second)
    order = [
        lines.index(next(x for x in group if x.startswith("window 0"))) for group in (late, second)
    ]
    assert order[0] < order[1]
    seen = metrics(nodes["m0"])
    for window, (status, share) in statuses(world, "m0").items():
        assert seen.series("own_status")[window] == status
        assert seen.series("own_share")[window] == pytest.approx(share)


def statuses(world, name: str) -> dict[int, tuple[str, float]]:
    """window -> status and share, by val-a's logs."""
    bucket, uid = world.buckets[hotkey_of("val-a")], uid_of(world, name)
    found = {}
    for window in range(WINDOWS):
        data = bucket.get(verdict_key(world.spec.run_id, window), max_bytes=2**24)
        log = decode_log(data.decode())
        status = next(v.status for v in log.verdicts if v.uid == uid)
        found[window] = status, log.shares.get(uid, 0.0)
    return found


def test_every_window_has_one_line_with_work_outcome_and_pay(played) -> None:
    _, _, lines = played
    told = [LINE.match(line) for line in lines]
    windows = [int(match[1]) for match in told if match]
    assert sorted(windows) == sorted(3 * list(range(WINDOWS))), "one line of each miner"
    assert all("% of the voting stake" in line and "share of the pay" in line for line in lines)


@pytest.mark.parametrize("name", ["m0", "m1"])
def test_the_reason_and_the_share_are_those_of_the_logs(played, name) -> None:
    world, nodes, lines = played
    seen = metrics(nodes[name])
    for window, (status, share) in statuses(world, name).items():
        assert seen.series("own_status")[window] == status
        assert seen.series("own_share")[window] == pytest.approx(share)
        assert seen.series("own_accepted")[window] == int(status == "named")
        accepted = status == "named"
        words = f"share of the pay {100 * share:.1f} % by 2 logs"
        outcome = "; accepted, gain" if accepted else f"; not accepted: {status}"
        of_window = [line for line in lines if line.startswith(f"window {window}: 1 steps")]
        assert any(outcome in line and words in line for line in of_window)


def test_a_refused_payload_is_told_why(played) -> None:
    _, _, lines = played
    refused = [line for line in lines if "too_large" in line]
    assert len(refused) == WINDOWS
    assert all("not accepted: too_large (" in line for line in refused)
    assert all("named by 0 % of the voting stake" in line for line in refused)


def teller_of(world, folder, is_hidden):
    """A teller of m0 in the finished world, for whom some objects are not there."""
    context = world.context(hotkey_of("m0"), folder)

    class Hiding:
        def __init__(self, store) -> None:
            self._store = store

        def get(self, key: str, *, max_bytes: int) -> bytes:
            if is_hidden(key):
                raise NotFound(f"{key} does not exist")
            return self._store.get(key, max_bytes=max_bytes)

    opened = replace(context, open_bucket=lambda h, _a: Hiding(world.buckets[h].reader()))
    return Teller(opened, Peers(opened)), opened


def decided(world, window: int) -> tuple[Decision, PendingPayloads]:
    """An empty decision, and a payload of m0 as it stood on chain."""
    digest = next(
        v.digest
        for v in decode_log(
            world.buckets[hotkey_of("val-a")]
            .get(verdict_key(world.spec.run_id, window), max_bytes=2**24)
            .decode()
        ).verdicts
        if v.uid == uid_of(world, "m0")
    )
    key = f"{world.spec.run_id.hex()}/payload/{window:08d}/{digest}"
    frame = world.buckets[hotkey_of("m0")].get(key, max_bytes=2**24)
    decision = Decision(
        window=window, members=(), namers={}, root=None, sample_digest=None, dissenters=(),
        undelivered=(), voting_stake_rao=0, reference_rao=0, no_op="",
    )  # fmt: skip
    return decision, PendingPayloads([PendingPayload(window=window, frame=frame)])


def test_a_line_waits_for_a_log_and_not_for_ever(played, tmp_path, caplog) -> None:
    """Logs may be published some windows late; what the votes say is told in the end."""
    world, _, _ = played
    hidden = {"yes": True}
    teller, context = teller_of(world, tmp_path, lambda key: hidden["yes"] and "/verdict/" in key)
    first = context.schedule.first_block(3)
    try:
        with caplog.at_level(logging.INFO, logger="template.base.told"):
            block, world.time.block = world.time.block, first
            teller.note_decision(*decided(world, 2))
            assert not teller.tell_due()
            assert caplog.messages == []
            world.time.block = first + (PATIENCE_WINDOWS + 1) * context.schedule.blocks_per_window
            assert teller.tell_due()
            assert "not accepted, no verdict log says why yet" in caplog.messages[0]
            assert "% of the voting stake" in caplog.messages[0]
            teller.note_decision(*decided(world, 2))
            hidden["yes"] = False
            assert teller.tell_due()
            assert "share of the pay" in caplog.messages[1]
    finally:
        world.time.block = block


def test_a_lie_in_place_of_a_log_is_not_told(played, tmp_path, caplog) -> None:
    """Bytes without the digest of the vote are nobody's word."""
    world, _, _ = played
    context = world.context(hotkey_of("m0"), tmp_path)

    class Lying:
        def get(self, key: str, *, max_bytes: int) -> bytes:
            data = world.buckets[hotkey_of("val-a")].get(key, max_bytes=max_bytes)
            return data.replace(b'"shares": {', b'"shares":  {')

    context = replace(context, open_bucket=lambda _h, _a: Lying())
    teller = Teller(context, Peers(context))
    teller.note_decision(*decided(world, 2))
    with caplog.at_level(logging.INFO, logger="template.base.told"):
        teller.tell_rest()
    assert "no verdict log says why yet" in caplog.messages[0]
