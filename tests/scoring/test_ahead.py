"""Payloads measured while others are on their way: who waits for whom, and that no figure changes.

Nothing here looks at times: a bucket gives its payload once another one is measured, and would wait
for ever if payloads were measured at the end alone.
"""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from simulation.swarm import build_world
from simulation.world import World, hotkey_of
from template.base.validator import Validator
from template.errors import NotFound
from template.protocol.keys import payload_key
from template.protocol.payload import PayloadHeader, encode_payload, payload_digest
from template.protocol.record import Record, encode_record
from template.protocol.root import Member
from template.protocol.ss58 import public_key
from template.scoring.measure import Measurement, Step, batch_rows
from template.scoring.pool import Pool, pool_of
from template.scoring.window import Scored
from template.store.memory import MemoryStore
from template.training.outer import OuterState
from tests.support.waiting import HANG_S

MINERS = tuple(f"m{number}" for number in range(6))
CLAIMED, HELD_OUT_PAGES, PASS_PAGES = 16, 24, 64
MEASURED = re.compile(r"uid (\d+) is measured on (\d+) pages, with (\d+) payloads to come")


class Gate(MemoryStore):
    """A bucket that keeps every answer back until `may_give` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.may_give = threading.Event()
        self.may_give.set()

    def reader(self) -> "Gate":
        return self

    def get(self, key: str, *, max_bytes: int) -> bytes:
        if not self.may_give.wait(HANG_S):
            raise NotFound(key)
        return super().get(key, max_bytes=max_bytes)


class Measurements(logging.Handler):
    """What is measured ahead, in order: (uid, pages, payloads to come); tells as it is heard."""

    def __init__(self, on_measured: Callable[[int], None]) -> None:
        super().__init__(logging.DEBUG)
        self.seen: list[tuple[int, int, int]] = []
        self._on_measured = on_measured

    def emit(self, record: logging.LogRecord) -> None:
        found = MEASURED.search(record.getMessage())
        if found is not None:
            uid, num_pages, num_missing = (int(number) for number in found.groups())
            self.seen.append((uid, num_pages, num_missing))
            self._on_measured(uid)


@contextmanager
def listening(on_measured: Callable[[int], None]) -> Iterator[Measurements]:
    log = logging.getLogger("template.scoring.ahead")
    handler, level = Measurements(on_measured), log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield handler
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class Scene:
    """A validator, and the payloads of six miners in buckets that give them when told to."""

    def __init__(self, tmp_path) -> None:
        names = {"owner": 0, "val-a": 1000, **dict.fromkeys(MINERS, 0)}
        self.world: World = build_world(names, evaluation__claimed_pages=CLAIMED)
        self.gates = {name: Gate() for name in MINERS}
        for name, gate in self.gates.items():
            self.world.buckets[hotkey_of(name)] = gate
            record = Record(access=self.world.access(hotkey_of(name)))
            self.world.chain(hotkey_of(name)).publish(encode_record(record))
        self.node = Validator(self.world.context(hotkey_of("val-a"), tmp_path))
        self.world.time.block = self.world.spec.schedule.schedule().vote_block(0)
        self.frames = {name: self._frame(number, name) for number, name in enumerate(MINERS)}
        self.absent: set[str] = set()
        norms = dict.fromkeys(self.node.follower.state.initial_norms, 1e-3)
        self.state: OuterState = replace(
            self.node.follower.state, accepted_norms=((0, (norms, norms)),)
        )

    def _frame(self, seed: int, name: str) -> bytes:
        generator = torch.Generator().manual_seed(seed)
        form = self.node.context.form_at(0)
        tensors = {
            tensor: 1e-3 * torch.randn(shape, generator=generator)
            for tensor, shape in form.shapes.items()
        }
        header = PayloadHeader(
            window=0,
            base_window=0,
            pages_consumed=self.world.spec.training.pages_per_window,
            public_key=public_key(hotkey_of(name)),
        )
        return encode_payload(header, tensors, form)[0]

    def members(self) -> list[Member]:
        found = []
        for number, name in enumerate(MINERS):
            frame = self.frames[name]
            member = Member(
                uid=2 + number,
                hotkey=hotkey_of(name),
                public_key=public_key(hotkey_of(name)),
                coldkey=bytes(32),
                digest=payload_digest(frame),
            )
            key = payload_key(self.world.spec.run_id, 0, member.digest)
            if name in self.absent:
                self.gates[name].delete(key)
            else:
                self.gates[name].put(key, frame)
            found.append(member)
        return found

    def drawn(self) -> list[str]:
        """The miners' names in the order of the draw."""
        names = {hotkey_of(name): name for name in MINERS}
        drawn, _ = self.node._scorer._draw_candidates(0, self.members())
        return [names[member.hotkey] for member in drawn]

    def score(
        self, order: Iterable[str] = (), step_start: OuterState | None = None
    ) -> tuple[Scored, list[tuple[int, int, int]]]:
        """Score with payloads that come in this order, each once the one before is measured; all at
        once without an order. Also what was measured ahead."""
        waiting = list(order)
        for name in waiting:
            self.gates[name].may_give.clear()
        end_s = time.monotonic() + HANG_S
        members = self.members()

        awaited: list[int] = []

        def give_next() -> None:
            if waiting:
                awaited.append(self.uid(waiting[0]))
                self.gates[waiting.pop(0)].may_give.set()

        def on_measured(uid: int) -> None:
            if awaited and uid == awaited[-1]:
                give_next()

        with listening(on_measured) as heard:
            give_next()
            scored = self.node._scorer.score(
                0,
                self.state,
                members,
                self.node.memory.histories,
                lambda _share: time.monotonic() > end_s,
                step_start,
            )
        for gate in self.gates.values():
            gate.may_give.set()
        assert not waiting, "a payload was never asked for"
        return scored, heard.seen

    def uid(self, name: str) -> int:
        return 2 + MINERS.index(name)


