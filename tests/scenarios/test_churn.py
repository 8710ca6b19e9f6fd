"""Churn: of 72 hotkeys 24 take part at a time, and a quarter of these changes every 10 windows.

The model does not suffer: all that live hold the same bits, the loss is that of a swarm in which
nobody comes or goes, who comes late is soon accepted, and who restarts has lost nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from simulation.swarm import TINY, Drive, accepted, build_world, digests, metrics, run, uid_of
from simulation.world import World
from template.base.miner import Miner
from template.base.supervisor import supervise
from template.base.validator import Validator
from template.base.work import HonestWork
from template.context import NodeContext
from template.protocol.root import tensors_digest
from template.sync.own_checkpoint import own_checkpoint_path
from template.training.checkpoint import load_local

WINDOWS, EVERY_WINDOWS = 30, 10
NUM_HOTKEYS, NUM_ACTIVE, NUM_REPLACED = 72, 24, 6
PEERS_PER_STEP = 20
VALIDATORS = {"val-a": 400, "val-b": 350, "val-c": 300}
MINERS = [f"m{i}" for i in range(NUM_HOTKEYS - len(VALIDATORS) - 1)]
STAKES_TAO = {"owner": 0, **VALIDATORS, **dict.fromkeys(MINERS, 0)}
RESTARTS, RESTARTS_IN = "m20", 12
MAX_LOSS_RATIO, MIN_GAIN_RATIO = 1.02, 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Stay:
    """The windows in which a hotkey has a node: from the one until before the other."""

    first: int = 0
    end: int = WINDOWS


def stays(num_windows: int) -> dict[str, Stay]:
    """Who comes and goes when: those who have been there longest go first, and one validator with
    the first of them. No name comes twice.
    """
    waiting = iter(MINERS)
    active = dict.fromkeys(["val-a", "val-b", *(next(waiting) for _ in range(22))], 0)
    found, order = {}, ["val-b", *MINERS]
    for window in range(EVERY_WINDOWS, num_windows, EVERY_WINDOWS):
        leaving = [name for name in order if name in active][:NUM_REPLACED]
        for name in leaving:
            found[name] = Stay(first=active.pop(name), end=window)
            active["val-c" if name == "val-b" else next(waiting)] = window
    return found | {name: Stay(first=first) for name, first in active.items()}


@dataclass(kw_only=True)
class Diary:
    """Windows in which nodes finished their downloads, and restarts, by the nodes' own notes."""

    downloaded: dict[str, int] = field(default_factory=dict)
    restarted: list[str] = field(default_factory=list)


class Killed(BaseException):
    """A process that ends here and now."""


def _staying(name: str, stay: Stay, diary: Diary) -> Drive:
    """A node for as long as it stays; None if it left."""
    kind = Validator if name in VALIDATORS else Miner

    def drive(world: World, context: NodeContext) -> object | None:
        schedule = context.schedule
        if stay.first:
            context.waiter.until_head(schedule.first_block(stay.first))
        node = kind(context)
        diary.downloaded[name] = schedule.window_of(context.chain.head())

        def step() -> bool:
            if node.follower.next_window >= stay.end - 1 and stay.end < WINDOWS:
                raise Killed
            return node.step()

        def step_to_restart() -> bool:
            if node.follower.next_window == RESTARTS_IN:
                raise Killed
            return step()

        try:
            if name == RESTARTS and stay.end == WINDOWS:
                with pytest.raises(Killed):
                    supervise(step_to_restart, max_failures=1)
                before, node = node, kind(world.context(context.hotkey, context.state_dir))
                assert isinstance(before, Miner)
                assert isinstance(node, Miner)
                _assert_same_memory(before, node)
                diary.restarted.append(name)
            supervise(step, max_failures=1)
        except Killed:
            return None
        return node

    return drive


