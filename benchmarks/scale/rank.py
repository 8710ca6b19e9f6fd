"""One rank of a neuron that is measured, or the whole of a neuron of a single process.

    python -m benchmarks.scale.rank miner 10M <folder>

with RANK and WORLD_SIZE set. Rank 0 prints a JSON line: by phase, the seconds, and every rank's CPU
seconds and peak of memory beyond that before theta came.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from benchmarks.size.meter import Meter
from benchmarks.size.roles import SEED
from benchmarks.size.world import (
    BATCH_PAGES,
    PAGE_TOKENS,
    WINDOW,
    form_of,
    num_params,
    read_frames,
    read_spec,
    read_theta0,
    spec_of,
)
from compression import load_kernels
from template.base.feedback import RETURNED_SHARE, ErrorFeedback
from template.protocol.admission import open_payload
from template.protocol.payload import Payload, PayloadFormat, PayloadHeader
from template.protocol.spec import RunSpec
from template.ranks.crew import Crew, Duties, follow
from template.ranks.group import join
from template.settings import Place
from template.training.checkpoint import CheckpointWriter, LocalCheckpoint
from template.training.evaluator import Evaluator
from template.training.inner import InnerTrainer
from template.training.inner_loop import Trainer
from template.training.memory import KEPT, give_back_freed
from template.training.model import build_model, initial_params
from template.training.options import InnerOptions
from template.training.outer import OuterState, apply_updates, first_state, params_digest
from template.training.published import build_checkpoint
from template.training.scorer import Scorer
from template.training.sharded_model import build_sharded, build_sharded_for_scoring
from template.training.spread import Feedback, Spreader, sample_of

STEPS = 3
NUM_PAYLOADS = 8
SMALL = "1M"
NUM_PAGES = 32
"""Of a validator's pass: 2,048 tokens."""
NUM_SCORED = 2
LOAD, PASS, STEPS_ALONE, SCORE, TRAIN_STEP = (
    "load", "a pass at theta", "steps without a pass", "score", "a training step",
)  # fmt: skip
"""Phases of a validator's rows."""


class RankMeter:
    """The peak of this rank in each phase, beyond what the libraries take; every rank has one."""

    def __init__(self, warm: Callable[[], None]) -> None:
        self._warm = warm
        self._open: Any = None

    def warm(self, _values: Mapping[str, Any], _given: Any) -> None:
        """A step of a small model, for what the libraries load at first use."""
        self._warm()
        gc.collect()
        give_back_freed()
        self._meter = Meter()

    def begin(self, _values: Mapping[str, Any], _given: Any) -> None:
        self._open = self._meter.phase("")
        self._open.__enter__()

    def end(self, _values: Mapping[str, Any], _given: Any) -> list[float]:
        """Bytes at the peak of the phase, and CPU seconds."""
        self._open.__exit__(None, None, None)
        phase = self._meter.phases[-1]
        return [phase.peak_bytes, phase.cpu_s]

    def release(self, _values: Mapping[str, Any], _given: Any) -> None:
        """As a miner does before training."""
        KEPT.release()
        give_back_freed()


def orders_of(meter: RankMeter) -> dict[str, Callable[[Mapping[str, Any], Any], Any]]:
    return {
        "warm": meter.warm,
        "meter_begin": meter.begin,
        "meter_end": meter.end,
        "release": meter.release,
    }


