"""Seeded schedules of faults in one process: nobody ever applies another set than the others,
nothing that was accepted is lost, and whoever lives ends with the same bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest

from simulation.faults import SWARM_DRAWS
from simulation.swarm import TINY, Drive, digests, neurons_of, open_world, run, small_run
from simulation.world import RecordingMetrics, hotkey_of
from template.base.memory import ValidatorMemory
from template.base.miner import Miner
from template.base.policy import ValidatorPolicy
from template.base.supervisor import supervise
from template.base.validator import Validator
from template.bucket.retention import oldest_start
from template.chain.ballots import read_candidates
from template.commands.plan import PreparedRun
from template.context import NodeContext
from template.errors import ChainError, ConfigError, StateError, StoreError
from template.protocol.keys import payload_key
from template.protocol.payload import payload_digest
from template.scoring.window import Scored
from template.sync.own_checkpoint import own_checkpoint_path
from tests.support.sabotage import (
    PROMISES,
    Killed,
    Left,
    TroubledWorld,
    free_disk,
    saboteur,
    unheld_of,
)
from tests.support.schedules import MINERS, ROSTER, STAKES_TAO, Fault, plan

WINDOWS, SIEGE_WINDOWS = 5, 8
NUM_SEEDS, NUM_SIEGE_SEEDS, SEEDS_AT_ONCE = 50, 2000, 50
NUM_FAST_SEEDS = 3
"""Schedules of the default lane; the slow lane plays the rest of `NUM_SEEDS`."""
DOWN_BLOCKS = 3
"""Between the end of a process and its next start."""


@cache
def _run_of(num_windows: int) -> PreparedRun:
    """Without votes on alpha: a validator that was killed has no opinion in a window, and roots are
    compared with those of a calm run.
    """
    return small_run(
        STAKES_TAO,
        **TINY,
        checkpoint__every_windows=2,
        schedule__num_windows=num_windows,
        outer__alpha_windows=0,
    )


def _world(faults: tuple[Fault, ...], num_windows: int = WINDOWS) -> TroubledWorld:
    world = open_world(TroubledWorld, neurons_of(STAKES_TAO), _run_of(num_windows))
    world.plant(faults)
    return world


class Promiser(ValidatorPolicy):
    """Accepts, for as long as the plan says so, every committed payload, held or not."""

    def __init__(self, world: TroubledWorld, hotkey: str) -> None:
        self._world = world
        self._hotkey = hotkey

    def accepted_uids(self, scored: Scored, memory: ValidatorMemory, limit: int) -> frozenset[int]:
        uids = super().accepted_uids(scored, memory, limit)
        committed = frozenset(verdict.uid for verdict in scored.verdicts)
        windows = {verdict.window for verdict in scored.verdicts}
        for fault in self._world.faults:
            is_own = fault.kind in PROMISES and self._hotkey in map(hotkey_of, fault.nodes)
            if is_own and fault.window in windows and committed - uids:
                self._world.felt(fault)
                return committed
        return uids


def _live(world: TroubledWorld, name: str, context: NodeContext) -> object:
    """One process of a node: the node at the end of the run, or what ended it before, raised."""
    try:
        promiser = Promiser(world, context.hotkey)
        node = Miner(context) if name in MINERS else Validator(context, policy=promiser)
        world.nodes[name] = node
        supervise(node.step, max_failures=1, sleep=world.time.sleep, now_s=world.time.now_s)
    except ConfigError as error:
        if hotkey_of(name) not in world.ledger.dropped:
            raise
        dropped = (f for f in world.faults if f.kind == "dropped_uid" and name in f.nodes)
        world.felt(next(dropped))
        raise Left from error
    return node


def _process(name: str) -> Drive:
    """A node that is started again whenever its process ends, as an operator would do it."""

    def drive(world: TroubledWorld, context: NodeContext) -> object | None:
        world.enter(name)
        while True:
            try:
                return _live(world, name, context)
            except Left:
                return None
            except StateError:
                free_disk(own_checkpoint_path(context.state_dir))
            except (Killed, ChainError, StoreError):
                pass
            for _ in range(DOWN_BLOCKS):
                world.time.sleep(0)
            context = world.context(context.hotkey, context.state_dir)

    return drive


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a swarm ended: the nodes that live, and the world."""

    world: TroubledWorld
    nodes: Mapping[str, object]

    def said(self, key: str, *, at_last: bool = False) -> dict[int, set[object]]:
        """window -> all that nodes said of it, whichever process of theirs it was; or only what
        each of them said at last.
        """
        found: dict[int, set[object]] = {}
        for contexts in self.world.contexts.values():
            kept = [c.metrics for c in contexts if isinstance(c.metrics, RecordingMetrics)]
            assert len(kept) == len(contexts)
            rows = [row for metrics in kept for row in metrics.rows if key in row[1]]
            last = {window: (window, values) for window, values in rows}
            for window, values in last.values() if at_last else rows:
                found.setdefault(window, set()).add(values[key])
        return found


def _outcome(faults: tuple[Fault, ...], tmp_path: Path, num_windows: int = WINDOWS) -> Outcome:
    world = _world(faults, num_windows)
    drives = {name: _process(name) for name in ROSTER}
    nodes = run(world, {**drives, "owner": saboteur}, tmp_path)
    return Outcome(world=world, nodes={name: node for name, node in nodes.items() if node})