@pytest.fixture
def scene(tmp_path) -> Scene:
    return Scene(tmp_path)


def assert_same(one: Scored, other: Scored) -> None:
    """To the bit."""
    assert one.verdicts == other.verdicts
    assert dict(one.frames) == dict(other.frames)
    for name in ("ids_S", "owners_S"):
        assert np.array_equal(getattr(one.pool, name), getattr(other.pool, name))
    assert list(one.measured.after_KQ) == list(other.measured.after_KQ)
    assert np.array_equal(one.measured.before_SQ, other.measured.before_SQ)
    for uid, after_S in one.measured.after_KQ.items():
        assert np.array_equal(after_S, other.measured.after_KQ[uid])
    first, second = one.measured.half_way_H, other.measured.half_way_H
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert np.array_equal(first, second)


def test_the_next_payload_may_wait_until_the_one_before_is_measured(scene: Scene) -> None:
    """Each bucket gives its payload after the one before is measured; and nothing else differs."""
    at_once, ahead = scene.score()
    assert len(at_once.measured.after_KQ) == len(MINERS)
    drawn = scene.drawn()
    scored, ahead = scene.score(drawn)
    assert_same(at_once, scored)
    first = list(dict.fromkeys(uid for uid, _, _ in ahead))
    assert first == [scene.uid(name) for name in drawn[: len(first)]], "in the drawn order"
    assert len(first) >= len(MINERS) - 1, "the last one may be the first of the end"
    assert ahead[0][1:] == (HELD_OUT_PAGES + CLAIMED, len(MINERS) - 1)
    assert {pages for _, pages, _ in ahead} == {HELD_OUT_PAGES + CLAIMED}


@pytest.mark.parametrize("turn", [1, 3])
def test_payloads_out_of_order_are_measured_too_and_no_figure_changes(
    scene: Scene, turn: int
) -> None:
    drawn = scene.drawn()
    order = [*drawn[turn:], *drawn[:turn]]
    start = replace(
        scene.state,
        params={name: 0.5 * tensor for name, tensor in scene.state.params.items()},
    )
    at_once, _ = scene.score((), start)
    scored, ahead = scene.score(order, start)
    assert at_once.measured.half_way_H is not None
    assert_same(at_once, scored)
    assert ahead[0][0] == scene.uid(order[0])