class Bench:
    """A neuron's window, phase by phase."""

    def __init__(self, call: Callable[[str], list[Any]]) -> None:
        self._call = call
        self.phases: list[dict[str, Any]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._call("meter_begin")
        started_s = time.perf_counter()
        yield
        wall_s = time.perf_counter() - started_s
        ends = self._call("meter_end")
        self.phases.append(
            {
                "name": name,
                "wall_s": wall_s,
                "cpu_s": [cpu_s for _, cpu_s in ends],
                "peak_bytes": [peak for peak, _ in ends],
            }
        )

    def read(
        self, spec: RunSpec, folder: Path, spreader: Spreader | None
    ) -> tuple[list[Payload], OuterState]:
        """Payloads, and theta_0 where it is to lie."""
        form = form_of(spec)
        payloads = [
            open_payload(frame, member, WINDOW, form, spec.outer.max_staleness)
            for member, frame in read_frames(spec, folder)[:NUM_PAYLOADS]
        ]
        self._call("warm")
        with self.phase("join"):
            state = first_state(read_theta0(spec, folder, spreader), spec.run_id)
        return payloads, state

    def run_miner(
        self,
        spec: RunSpec,
        folder: Path,
        spreader: Spreader | None,
        parts: Callable[[], tuple[Trainer, Feedback]],
    ) -> None:
        payloads, state = self.read(spec, folder, spreader)
        trainer, feedback = parts()
        self._call("release")
        with self.phase("train"):
            result = trainer.train(state.params, 2, _batches(spec), lambda: False)
        header = PayloadHeader(
            window=WINDOW, base_window=WINDOW, pages_consumed=1, public_key=bytes(32)
        )
        with self.phase("encode"):
            feedback.encode(header, result.pseudo_gradient)
        del result
        with self.phase("save"):
            groups = {"moments": trainer.moments(), "feedback": feedback.tensors}
            checkpoint = LocalCheckpoint(state=state, groups=groups)
            CheckpointWriter(folder / "node.safetensors", spec.run_id).save(checkpoint)
        factors = dict.fromkeys(form_of(spec).shapes, 0.1)
        with self.phase("outer step"):
            after = apply_updates(state.params, [(payload, factors) for payload in payloads])
        with self.phase("digest and sample"):
            params_digest(first_state(after, spec.run_id))
            sample_of(after, SEED)

    def run_validator(
        self,
        spec: RunSpec,
        folder: Path,
        spreader: Spreader | None,
        part: Callable[[], Evaluator],
    ) -> None:
        payloads, state = self.read(spec, folder, spreader)
        scorer, pages = part(), _pages(spec)
        with self.phase(LOAD):
            scorer.load(state.params)
        with self.phase(PASS):
            scorer.losses(pages)
        factors = dict.fromkeys(form_of(spec).shapes, 0.1)
        with self.phase(STEPS_ALONE):
            for payload in payloads[:NUM_SCORED]:
                with scorer.stepped_by(payload, factors):
                    pass
        with self.phase(SCORE):
            for payload in payloads[:NUM_SCORED]:
                with scorer.stepped_by(payload, factors):
                    scorer.losses(pages)
        with self.phase("outer step"):
            after = apply_updates(state.params, [(payload, factors) for payload in payloads])
        with self.phase("digest and sample"):
            state = first_state(after, spec.run_id)
            sample_of(after, SEED)
        with self.phase("publish"):
            for make in build_checkpoint(state, spec).parts.values():
                make()


def _train_step(model: PreTrainedModel, spec: RunSpec) -> None:
    """Forward and backward over the pages of a pass, without an optimizer."""
    tokens = torch.from_numpy(_pages(spec))
    model(input_ids=tokens, labels=tokens).loss.backward()


def _warm_scorer(spec: RunSpec) -> None:
    Scorer(spec, "cpu").losses(_pages(spec))
    _train_step(build_model(spec), spec)


def _warm_cut_scorer(size: int) -> None:
    spec = spec_of(SMALL)
    root = build_sharded_for_scoring(spec, torch.device("cpu"), size)
    with torch.no_grad():
        root(torch.from_numpy(_pages(spec)))


def _pages(spec: RunSpec) -> np.ndarray:
    rng = np.random.default_rng(6)
    return rng.integers(0, spec.model.vocab_size, size=(NUM_PAGES, PAGE_TOKENS))


def _warm_alone() -> None:
    spec = spec_of(SMALL)
    trainer = InnerTrainer(spec, "cpu")
    trainer.train(initial_params(spec, 0), 2, _batches(spec), lambda: False)


def _warm_rank(size: int) -> None:
    spec = spec_of(SMALL)
    root = build_sharded(spec, torch.device("cpu"), size, InnerOptions())
    optimizer = torch.optim.AdamW(root.parameters())
    for batch in _batches(spec):
        root(torch.from_numpy(batch)).backward()
        torch.nn.utils.clip_grad_norm_(root.parameters(), 1.0)
        optimizer.step()


def _batches(spec: RunSpec) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    size = (STEPS, BATCH_PAGES, PAGE_TOKENS)
    return list(rng.integers(0, spec.model.vocab_size, size=size))


def _alone(role: str, spec: RunSpec, form: PayloadFormat, folder: Path) -> Bench:
    warm = _warm_alone if role == "miner" else partial(_warm_scorer, spec_of(SMALL))
    meter = orders_of(RankMeter(warm))
    bench = Bench(lambda order: [meter[order]({}, None)])
    if role == "validator":
        bench.run_validator(spec, folder, None, lambda: Scorer(spec, "cpu"))
        gc.collect()
        model = build_model(spec)
        _train_step(model, spec)  # memory of gradients is new at the first
        with bench.phase(TRAIN_STEP):
            _train_step(model, spec)
        return bench
    decay = spec.compression.error_feedback_decay
    bench.run_miner(
        spec,
        folder,
        None,
        lambda: (
            InnerTrainer(spec, "cpu", InnerOptions(micro_batch=1)),
            ErrorFeedback(form, decay, {}),
        ),
    )
    return bench


def _together(role: str, crew: Crew, spec: RunSpec, folder: Path) -> Bench:
    bench = Bench(crew.team.call)
    if role == "validator":
        bench.run_validator(spec, folder, crew.spreader, crew.scorer)
        return bench
    decay = spec.compression.error_feedback_decay
    bench.run_miner(
        spec,
        folder,
        crew.spreader,
        lambda: (crew.trainer(), crew.feedback(decay, {}, RETURNED_SHARE)),
    )
    return bench


def main(role: str, size: str, folder: Path) -> None:
    torch.set_num_threads(1)
    load_kernels()
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    spec = read_spec(size, folder)
    form = form_of(spec)
    if ranks == 1:
        bench = _alone(role, spec, form, folder)
    else:
        place = Place(rank=rank, size=ranks, local_rank=rank)
        duties = Duties(
            spec=spec, form=form, device=torch.device("cpu"), options=InnerOptions(micro_batch=1)
        )
        group = join(place, "cpu", meeting=folder / "meeting")
        warm = _warm_rank if role == "miner" else _warm_cut_scorer
        more = orders_of(RankMeter(partial(warm, ranks)))
        if rank:
            follow(group, duties, more)
            return
        crew = Crew(group, duties, more)
        bench = _together(role, crew, spec, folder)
        crew.end()
    print(json.dumps({"parameters": num_params(spec), "ranks": ranks, "phases": bench.phases}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
