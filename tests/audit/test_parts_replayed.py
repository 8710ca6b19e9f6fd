"""A run of part payloads, half of them stale: nodes, a replay and audits agree."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulation.swarm import (
    FOUR,
    STAKES_TAO,
    Drive,
    accepted,
    digests,
    honest,
    neurons_of,
    open_world,
    run,
    small_run,
    to_the_end,
)
from simulation.world import hotkey_of
from template.audit.replay import audit_validators, replay_run
from template.base.miner import Miner
from template.base.work import HonestWork
from template.peers.client import Peers
from template.protocol.payload import PayloadHeader
from template.protocol.root import tensors_digest
from template.store.memory import MemoryStore
from template.training.options import InnerOptions
from tests.support.beside import BesideWorld, count_lanes

BLOCKS_OF_STEP = {"m0": 9, "m1": 1}
"""Six steps take two windows and a bit, or a quarter of one."""
HALVES = {
    "schedule__blocks_per_window": 24,
    "schedule__vote_margin_blocks": 8,
    "schedule__finality_lag_blocks": 2,
    "schedule__num_windows": 9,
    "outer__max_staleness": 4,
    "training__max_parts": 2,
    "training__inner_steps": 6,
    "model__num_hidden_layers": 2,
}


def halves(name: str, sent: list[PayloadHeader]) -> Drive:
    """A miner of halves at this pace, with as many windows for a payload as the run allows."""

    class Paced(HonestWork):
        def batches(self, base: int) -> Iterator[np.ndarray]:
            waiter = self.parts.context.waiter
            due = waiter.recent_head()
            for batch in super().batches(base):
                yield batch
                due += BLOCKS_OF_STEP[name]
                with self.parts.gate.apart():
                    while waiter.recent_head() < due and not self.parts.is_over():
                        waiter.pause()

        def make_frame(self, header: PayloadHeader, deltas: Any) -> bytes:
            sent.append(header)
            return super().make_frame(header, deltas)

    inner = InnerOptions(windows=13, parts=2)
    return to_the_end(lambda context: Miner(replace(context, inner=inner), work=Paced))


@pytest.mark.slow
def test_stale_parts_are_replayed_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = open_world(BesideWorld, neurons_of(STAKES_TAO), small_run(STAKES_TAO, **HALVES))
    count_lanes(world, monkeypatch)
    slow: list[PayloadHeader] = []
    quick: list[PayloadHeader] = []
    drives = {"m0": halves("m0", slow), "m1": halves("m1", quick)}
    nodes = run(world, {**honest(*FOUR), **drives}, tmp_path / "run")
    assert len(digests(nodes)) == 1
    state = nodes["val-a"].follower.state
    assert all(header.staleness == 2 for header in slow)
    assert {header.blocks.part for header in (*slow, *quick)} == {0, 1}
    assert {uid for uids in accepted(nodes["val-a"]).values() for uid in uids} == {3, 4}

    stranger = hotkey_of("nobody-yet")
    world.buckets.setdefault(stranger, MemoryStore())
    world.time.enter()
    context = world.context(stranger, tmp_path / "replay")
    replayed = replay_run(context, Peers(context), 1, lambda _: None)
    said: list[str] = []
    audit_validators(context, replayed, said.append)
    world.time.leave()
    assert tensors_digest(replayed.state.params) == tensors_digest(state.params)
    assert replayed.state.root == state.root
    assert replayed.wrong == {}
    assert any("losses computed again" in line for line in said), said
