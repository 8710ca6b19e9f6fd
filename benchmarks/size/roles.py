"""A window of a miner and of a validator, phase by phase, in the order of the nodes.

    python -m benchmarks.size.roles miner 100M <folder>

Prints a JSON line: the number of parameters, and the phases.
"""

import gc
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.size.meter import BEFORE_WINDOW, RESTART, Meter
from benchmarks.size.world import (
    BATCH_PAGES,
    PAGE_TOKENS,
    WINDOW,
    form_of,
    num_params,
    read_frames,
    read_spec,
    read_theta0,
)
from compression import load_kernels, round_to_short
from template.base.feedback import ErrorFeedback
from template.protocol.admission import open_payload
from template.protocol.lineage import LineageStep
from template.protocol.payload import Payload, PayloadHeader
from template.protocol.root import Member, sample_digest
from template.scoring.footprint import footprint_of, places_in
from template.training.checkpoint import CheckpointWriter, LocalCheckpoint, load_local
from template.training.finite import are_finite
from template.training.inner import InnerTrainer
from template.training.memory import KEPT, give_back_freed
from template.training.outer import (
    OuterState,
    first_state,
    outer_step,
    previewed_params,
    state_digest,
)
from template.training.published import build_checkpoint
from template.training.scorer import Scorer

STEPS = 2
SEED = bytes(range(32))


class Node:
    """What miner and validator do alike."""

    def __init__(self, size: str, folder: Path, meter: Meter) -> None:
        self.spec, self.folder, self.meter = read_spec(size, folder), folder, meter
        self.form = form_of(self.spec)
        with meter.phase("join"):
            self.state = first_state(read_theta0(self.spec, folder), self.spec.run_id)
            # Window 1's step leads from theta_2, as if window 0 had passed without payloads.
            self.state = replace(self.state, window=WINDOW + 1)
        self.writer_path = folder / "node.safetensors"
        self.writer = CheckpointWriter(self.writer_path, self.spec.run_id)
        self.opened: dict[int, Payload] = {}
        self.members: tuple[Member, ...] = ()

    def open(self) -> None:
        """Open and compare the window's payloads."""
        with self.meter.phase("open payloads"):
            frames = read_frames(self.spec, self.folder)
            self.members = tuple(member for member, _ in frames)
            self.opened = {
                m.uid: open_payload(f, m, WINDOW, self.form, self.spec.outer.max_staleness)
                for m, f in frames
            }

    def forget(self) -> None:
        """Nothing of the run stays in memory."""
        del self.state
        self.opened = {}
        gc.collect()
        KEPT.release()
        give_back_freed()

    def follow(self) -> None:
        """Take the outer step, and hash theta once for root and log."""
        with self.meter.phase("outer step"):
            step = _accepted(self.state, self.members)
            self.state = outer_step(self.state, step, self.opened, self.spec)
        with self.meter.phase("digest"):
            self.state = self.state.hashed()
            digest = state_digest(self.state)
            self.state = replace(self.state, checkpoint_digest=digest)
            sample_digest(self.state.params, SEED)


def _accepted(state: OuterState, members: Sequence[Member]) -> LineageStep:
    return LineageStep(
        window=state.window - 1,
        root=state.root,
        checkpoint=b"",
        members=tuple(members),
        voting_stake_rao=1,
        pace=0,
        voted_root=b"",
    )


def pages(count: int) -> np.ndarray:
    """Random pages."""
    draw = np.random.default_rng(count)
    return draw.integers(0, 256, size=(count, PAGE_TOKENS), dtype=np.int64)


def run_miner(node: Node, meter: Meter) -> None:
    """A window, and the start of the process after this one."""
    _miner_window(node, meter)
    node.forget()
    spec = node.spec
    with meter.phase(RESTART):
        found = load_local(node.writer_path, spec)
        assert found is not None
        trainer = InnerTrainer(spec, "cpu")
        trainer.load_moments(found.groups["moments"])
        ErrorFeedback(node.form, spec.compression.error_feedback_decay, found.groups["feedback"])


def _miner_window(node: Node, meter: Meter) -> None:
    spec = node.spec
    with meter.phase("load"):
        trainer = InnerTrainer(spec, "cpu")
        feedback = ErrorFeedback(node.form, spec.compression.error_feedback_decay, {})
    # A window begins with what the window before has saved.
    _save_miner(node, meter, trainer, feedback, phase=BEFORE_WINDOW)
    header = PayloadHeader(
        window=WINDOW, base_window=WINDOW, pages_consumed=1, public_key=bytes(32)
    )
    node.open()
    KEPT.release()
    with meter.phase("train"):
        start = previewed_params(node.state, node.members, node.opened, spec)
        batches = [pages(BATCH_PAGES) for _ in range(STEPS)]
        result = trainer.train(start, WINDOW, batches, lambda: False)
        del start
    with meter.phase("encode"):
        assert are_finite(result.pseudo_gradient.values())
        feedback.encode(header, result.pseudo_gradient)
        del result
    _save_miner(node, meter, trainer, feedback)
    node.follow()
    _save_miner(node, meter, trainer, feedback)


def run_validator(node: Node, meter: Meter) -> None:
    """Join, open, score two payloads, step, save, publish."""
    spec = node.spec
    node.open()
    with meter.phase("overlap places"):
        for payload in node.opened.values():
            kept = footprint_of(payload, node.form)
            places_in(kept, node.form, WINDOW, lambda _window: SEED)
    with meter.phase("load"):
        scorer = Scorer(spec, "cpu", batch_pages=BATCH_PAGES)
        scorer.load(node.state.params)
    with meter.phase("score"):
        scorer.losses(pages(BATCH_PAGES))
        for payload in list(node.opened.values())[:2]:
            with scorer.stepped(payload.tensors, dict.fromkeys(payload.norms, 0.1)):
                scorer.losses(pages(BATCH_PAGES))
    node.follow()
    _save(node, meter, LocalCheckpoint(state=node.state))
    for tensor in node.state.params.values():
        round_to_short(tensor)  # as in a window with a checkpoint
    with meter.phase("publish"):
        published = build_checkpoint(node.state, spec)
        target = node.folder / "published"
        for digest in published.blobs:
            target.write_bytes(published.blobs[digest])


def _save_miner(
    node: Node,
    meter: Meter,
    trainer: InnerTrainer,
    feedback: ErrorFeedback,
    phase: str = "save",
) -> None:
    groups = {"feedback": feedback.tensors, "moments": trainer.moments()}
    revisions = {"feedback": feedback.revision, "moments": trainer.revision}
    checkpoint = LocalCheckpoint(state=node.state, groups=groups, revisions=revisions)
    _save(node, meter, checkpoint, phase)


def _save(node: Node, meter: Meter, checkpoint: LocalCheckpoint, phase: str = "save") -> None:
    with meter.phase(phase):
        node.writer.save(checkpoint)


ROLES = {"miner": run_miner, "validator": run_validator}


def main(role: str, size: str, folder: str) -> None:
    """Measure in this process, and print."""
    load_kernels()
    torch.manual_seed(0)
    meter = Meter()
    node = Node(size, Path(folder), meter)
    ROLES[role](node, meter)
    row = {"role": role, "size": size, "params": num_params(node.spec), "phases": meter.rows()}
    print(json.dumps(row))


if __name__ == "__main__":
    main(*sys.argv[1:])
