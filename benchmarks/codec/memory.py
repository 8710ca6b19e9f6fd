"""Peak memory of aggregating payloads from files, in a process of its own.

The parameters are in memory (O(model)); each payload is read from its file when its turn
comes. Prints the peak resident set of the process in MB, and in the line's second field
what it was before the first payload.

    python -m benchmarks.codec.memory ours 20 <folder>
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.codec import baseline
from benchmarks.codec.shapes import Shapes, bench_shapes
from compression import aggregate, make_plan

NUM_THREADS = 2


def write_payloads(folder: Path, ours: list[bytes], theirs: list[baseline.BaselinePayload]) -> None:
    """Files that the measured processes read."""
    for number, (body, packed) in enumerate(zip(ours, theirs, strict=True)):
        (folder / f"{number}.ours").write_bytes(body)
        flat: dict[str, Tensor] = {}
        for name, tensor in packed.items():
            flat |= {f"{name}/i": tensor.indices, f"{name}/c": tensor.codes}
            flat |= {f"{name}/l": tensor.lookup, f"{name}/s": tensor.shift}
        save_file(flat, folder / f"{number}.baseline")


def peak_mb(side: str, num_payloads: int, folder: Path, shapes: Shapes) -> tuple[float, float]:
    """Peak RSS of this process after one aggregation, and RSS before it."""
    torch.set_num_threads(NUM_THREADS)
    params = {name: torch.full(shape, 0.5) for name, shape in shapes.items()}
    before = _status_mb("VmRSS")
    if side == "ours":
        factors = dict.fromkeys(shapes, 1.0 / num_payloads)
        bodies = ((folder / f"{n}.ours").read_bytes() for n in range(num_payloads))
        aggregate(params, ((b, factors) for b in bodies), make_plan(shapes), NUM_THREADS)
    else:
        payloads = list(_read_baseline(folder, num_payloads, shapes))
        baseline.aggregate(params, payloads, 1.0)
    return _status_mb("VmHWM"), before


def _read_baseline(
    folder: Path, num_payloads: int, shapes: Shapes
) -> Iterator[baseline.BaselinePayload]:
    for number in range(num_payloads):
        flat = load_file(folder / f"{number}.baseline")
        yield {
            name: baseline.BaselineTensor(
                indices=flat[f"{name}/i"],
                codes=flat[f"{name}/c"],
                lookup=flat[f"{name}/l"],
                shift=flat[f"{name}/s"],
            )
            for name in shapes
        }


def _status_mb(field: str) -> float:
    """Linux: VmHWM belongs to this program alone, ru_maxrss also to who started it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    peak, before_mb = peak_mb(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), bench_shapes())
    print(f"{peak:.1f} {before_mb:.1f}")