def test_what_is_refused_in_the_end_was_measured_in_vain(scene: Scene) -> None:
    """A copy of a rival's payload, an object that is missing, and bytes that no node opens."""
    drawn = scene.drawn()
    copied, missing, damaged = drawn[2], drawn[1], drawn[4]
    scene.frames[copied] = scene._frame(MINERS.index(drawn[0]), copied)
    scene.frames[damaged] = scene.frames[damaged][:-1]
    scene.absent.add(missing)
    at_once, _ = scene.score()
    statuses = {verdict.uid: verdict.status for verdict in at_once.verdicts}
    assert statuses[scene.uid(missing)] == "not_delivered"
    assert statuses[scene.uid(damaged)] == "length"
    alike = {verdict.uid: verdict.alike for verdict in at_once.verdicts}
    assert alike[scene.uid(copied)] == (scene.uid(drawn[0]),)
    good = [name for name in drawn if name not in (missing, damaged)]
    scored, ahead = scene.score(good)
    assert_same(at_once, scored)
    assert {uid for uid, _, _ in ahead} >= {scene.uid(name) for name in good[:-1]}


def test_steps_that_depend_on_all_payloads_wait_for_all(scene: Scene) -> None:
    """Until a run has accepted a payload."""
    scene.state = replace(scene.state, accepted_norms=())
    at_once, ahead = scene.score()
    assert not ahead
    assert len(at_once.measured.after_KQ) == len(MINERS)


def _measurement(scene: Scene) -> tuple[Measurement, Pool, Mapping[int, Step]]:
    scorer = scene.node._scorer
    opened = {
        member.uid: scorer._checker.open_frame(0, member, scene.frames[MINERS[member.uid - 2]])
        for member in scene.members()
    }
    payloads = {uid: found.payload for uid, found in opened.items() if found.payload is not None}
    steps = scorer._steps(0, scene.state, payloads)
    pool = pool_of(np.arange(HELD_OUT_PAGES), {uid: np.arange(uid, uid + 20) for uid in steps})
    return scorer._measurers.at(0).begin(scene.state), pool, steps


def test_what_was_measured_ahead_moves_nobody_to_the_front(scene: Scene) -> None:
    """Measured are the first in the order: the audit holds a validator to it."""
    measurement, pool, steps = _measurement(scene)
    first, second, *_, last = steps
    for _ in measurement.work(pool, last, steps[last]):
        pass
    asked: list[bool] = []

    def is_late() -> bool:
        asked.append(len(asked) >= 2)
        return asked[-1]

    measured = measurement.finish(pool, steps, is_late)
    assert list(measured.after_KQ) == [first, second]


def test_a_piece_of_work_given_up_leaves_theta_as_it_was(scene: Scene) -> None:
    measurement, pool, steps = _measurement(scene)
    expected = scene.node._scorer._measurers.at(0).measure_pool(scene.state, pool, steps)
    measurement, _, _ = _measurement(scene)
    uid = next(iter(steps))
    work = measurement.work(pool, uid, steps[uid])
    next(work)
    assert measurement.lacks(pool, uid)
    work.close()
    measured = measurement.finish(pool, steps)
    assert np.array_equal(measured.before_SQ, expected.before_SQ)
    assert all(np.array_equal(measured.after_KQ[u], expected.after_KQ[u]) for u in steps)


@pytest.mark.parametrize(
    ("num_held_out", "num_claimed", "sizes"),
    [(16, 16, [8, 8, 8, 8]), (12, 3, [8, 4, 3]), (0, 9, [8, 1]), (9, 0, [8, 1]), (0, 0, [])],
)
def test_held_out_pages_share_no_pass_with_claims(
    num_held_out: int, num_claimed: int, sizes: list[int]
) -> None:
    pool = pool_of(np.arange(num_held_out), {7: np.arange(num_claimed)})
    rows = batch_rows(pool, 8)
    assert [pool.ids_S[each].size for each in rows] == sizes
    assert np.array_equal(
        np.concatenate([np.empty(0, int), *(pool.ids_S[each] for each in rows)]), pool.ids_S
    )