def _assert_same_memory(before: Miner, after: Miner) -> None:
    """A restarted miner has the error feedback and the moments of its last save, bit for bit."""
    saved = load_local(own_checkpoint_path(before.context.state_dir), before.context.run.first)
    assert saved is not None
    assert isinstance(after.work, HonestWork)
    assert any(residual.any() for residual in after.work.feedback.tensors.values())
    assert tensors_digest(after.work.feedback.tensors) == tensors_digest(saved.groups["feedback"])
    assert saved.groups["moments"]
    assert tensors_digest(after.work.trainer.moments()) == tensors_digest(saved.groups["moments"])
    assert after.follower.state.root == saved.state.root


@dataclass(frozen=True, kw_only=True)
class Swarm:
    world: World
    nodes: Mapping[str, object]
    diary: Diary

    @property
    def final_loss(self) -> float:
        curve = metrics(self.nodes["val-a"]).series("held_out_loss")
        return float(curve[WINDOWS + 1])


def _swarm(who: Mapping[str, Stay], tmp_path: Path) -> Swarm:
    world = build_world(
        STAKES_TAO,
        **{
            **TINY,
            "training__inner_lr": 0.005,
            "training__inner_steps": 2,
            "training__batch_pages": 4,
            "training__warm_start_steps": 100,
            "evaluation__curve_pages": 512,
            "evaluation__max_payloads": NUM_ACTIVE,
            "outer__peers_per_step": PEERS_PER_STEP,
            "schedule__num_windows": WINDOWS,
        },
    )
    diary = Diary()
    nodes = run(world, {n: _staying(n, s, diary) for n, s in who.items()}, tmp_path)
    left = {name: node for name, node in nodes.items() if node is not None}
    return Swarm(world=world, nodes=left, diary=diary)


@pytest.fixture(scope="module")
def churned(tmp_path_factory) -> Swarm:
    return _swarm(stays(WINDOWS), tmp_path_factory.mktemp("churned"))


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> Swarm:
    return _swarm(
        dict.fromkeys(_active(stays(WINDOWS), 0), Stay()), tmp_path_factory.mktemp("calm")
    )


def _active(who: Mapping[str, Stay], window: int) -> set[str]:
    return {name for name, stay in who.items() if stay.first <= window < stay.end}


def test_a_quarter_of_the_active_changes_every_ten_windows() -> None:
    who, sets = stays(WINDOWS), [_active(stays(WINDOWS), w) for w in range(WINDOWS)]
    assert len(STAKES_TAO) == NUM_HOTKEYS
    assert {len(active) for active in sets} == {NUM_ACTIVE}
    changes = {w: len(sets[w] - sets[w - 1]) for w in range(1, WINDOWS)}
    assert {w for w, number in changes.items() if number} == {10, 20}
    assert changes[10] == changes[20] == NUM_REPLACED
    assert who[RESTARTS] == Stay()


@pytest.mark.siege
def test_under_churn_all_hold_the_same_bits_and_newcomers_soon_contribute(churned) -> None:
    swarm, who = churned, stays(WINDOWS)
    assert set(swarm.nodes) == _active(who, WINDOWS - 1)
    ((window, _, _),) = digests(swarm.nodes)
    assert window == WINDOWS + 1
    assert swarm.diary.restarted == [RESTARTS]
    named = accepted(swarm.nodes["val-a"])
    assert max(map(len, named.values())) == PEERS_PER_STEP
    late = [name for name, stay in who.items() if stay.first and name in MINERS]
    assert len(late) == 2 * NUM_REPLACED - 1
    for name in late:
        first = min(w for w, uids in named.items() if uid_of(swarm.world, name) in uids)
        assert who[name].first <= first <= swarm.diary.downloaded[name] + 2, name


@pytest.mark.siege
def test_the_loss_under_churn_is_that_of_a_swarm_without(churned, calm) -> None:
    assert len(digests(calm.nodes)) == 1
    curve = metrics(calm.nodes["val-a"]).series("held_out_loss")
    assert calm.final_loss < 0.9 * curve[1], curve
    assert churned.final_loss < MAX_LOSS_RATIO * calm.final_loss
    assert curve[1] - churned.final_loss > MIN_GAIN_RATIO * (curve[1] - calm.final_loss)