def _assert_headless(outcome: Outcome) -> None:
    world = outcome.world
    windows = range(world.spec.schedule.num_windows)
    assert world.faults
    assert [f.kind for f in world.faults if not world.took_effect[f]] == []
    takes_back = any(fault.kind == "void" for fault in world.faults)
    for key in ("accepted_uids", "state_root", "voting_stake_rao"):
        said = outcome.said(key, at_last=takes_back)
        assert sorted(said) == list(windows)
        assert {window for window, values in said.items() if len(values) > 1} == set(), key
    ((window, _, _),) = digests(outcome.nodes)
    assert window == windows.stop + 1
    assert _lost_payloads(outcome) == []


def _lost_payloads(outcome: Outcome) -> list[tuple[int, int]]:
    """(window, uid) of accepted payloads that no bucket gives to a stranger any more, of those that
    may not have been swept yet.
    """
    world, lost = outcome.world, []
    first = oldest_start((), len(outcome.said("accepted_uids", at_last=True)) + 1, world.run) - 1
    gone = {name for f in world.faults if f.kind == "bucket_gone" for name in f.nodes}
    buckets = [b for h, b in world.buckets.items() if h not in map(hotkey_of, gone)]
    chain = world.chain(hotkey_of("owner"))
    for window, (text,) in outcome.said("accepted_uids", at_last=True).items():
        if window < first:
            continue
        candidates = read_candidates(chain, world.run, window)
        for uid in map(int, filter(None, str(text).split(","))):
            digest = candidates[uid].digest
            key = payload_key(world.spec.run_id, window, digest)
            held = [b.get(key, max_bytes=2**20) for b in buckets if key in b.list(key)]
            if digest not in map(payload_digest, held):
                lost.append((window, uid))
    return lost


@pytest.mark.parametrize(
    "seed",
    [
        *range(NUM_FAST_SEEDS),
        *(pytest.param(s, marks=pytest.mark.slow) for s in range(NUM_FAST_SEEDS, NUM_SEEDS)),
    ],
)
def test_a_schedule_of_faults_changes_nobodys_model(seed: int, tmp_path) -> None:
    _assert_headless(_outcome(plan(seed, WINDOWS), tmp_path))


def test_the_seeds_of_the_default_lane_plant_every_fault() -> None:
    planted = {fault.kind for seed in range(NUM_SEEDS) for fault in plan(seed, WINDOWS)}
    late = {name for name, kind in SWARM_DRAWS.items() if kind.windows_after}
    assert planted == set(SWARM_DRAWS) - late
    assert all(plan(seed, WINDOWS) == plan(seed, WINDOWS) for seed in range(NUM_SEEDS))
    assert len({plan(seed, WINDOWS) for seed in range(NUM_SEEDS)}) == NUM_SEEDS


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> Outcome:
    """The run whose faults begin only after its end."""
    planted = [plan(0, 8, [kind])[:1] for kind in SWARM_DRAWS]
    late = tuple(replace(fault, window=2**10) for faults in planted for fault in faults)
    return _outcome(late, tmp_path_factory.mktemp("calm"))


def test_a_plan_that_plants_nothing_is_found_out(calm) -> None:
    assert not calm.world.took_effect
    with pytest.raises(AssertionError, match="kill"):
        _assert_headless(calm)
    calm.world.plant(())
    with pytest.raises(AssertionError):
        _assert_headless(calm)
    accepted = calm.said("accepted_uids")
    assert [len(values) for values in accepted.values()] == [1] * WINDOWS
    assert sum(values == {"4,5"} for values in accepted.values()) >= 3, accepted


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))])
def test_killing_the_top_validator_costs_no_window(seed: int, calm, tmp_path) -> None:
    outcome = _outcome(plan(seed, WINDOWS, ["kill_top"]), tmp_path)
    _assert_headless(outcome)
    for key in ("accepted_uids", "state_root", "params_digest", "no_op"):
        assert outcome.said(key) == calm.said(key)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_what_a_majority_names_and_nobody_else_has_is_void_for_all(seed: int, tmp_path) -> None:
    (fault,) = plan(seed, 8, ["void"])
    fault = replace(fault, lot=seed)
    outcome = _outcome((fault,), tmp_path, num_windows=8)
    _assert_headless(outcome)
    assert outcome.said("accepted_uids", at_last=True)[fault.window] == {""}
    alone = unheld_of(fault)
    assert outcome.said("accepted_uids")[fault.window] == (
        {""} if alone == "owner" else {"", "4,5"}
    )


@pytest.mark.siege
@pytest.mark.parametrize("first", range(NUM_SEEDS, NUM_SIEGE_SEEDS, SEEDS_AT_ONCE))
def test_many_schedules_of_faults_change_nobodys_model(first: int, tmp_path) -> None:
    failed = {}
    for seed in range(first, first + SEEDS_AT_ONCE):
        try:
            _assert_headless(
                _outcome(plan(seed, SIEGE_WINDOWS), tmp_path / str(seed), SIEGE_WINDOWS)
            )
        except (AssertionError, BaseExceptionGroup) as error:
            failed[seed] = str(error)
    assert failed == {}
