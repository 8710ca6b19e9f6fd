"""What training a block range takes, beside training the whole model: bytes and seconds of a step.

    python -m benchmarks.size.ranges [--size 100M] [--parts 4]

The whole model and every part in a process of its own, on one thread, one after another. Writes
size_ranges.json and size_ranges.md. A part's process has moments of all tensors, as a miner's has
after a few windows; on a CPU these lie in the same memory, and the table counts them apart.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.size.meter import Meter
from benchmarks.size.report import RESULTS
from benchmarks.size.roles import pages
from benchmarks.size.world import BATCH_PAGES, PAGE_TOKENS, SIZES, WINDOW, num_params, spec_of
from template.planning.memory import GRADIENT_BYTES, MODEL_BYTES, MOMENTS_BYTES
from template.planning.ranges import parts_of
from template.protocol.ranges import cut_model
from template.training.inner import InnerTrainer
from template.training.memory import KEPT, give_back_freed
from template.training.model import initial_params, tensor_shapes
from template.training.options import InnerOptions

ROOT = Path(__file__).resolve().parents[2]
STEPS, ROUNDS = 3, 2
TRAINED_BYTES = MODEL_BYTES + GRADIENT_BYTES + MOMENTS_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """The whole model (`part` None), or a part. Bytes beyond theta and the libraries; seconds of
    an inner step, the least of `ROUNDS`. `flops_share`: calculated, of the whole's operations.
    """

    part: int | None
    params: int
    trained: int
    peak_bytes: int
    step_s: float
    flops_share: float

    @property
    def own_bytes(self) -> int:
        """Without the moments of what does not train."""
        return self.peak_bytes - MOMENTS_BYTES * (self.params - self.trained)


def measure(size: str, parts: int, part: int | None) -> Row:
    """Train in this process."""
    torch.manual_seed(0)
    spec = spec_of(size)
    shapes, theta = tensor_shapes(spec), initial_params(spec, 1)
    cut = [frozenset(names) for names in cut_model(shapes, parts)]
    names = None if part is None else cut[part]
    meter = Meter()
    trainer = InnerTrainer(
        spec, "cpu", InnerOptions(micro_batch=BATCH_PAGES, parts=1 if part is None else parts)
    )
    step_s = float("inf")
    batches = [pages(BATCH_PAGES) for _ in range(STEPS)]
    if part is not None:  # every tensor has moments before the part that is measured
        trainer.load_moments(_zero_moments(shapes))
    with meter.phase("train"):
        for _ in range(ROUNDS):
            result = trainer.train(theta, WINDOW, batches, lambda: False, trained=names)
            step_s = min(step_s, result.busy_s / STEPS)
            del result
            KEPT.release()
            give_back_freed()
    (whole,), ranges = parts_of(spec, 1), parts_of(spec, parts)
    return Row(
        part=part,
        params=num_params(spec),
        trained=whole.parameters if part is None else ranges[part].parameters,
        peak_bytes=meter.phases[-1].peak_bytes,
        step_s=step_s,
        flops_share=1.0 if part is None else ranges[part].flops_per_token / whole.flops_per_token,
    )


def _zero_moments(shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """Moments as after a checkpoint, in memory of their own."""
    made = {f"step.{name}": torch.ones(()) for name in shapes}
    for key in ("exp_avg", "exp_avg_sq"):
        made |= {f"{key}.{name}": torch.full(tuple(shape), 1e-9) for name, shape in shapes.items()}
    return made


def page(rows: Sequence[Row], parts: int) -> str:
    """The table."""
    whole = rows[0]
    lines = [
        "# What training a block range takes",
        "",
        f"Written by `python -m benchmarks.size.ranges`: {whole.params:,} parameters, cut into",
        f"{parts} parts; {BATCH_PAGES} pages of {PAGE_TOKENS} tokens a step, float32 on a CPU, one",
        "thread, each row in a process of its own. Bytes are the peak beyond theta (which the",
        "frozen tensors are), for each parameter of the model; *own* leaves out the moments of",
        "what does not train, which a miner with a GPU has in the host's memory. Calculated: 16",
        "bytes (float32, gradient, both moments) for each trained parameter; the planner's",
        "operations of a step. With so few tokens AdamW's memory traffic is most of a step, so a",
        "range gains more than operations. Nothing here ran on a GPU.",
        "",
        "| trained | parameters | peak | own | calculated | step | of the whole's | calculated |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = (
            "whole" if row.part is None else f"part {row.part}",
            f"{row.trained:,}",
            f"{row.peak_bytes / row.params:.1f}",
            f"{row.own_bytes / row.params:.1f}",
            f"{TRAINED_BYTES * row.trained / row.params:.1f}",
            f"{row.step_s:.2f} s",
            f"{row.step_s / whole.step_s:.2f}",
            f"{row.flops_share:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _in_process(size: str, parts: int, part: int | None) -> Row:
    code = "from benchmarks.size.ranges import show; show({!r}, {!r}, {!r})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code.format(size, parts, part)],
        cwd=ROOT,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return Row(**json.loads(done.stdout))


def _values(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Row.__dataclass_fields__}


def show(size: str, parts: int, part: int | None) -> None:
    """Measure, and print a JSON line."""
    print(json.dumps(_values(measure(size, parts, part))))


def main(argv: Sequence[str]) -> int:
    """Measure all rows, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--size", choices=SIZES, default="100M")
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER")
    arguments = parser.parse_args(argv)
    found = (None, *range(arguments.parts))
    rows = [_in_process(arguments.size, arguments.parts, part) for part in found]
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = page(rows, arguments.parts)
    (arguments.out / "size_ranges.md").write_text(text, "utf-8")
    record = json.dumps({"parts": arguments.parts, "rows": list(map(_values, rows))}, indent=1)
    (arguments.out / "size_ranges.json").write_text(record + "\n", "ascii")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
