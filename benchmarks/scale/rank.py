"""One rank of a miner that is measured, or the whole of a miner of a single process.

    python -m benchmarks.scale.rank 10M <folder>

with RANK and WORLD_SIZE set. Rank 0 prints a JSON line: by phase, the seconds and every rank's
peak of memory beyond that before theta came.
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
from template.protocol.payload import PayloadFormat, PayloadHeader
from template.protocol.spec import RunSpec
from template.ranks.crew import Crew, Duties, follow
from template.ranks.group import join
from template.settings import Place
from template.training.checkpoint import CheckpointWriter, LocalCheckpoint
from template.training.inner import InnerTrainer
from template.training.inner_loop import Trainer
from template.training.memory import KEPT, give_back_freed
from template.training.model import initial_params
from template.training.options import InnerOptions
from template.training.outer import apply_updates, first_state, params_digest
from template.training.sharded_model import build_sharded
from template.training.spread import Feedback, Spreader, sample_of

STEPS = 3
NUM_PAYLOADS = 8
SMALL = "1M"


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

    def end(self, _values: Mapping[str, Any], _given: Any) -> int:
        """Bytes at the peak of the phase."""
        self._open.__exit__(None, None, None)
        return self._meter.phases[-1].peak_bytes

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
    """A miner's window, phase by phase."""

    def __init__(self, call: Callable[[str], list[Any]]) -> None:
        self._call = call
        self.phases: list[dict[str, Any]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._call("meter_begin")
        started_s = time.perf_counter()
        yield
        wall_s = time.perf_counter() - started_s
        self.phases.append({"name": name, "wall_s": wall_s, "peak_bytes": self._call("meter_end")})

    def run(
        self,
        spec: RunSpec,
        folder: Path,
        spreader: Spreader | None,
        parts: Callable[[], tuple[Trainer, Feedback]],
    ) -> None:
        form = form_of(spec)
        payloads = [
            open_payload(frame, member, WINDOW, form, spec.outer.max_staleness)
            for member, frame in read_frames(spec, folder)[:NUM_PAYLOADS]
        ]
        self._call("warm")
        with self.phase("join"):
            state = first_state(read_theta0(spec, folder, spreader), spec.run_id)
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
        factors = dict.fromkeys(form.shapes, 0.1)
        with self.phase("outer step"):
            after = apply_updates(state.params, [(payload, factors) for payload in payloads])
        with self.phase("digest and sample"):
            params_digest(first_state(after, spec.run_id))
            sample_of(after, SEED)


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


def _alone(spec: RunSpec, form: PayloadFormat, folder: Path) -> Bench:
    meter = orders_of(RankMeter(_warm_alone))
    bench = Bench(lambda order: [meter[order]({}, None)])
    decay = spec.compression.error_feedback_decay
    bench.run(
        spec,
        folder,
        None,
        lambda: (
            InnerTrainer(spec, "cpu", InnerOptions(micro_batch=1)),
            ErrorFeedback(form, decay, {}),
        ),
    )
    return bench


def _together(crew: Crew, spec: RunSpec, folder: Path) -> Bench:
    bench = Bench(crew.team.call)
    decay = spec.compression.error_feedback_decay
    bench.run(
        spec,
        folder,
        crew.spreader,
        lambda: (crew.trainer(), crew.feedback(decay, {}, RETURNED_SHARE)),
    )
    return bench


def main(size: str, folder: Path) -> None:
    torch.set_num_threads(1)
    load_kernels()
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    spec = read_spec(size, folder)
    form = form_of(spec)
    if ranks == 1:
        bench = _alone(spec, form, folder)
    else:
        place = Place(rank=rank, size=ranks, local_rank=rank)
        duties = Duties(
            spec=spec, form=form, device=torch.device("cpu"), options=InnerOptions(micro_batch=1)
        )
        group = join(place, "cpu", meeting=folder / "meeting")
        more = orders_of(RankMeter(partial(_warm_rank, ranks)))
        if rank:
            follow(group, duties, more)
            return
        crew = Crew(group, duties, more)
        bench = _together(crew, spec, folder)
        crew.end()
    print(json.dumps({"parameters": num_params(spec), "ranks": ranks, "phases": bench.phases}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
