"""Many validators: three buckets get each payload, the others keep it on disk until needed."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from simulation.swarm import TINY, accepted, build_world, digests, honest, run, to_the_end
from simulation.world import World, hotkey_of
from template.base.miner import Miner
from template.base.supervisor import supervise
from template.base.validator import Validator
from template.bucket.named_folder import NAMED_FOLDER
from template.protocol.holders import HOLDERS
from template.protocol.quorum import VOID
from template.store.memory import MemoryStore

VALIDATORS = [f"val-{letter}" for letter in "abcdef"]
MINERS = ["m0", "m1"]
STAKES_TAO = {"owner": 0, **dict.fromkeys(VALIDATORS, 500), **dict.fromkeys(MINERS, 0), "m2": 0}
WINDOWS = 7
LOST = 2
"""The window whose payloads lose their buckets."""
FIRST_SHARED = 1
"""Before the first votes nobody knows who holds what, and everybody puts everything."""


class Counting(MemoryStore):
    """Remembers the keys put."""

    def __init__(self) -> None:
        super().__init__()
        self.puts: list[str] = []

    def put(self, key: str, data: bytes) -> None:
        self.puts.append(key)
        super().put(key, data)


class Eraser:
    """Takes the payloads of a window out of buckets once the votes on them are counted."""

    def __init__(self, world: World, context: Any, names: list[str]) -> None:
        self._world, self._context, self._names = world, context, names

    def step(self) -> bool:
        schedule = self._context.schedule
        self._context.waiter.until_head(schedule.vote_block(LOST) - 1)
        self.erase()
        return False

    def erase(self) -> None:
        prefix = f"{self._context.run.run_id.hex()}/payload/{LOST:08d}/"
        for name in self._names:
            bucket = self._world.buckets[hotkey_of(name)]
            for key in bucket.list(prefix):
                bucket.delete(key)


def _world(stakes_tao: Mapping[str, int] = STAKES_TAO, **overrides: object) -> World:
    plan = {**TINY, "schedule__num_windows": WINDOWS, "schedule__scoring_blocks": 9, **overrides}
    world = build_world(stakes_tao, **plan)
    for name in STAKES_TAO:
        if name != "owner":
            world.buckets[hotkey_of(name)] = Counting()
    return world


def _drives(world: World, erased: list[str], **others: Any) -> dict[str, Any]:
    def erase(world: World, context: Any) -> object:
        node = Eraser(world, context, erased)
        supervise(node.step, max_failures=1)
        return node

    return {**honest(*VALIDATORS, *MINERS), "owner": erase, **others}


def _puts(world: World, name: str) -> list[str]:
    bucket = world.buckets[hotkey_of(name)]
    assert isinstance(bucket, Counting)
    return bucket.puts


def _copies(world: World) -> dict[int, Counter[str]]:
    """Window -> key of a payload -> the validators that ever put it."""
    found: dict[int, Counter[str]] = {}
    for name in VALIDATORS:
        for key in {key for key in _puts(world, name) if "/payload/" in key}:
            found.setdefault(int(key.split("/")[2]), Counter())[key] += 1
    return found


def _latecomer(world: World, context: Any) -> object:
    context.waiter.until_head(context.schedule.first_block(LOST + 2) + 1)
    node = Miner(context)
    supervise(node.step, max_failures=1)
    return node


def test_three_of_six_put_each_payload_and_a_vanished_miner_costs_nothing(tmp_path) -> None:
    """The miner's copies go right after the vote; whoever comes later finds the holders'."""
    world = _world()
    nodes = run(world, _drives(world, MINERS, m2=_latecomer), tmp_path)
    nodes.pop("owner")
    assert len(digests(nodes)) == 1
    sets = accepted(nodes["val-a"])
    assert sets[LOST]
    assert accepted(nodes["m1"])[LOST] == sets[LOST]
    copies = _copies(world)
    assert set(copies[0].values()) == {len(VALIDATORS)}
    shared = [n for w, keys in copies.items() if w >= FIRST_SHARED for n in keys.values()]
    assert len(shared) > 4
    assert set(shared) == {HOLDERS}
    kept = [len(list((tmp_path / name / NAMED_FOLDER).glob("*/*.payload"))) for name in VALIDATORS]
    assert sum(kept) == sum(len(VALIDATORS) - HOLDERS for _ in shared)


def test_without_miners_and_holders_the_others_put_theirs_and_no_window_is_void(tmp_path) -> None:
    world = _world()
    drives = _drives(world, [*MINERS, *VALIDATORS], m2=_latecomer)
    nodes = run(world, drives, tmp_path)
    nodes.pop("owner")
    assert len(digests(nodes)) == 1
    for node in nodes.values():
        rows = node.context.metrics.rows
        assert all(values.get("no_op") not in (VOID, "void") for _, values in rows)
    assert accepted(nodes["m1"])[LOST] == accepted(nodes["val-a"])[LOST] != set()
    copies = _copies(world)
    assert set(copies[LOST].values()) <= {HOLDERS + 2, HOLDERS + 3}, "two more, in turns"
    later = [n for w, keys in copies.items() if w > LOST for n in keys.values()]
    assert set(later) == {HOLDERS}


class Forgetful(Validator):
    """Names payloads of the lost window for its own step, and serves none of them."""

    def _hold_named(self, window, uids, scored):
        if window != LOST:
            return super()._hold_named(window, uids, scored)
        for digest, frame in scored.frames.items():
            self.follower.keep(window, digest, frame)
        return uids


class Killed(BaseException):
    """A process that ends here and now."""


class Leaving(Validator):
    """Is killed right behind its vote on the lost window."""

    def _publish_vote(self, window, *args):
        super()._publish_vote(window, *args)
        if window == LOST:
            raise Killed
        return True


def _restarting(world: World, context: Any) -> object:
    """Back in the window after the next, from the same state folder."""
    with pytest.raises(Killed):
        supervise(Leaving(context).step, max_failures=1)
    kept = list((context.state_dir / NAMED_FOLDER / f"{LOST:08d}").glob("*.payload"))
    assert len(kept) == 2
    context.waiter.until_head(context.schedule.first_block(LOST + 2) + 1)
    after = Validator(world.context(context.hotkey, context.state_dir))
    supervise(after.step, max_failures=1)
    return after


def test_a_validator_killed_behind_its_vote_serves_what_it_named_once_it_is_back(tmp_path) -> None:
    """All others named the payloads and serve none; the miners' copies are gone."""
    back, *liars = VALIDATORS
    # With little stake it is no holder of any payload.
    world = _world({**STAKES_TAO, back: 1}, schedule__num_windows=LOST + 5)
    drives = _drives(world, [*MINERS, *liars], m2=_latecomer)
    drives |= {back: _restarting, **{name: to_the_end(Forgetful) for name in liars}}
    nodes = run(world, drives, tmp_path)
    nodes.pop("owner")
    assert len(digests(nodes)) == 1
    assert accepted(nodes["m1"])[LOST] == accepted(nodes[liars[0]])[LOST] != set()
    served = [k for k in _puts(world, back) if f"/payload/{LOST:08d}/" in k]
    assert len(served) == 2
