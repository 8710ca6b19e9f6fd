"""Measured figures against needs: each judgement on both sides of its bound."""

import pytest

from template.chain import WeightTimes
from template.doctor.judge import (
    Bytes,
    ChainSeen,
    LineNeed,
    StepSeen,
    describe_weights,
    judge_balance,
    judge_chain,
    judge_clock,
    judge_disk,
    judge_line,
    judge_memory,
    judge_step,
    judge_version,
)

GB = 1e9


@pytest.mark.parametrize(
    ("ahead_s", "state"),
    [
        (0, "ok"),
        (59, "ok"),
        (119, "ok"),
        (121, "warn"),
        (301, "fail"),
        (-61, "warn"),
        (-301, "fail"),
    ],
)
def test_clock(ahead_s: float, state: str) -> None:
    found = judge_clock(ahead_s, age_limit_s=120.0)
    assert found.state == state
    assert found.figures["clock_ahead_s"] == ahead_s
    side = "ahead of" if ahead_s > 0 else "behind"
    assert state == "ok" or f"{abs(ahead_s)} s {side} the newest block" in found.remedy


def seen_chain(*, read_s: float = 0.1, rose: bool = True) -> ChainSeen:
    return ChainSeen(
        where="wss://a", head=70, final_lag=3, read_s=read_s, block_s=12, rose=rose, watched_s=36
    )


def test_chain() -> None:
    assert judge_chain(seen_chain()).state == "ok"
    slow = judge_chain(seen_chain(read_s=5.1))
    assert (slow.state, "5.1 s for one read" in slow.remedy) == ("warn", True)
    still = judge_chain(seen_chain(rose=False))
    assert (still.state, "block 70 for 36 s" in still.remedy) == ("fail", True)


@pytest.mark.parametrize(
    ("free", "is_registered", "state"),
    [(10, False, "fail"), (11, False, "ok"), (0, True, "ok")],
)
def test_balance(free: int, is_registered: bool, state: str) -> None:
    found = judge_balance(free * 10**9, 10 * 10**9, is_registered=is_registered, coldkey="5C")
    assert found.state == state
    assert found.figures == {"free_tao": free, "registration_cost_tao": 10}


def test_version() -> None:
    assert judge_version(1000, 1000, role="validator", version="0.1.0").state == "ok"
    for role, state in (("validator", "fail"), ("miner", "warn")):
        found = judge_version(1000, 2_003_004, role=role, version="0.1.0")
        assert found.state == state
        assert "demands 2.3.4 (weights_version 2003004)" in found.remedy


@pytest.mark.parametrize(
    ("reveal_epochs", "lag_blocks", "words"),
    [
        (0, 0, "commit-reveal is off: a row counts in the next epoch"),
        (1, 360, "on: a row counts 1 epoch after it was set, 360 blocks of 12 s or 72 minutes"),
        (3, 1080, "on: a row counts 3 epochs after it was set, 1080 blocks of 12 s or 216 minutes"),
    ],
)
def test_weights_are_described_and_never_a_fault(
    reveal_epochs: int, lag_blocks: int, words: str
) -> None:
    times = WeightTimes(rate_limit_blocks=100, cutoff_blocks=5000, reveal_epochs=reveal_epochs)
    found = describe_weights(times, 360, 12.0)
    assert (found.state, found.figures["lag_blocks"]) == ("ok", lag_blocks)
    assert words in found.said
    assert "a row every 100 blocks and counts it for 5000" in found.said


def test_line() -> None:
    need = LineNeed(up_mbps=10, down_mbps=20, what="a payload")
    assert judge_line(10, 20, need).state == "ok"
    for up, down, words in ((9.9, 20, "9.9 Mb/s up, 10.0 needed"), (10, 19, "19.0 Mb/s down")):
        found = judge_line(up, down, need)
        assert (found.state, words in found.remedy) == ("fail", True)
    both = judge_line(1, 1, need)
    assert "up, 10.0 needed and 1.0 Mb/s down, 20.0 needed" in both.remedy


def test_disk() -> None:
    assert judge_disk(6 * GB, 4 * GB, 10 * GB, "/x").state == "ok"
    found = judge_disk(6 * GB, 3 * GB, 10 * GB, "/x")
    assert found.state == "fail"
    assert "needs 10.00 GB, and the file system of /x has 6.00 GB free" in found.remedy


def sizes(total: float, free: float, needed: float) -> Bytes:
    return Bytes(total=total * GB, free=free * GB, needed=needed * GB)


@pytest.mark.parametrize(
    ("host", "device", "state", "words"),
    [
        (sizes(16, 8, 8), None, "ok", ""),
        (sizes(16, 7, 8), None, "warn", "7.0 GB of the machine's memory are free, 8.0 needed"),
        (sizes(7, 7, 8), None, "fail", "has 7.0 GB of memory, and the plan needs 8.0"),
        (sizes(16, 8, 8), sizes(24, 20, 20), "ok", ""),
        (sizes(16, 8, 8), sizes(24, 19, 20), "warn", "19.0 GB of the device's memory"),
        (sizes(16, 8, 8), sizes(19, 19, 20), "fail", "the device has 19.0 GB"),
    ],
)
def test_memory(host: Bytes, device: Bytes | None, state: str, words: str) -> None:
    found = judge_memory(host, device)
    assert found.state == state
    assert words in found.remedy
    assert ("device_gb" in found.figures) == (device is not None)


@pytest.mark.parametrize(
    ("step_s", "state", "words"),
    [(1.0, "ok", ""), (2.0, "warn", "does 50% of them"), (101.0, "fail", "--neuron.windows")],
)
def test_step(step_s: float, state: str, words: str) -> None:
    """A window of 100 s with 100 steps; a payload counts from one step on."""
    seen = StepSeen(step_s=step_s, steps=100, least=0.01, window_s=100, tokens_per_s=9, mfu=None)
    found = judge_step(seen)
    assert found.state == state
    assert words in found.remedy
    assert found.figures["steps_share"] == pytest.approx(1 / step_s, abs=1e-3)
