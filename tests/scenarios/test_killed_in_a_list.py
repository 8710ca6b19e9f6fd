"""A miner ended in the middle of a page list, while its lanes work: kills and stops, and restarts.

Whatever the block: no page list is claimed twice, all that the state folder held goes on, and the
run does too.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from simulation.swarm import (
    Drive,
    accepted,
    digests,
    honest,
    neurons_of,
    open_world,
    run,
    small_run,
)
from simulation.world import FakeChain, World, hotkey_of
from template.base.miner import Miner
from template.base.pending import PendingPayload, PendingPayloads
from template.base.supervisor import supervise
from template.chain.waiter import Waiter
from template.context import NodeContext
from template.protocol.payload import PayloadHeader, decode_payload
from template.store import Store
from template.sync.own_checkpoint import own_checkpoint_path
from template.training.checkpoint import LocalCheckpoint, load_local
from template.training.options import InnerOptions
from tests.support.beside import BesideWorld, count_lanes
from tests.support.paced import LONG, PATIENT, Paced

STAKES_TAO = {"owner": 0, "val-a": 1000, "m0": 0}
M0 = hotkey_of("m0")
M0_UID, AWAY_BLOCKS = 2, 3
"""The second: blocks without a process."""
END_OF_RUN, STOP_S = 10**6, 0.5


class KilledError(SystemExit):
    """The process is gone: a thread that meets it ends without a word."""


@dataclass
class Life:
    """A process that ends at a block: from then on nothing of it reaches anything outside."""

    world: World
    end_block: int

    def look(self) -> None:
        if self.world.time.block >= self.end_block:
            raise KilledError

    def sleep(self, seconds: float) -> None:
        self.look()
        self.world.time.sleep(seconds)
        self.look()

    def context(self, context: NodeContext) -> NodeContext:
        life = self

        class Chain(FakeChain):
            def publish(self, record: bytes) -> None:
                life.look()
                super().publish(record)

        class Bucket:
            def __getattr__(self, name: str) -> Any:
                life.look()
                return getattr(context.bucket, name)

        chain = Chain(self.world.ledger, context.hotkey)
        waiter = Waiter(chain, sleep=self.sleep, now_s=self.world.time.now_s)
        return replace(context, chain=chain, waiter=waiter, bucket=cast(Store, Bucket()))


@dataclass
class Notes:
    """What the processes of a hotkey did."""

    ended_in: int | None = None
    """The page list under way at the end of the first process."""
    saved: dict[bytes, int] = field(default_factory=dict)
    """Digest -> window of payloads that were on the disk."""
    returned: list[int] = field(default_factory=list)
    """Windows of payloads that returned to error feedback, of the process at work."""
    returned_before: frozenset[int] = frozenset()
    """Of the process before."""
    pending: frozenset[int] = frozenset()
    """Windows of the payloads without a decision that the second process found."""


def noted(notes: Notes, blocks: float) -> type[Paced]:
    """The work of a miner whose steps take so many blocks."""

    class Noted(Paced):
        blocks_of_batch = blocks

        def batches(self, base: int) -> Iterator[np.ndarray]:
            try:
                yield from super().batches(base)
            except (KilledError, GeneratorExit) as end:
                # Without an end of the process too, a loop closes its batches when its time is up.
                if isinstance(end, KilledError) or self.parts.is_over():
                    notes.ended_in = base
                raise

        def note_saved(self, payload: PendingPayload) -> None:
            notes.saved[payload.digest] = payload.window
            super().note_saved(payload)

        def take_back(self, payload: PendingPayload) -> None:
            notes.returned.append(payload.window)
            super().take_back(payload)

    Noted.sent, Noted.steps_at, Noted.under_way = [], [], []
    return Noted


@dataclass(kw_only=True)
class End:
    """The end of a process at `block`: a stop by its operator, or a kill.

    `blocks`: of an inner step, beside the miner's options.
    """

    block: int
    blocks: float
    inner: InnerOptions
    is_stop: bool = False

    def drive(self, notes: Notes) -> Drive:
        """A miner that ends so, and starts again from its state folder some blocks later."""
        work = noted(notes, self.blocks)

        def drive(world: World, context: NodeContext) -> Miner:
            life = Life(world, END_OF_RUN if self.is_stop else self.block)
            first = Miner(replace(life.context(context), inner=self.inner), work=work)
            bury(first, life)
            self.live(first, world)
            if self.is_stop:
                first.stop(STOP_S)
            life.end_block = min(life.end_block, world.time.block)
            while world.time.block < self.block + AWAY_BLOCKS:
                world.time.sleep(1.0)
            notes.returned_before, notes.returned = frozenset(notes.returned), []
            context = world.context(context.hotkey, context.state_dir)
            again = Miner(replace(context, inner=self.inner), work=work)
            assert_goes_on(first, again)
            notes.pending = frozenset(payload.window for payload in again.pending)
            supervise(again.step, max_failures=1)
            return again

        return drive

    def live(self, miner: Miner, world: World) -> None:
        """The miner's steps up to the end, and what its lanes still do."""

        def step() -> bool:
            if self.is_stop and world.time.block >= self.block:
                raise KilledError
            return miner.step()

        with pytest.raises(KilledError):
            supervise(step, max_failures=1)
        while not miner._lanes.end(0.0):
            world.time.sleep(1.0)


