"""A slowed miner: the pages of an honest miner, and idling in proportion to its own steps."""

from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localnet import slow_work
from localnet.buckets import new_identity
from localnet.commands import neuron_command
from localnet.config import LocalnetConfig
from localnet.roster import Participant
from localnet.slow_work import SlowedWork
from localnet.slowed import main
from template.base.miner import Miner
from template.training.inner import InnerTrainer
from template.training.inner_loop import InnerResult
from tests.support.localnet.behaving import BAD, Scene, make_scene

STEP_S = 2.0


class Watch:
    """In place of `time`: sleeping passes the time at once."""

    def __init__(self) -> None:
        self.now_s, self.slept_s = 0.0, 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.slept_s += seconds


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    found = Watch()
    monkeypatch.setattr(slow_work, "time", found)
    return found


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    made = make_scene(tmp_path)
    made.enter_window_1()
    return made


def miner(scene: Scene, name: str, speed: float) -> Miner:
    context = scene.world.context(BAD, scene.root / name)
    return Miner(context, work=partial(SlowedWork, speed=speed))


def train(slow: Miner, watch: Watch) -> InnerResult:
    """Window 1, with steps of `STEP_S`."""
    work = slow.work
    assert isinstance(work, SlowedWork)
    trainer = work.trainer
    assert isinstance(trainer, InnerTrainer)
    take_step = trainer.take_step

    def timed_step(batch: np.ndarray, lr: float) -> Any:
        watch.now_s += STEP_S
        return take_step(batch, lr)

    with pytest.MonkeyPatch.context() as patch, closing(work.starts(1)) as starts:
        patch.setattr(trainer, "take_step", timed_step)
        patch.setattr(trainer, "_now_s", watch.monotonic)
        return work.train(1, starts)


@pytest.mark.parametrize("speed", [1.0, 0.25, 0.1])
def test_steps_take_their_time_divided_by_the_speed(
    scene: Scene, watch: Watch, speed: float
) -> None:
    """And the idling is no part of the busy time, of which the utilisation is made."""
    result = train(miner(scene, "slow", speed), watch)
    assert result.steps == scene.world.spec.training.inner_steps
    assert result.busy_s == pytest.approx(result.steps * STEP_S)
    assert watch.now_s == pytest.approx(result.busy_s / speed)


def test_the_pages_are_those_of_honest_work(scene: Scene, watch: Watch) -> None:
    slow, honest = miner(scene, "slow", 0.1).work, scene.build("honest").work
    assert isinstance(slow, SlowedWork)
    for mine, other in zip(slow.batches(1), honest.batches(1), strict=True):
        assert np.array_equal(mine, other)


def test_idling_ends_with_the_miner_and_with_the_time_for_training(
    scene: Scene, watch: Watch
) -> None:
    stopped = miner(scene, "stopped", 0.01)
    stopped.stop(0.0)
    train(stopped, watch)
    late = miner(scene, "late", 0.01)
    spec = scene.world.spec
    scene.world.time.block = spec.schedule.schedule().commit_block(1 + spec.outer.max_staleness)
    train(late, watch)
    assert watch.slept_s == 0.0


def argv_of(participant: Participant, out: Path) -> list[str]:
    """The command line of a miner."""
    config = LocalnetConfig(
        roster=(), num_windows=1, out=out, plan=out, text=out, block_time_s=None,
        seed=0, debug=False, restarts=0, hold=False, wandb="off",
    )  # fmt: skip
    identity = new_identity("b")
    return list(
        neuron_command(
            config, participant, chain_url="ws://x", bucket_url="http://y", identity=identity
        ).argv
    )


def test_a_slow_miner_is_started_as_one(tmp_path: Path) -> None:
    honest = Participant(name="miner-0", role="miner")
    argvs = [argv_of(each, tmp_path) for each in (honest, replace(honest, speed=0.25))]
    assert argvs[0][2:4] == ["template.cli", "miner"]
    assert argvs[1][2:5] == ["localnet.slowed", "--speed", "0.25"]
    assert argvs[0][4:] == argvs[1][5:]


def test_a_miner_of_a_part_is_told_of_how_many(tmp_path: Path) -> None:
    argv = argv_of(Participant(name="miner-0", role="miner", parts=2), tmp_path)
    assert argv[argv.index("--neuron.parts") + 1] == "2"
    assert "--neuron.parts" not in argv_of(Participant(name="miner-0", role="miner"), tmp_path)


@pytest.mark.parametrize("argv", [[], ["--speed"], ["--speed", "2"], ["--speed", "x"]])
def test_a_wrong_speed_ends_for_an_operator(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert "--speed" in capsys.readouterr().err
