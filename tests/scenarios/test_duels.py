"""Duels in a swarm: the same weights from every validator that scores, and logs that come late."""

import logging
import re
from pathlib import Path

import pytest

from evaluation.verdict_log import decode_log
from simulation.swarm import FOUR, STAKES_TAO, TINY, build_world, honest, run, to_the_end, uid_of
from simulation.world import World, hotkey_of
from template.base.log_publisher import public_from
from template.base.policy import ValidatorPolicy
from template.base.validator import Validator
from template.protocol.keys import verdict_key
from template.protocol.run import Run
from template.store.memory import MemoryStore

NUM_WINDOWS = 9
MINERS = ("m0", "m1", "m2", "m3")


class TimedStore(MemoryStore):
    """Keeps the block at which each key was first put."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.first_put: dict[str, int] = {}

    def put(self, key: str, data: bytes) -> None:
        super().put(key, data)
        self.first_put.setdefault(key, self._world.time.block)


def _played(folder: Path, duel_share: float) -> tuple[World, dict[str, TimedStore]]:
    names = {**STAKES_TAO, "m2": 0, "m3": 0}
    world = build_world(
        names,
        **{**TINY, "schedule__tempo_blocks": 31},
        schedule__num_windows=NUM_WINDOWS,
        weights__duel_share=duel_share,
        weights__min_windows=2,
    )
    stores = {name: TimedStore(world) for name in ("val-a", "val-b")}
    world.buckets |= {hotkey_of(name): store for name, store in stores.items()}
    run(world, honest(*FOUR, "m2", "m3"), folder)
    return world, stores


def _rows(world: World, name: str) -> list[dict[int, float]]:
    return world.ledger.weights[hotkey_of(name)]


def test_validators_set_the_weights_of_the_same_windows_and_keep_logs_back(tmp_path: Path) -> None:
    world, stores = _played(tmp_path, 0.5)
    schedule, spec = world.spec.schedule.schedule(), world.spec
    assert spec.schedule.period_windows == 2
    pay_windows = [w for w in range(NUM_WINDOWS) if spec.schedule.pay_window(w) == w]
    assert pay_windows == [1, 3, 5, 7, 8]
    rows = _rows(world, "val-a")
    assert len(rows) == len(pay_windows)
    assert rows == _rows(world, "val-b")
    for name, store in stores.items():
        for window in range(NUM_WINDOWS):
            key = verdict_key(spec.run_id, window)
            public = public_from(Run(spec), window)
            # Not before the votes on that window can be out, and after those on it at the latest.
            earliest, latest = schedule.held_out_block(public), schedule.vote_block(public)
            assert earliest <= store.first_put[key] <= latest + 1, (name, window)
            shares = decode_log(store.get(key, max_bytes=1 << 24).decode()).shares
            if window in pay_windows:
                assert shares == rows[pay_windows.index(window)]


def test_duels_move_pay_between_miners_and_change_no_sum(tmp_path: Path) -> None:
    moved, _ = _played(tmp_path / "duels", 0.5)
    plain, stores = _played(tmp_path / "plain", 0.0)
    # The last window of the run ends no period, and has no duels.
    with_duels, without = _rows(moved, "val-a")[-2], _rows(plain, "val-a")[-2]
    assert _rows(moved, "val-a")[-1] == pytest.approx(_rows(plain, "val-a")[-1])
    miners = [uid_of(plain, name) for name in MINERS]
    assert all(with_duels[uid] > 0 for uid in miners)
    assert sum(with_duels.values()) == pytest.approx(1.0)
    assert sum(without.values()) == pytest.approx(1.0)
    differences = [abs(with_duels[uid] - without[uid]) for uid in miners]
    assert max(differences) > 0.2 * max(without[uid] for uid in miners)
    # Without duels a log is public at once.
    schedule = plain.spec.schedule.schedule()
    for window in range(NUM_WINDOWS):
        put = stores["val-a"].first_put[verdict_key(plain.spec.run_id, window)]
        assert put <= schedule.vote_block(window) + 1


class _Stubborn(ValidatorPolicy):
    """Sets no weights before window 4, as after an absence."""

    def may_set_weights(self, memory, window: int) -> bool:
        return window >= 4


def test_a_validator_that_missed_a_pay_window_sets_the_next_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = build_world(
        STAKES_TAO, **{**TINY, "schedule__tempo_blocks": 31}, schedule__num_windows=NUM_WINDOWS
    )
    stubborn = to_the_end(lambda context: Validator(context, policy=_Stubborn()))
    with caplog.at_level(logging.INFO):
        run(world, {**honest(*FOUR), "val-b": stubborn}, tmp_path)
    assert len(_rows(world, "val-b")) == 3
    assert _rows(world, "val-b") == _rows(world, "val-a")[-3:]
    told = [m for m in map(str, caplog.messages) if "no weights set" in m]
    assert len(told) == 4  # windows 1 to 4: the row of a missed window stays due until the next
    assert all(re.search(r"scored \d+ of the \d+ windows needed", m) for m in told)