def bury(miner: Miner, life: Life) -> None:
    """From the end of its life on the miner saves nothing."""
    save = miner.keeper._own_checkpoints.save

    def save_alive(checkpoint: LocalCheckpoint, older: Collection[str] = ()) -> None:
        life.look()
        save(checkpoint, older)

    setattr(miner.keeper._own_checkpoints, "save", save_alive)  # noqa: B010  a kill from outside


def assert_goes_on(first: Miner, again: Miner) -> None:
    """Error feedback, payloads and the place in the page lists are those of the last save.

    And of the process before, unless its last change was not on the disk.
    """
    saved = load_local(own_checkpoint_path(first.context.state_dir), first.context.run.first)
    assert isinstance(first.work, Paced)
    assert isinstance(again.work, Paced)
    if saved is None:
        assert not first.desk.pending, "nothing made, and nothing saved"
        return
    was_saved = not first.desk.unsaved() and not first.desk.is_changed
    for name, tensor in again.work.feedback.tensors.items():
        assert torch.equal(tensor, saved.groups["feedback"][name]), name
        assert not was_saved or torch.equal(tensor, first.work.feedback.tensors[name]), name
    assert list(again.pending) == list(
        PendingPayloads.from_tensors(saved.groups.get("pending", {}))
    )
    assert again.work.turns.values() == {k: saved.values[k] for k in ("last_window", "last_sent")}


def claims(world: World, folder: Path) -> list[PayloadHeader]:
    """The headers of all payloads that m0 has put into its bucket."""
    bucket, form = world.buckets[M0], world.context(M0, folder).form_at(0)
    keys = [key for key in bucket.list("") if "payload" in key]
    frames = [bucket.get(key, max_bytes=form.num_bytes) for key in keys]
    return [decode_payload(frame, form).header for frame in frames]


@pytest.mark.parametrize(
    "end",
    [
        End(block=101, blocks=12.0, inner=PATIENT),
        End(block=101, blocks=12.0, inner=PATIENT, is_stop=True),
        End(block=63, blocks=11.0, inner=InnerOptions()),
        End(block=83, blocks=3.0, inner=InnerOptions(width=0)),
    ],
    ids=["whole", "whole, stopped", "part", "wide"],
)
def test_an_end_in_the_middle_of_a_page_list_loses_the_steps_under_way_alone(
    end: End, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = small_run(STAKES_TAO, **{**LONG, "schedule__num_windows": 8})
    world = open_world(BesideWorld, neurons_of(STAKES_TAO), prepared)
    count_lanes(world, monkeypatch)
    notes = Notes()
    nodes = run(world, {**honest("val-a"), "m0": end.drive(notes)}, tmp_path)
    assert len(digests(nodes)) == 1
    assert notes.ended_in is not None, "a list was under way"
    bases = [header.base_window for header in claims(world, tmp_path / "m0")]
    assert len(bases) == len(set(bases)), bases
    taken = {window for window, uids in accepted(nodes["val-a"]).items() if M0_UID in uids}
    left = {payload.window for payload in nodes["m0"].pending}
    # A payload is applied or returns, once; one that returned before the end is in what was saved.
    assert set(notes.saved.values()) <= taken | set(notes.returned) | notes.returned_before | left
    assert notes.pending <= taken | set(notes.returned) | left
    assert not taken & set(notes.returned)
    assert len(notes.returned) == len(set(notes.returned))
    after = world.spec.schedule.schedule().window_of(end.block + AWAY_BLOCKS)
    assert len([window for window in taken if window > after]) >= 1, "the run goes on"
