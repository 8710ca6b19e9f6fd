"""The codec beside the peer's method, on the same tensors in one run.

Prints a table and writes benchmarks/results/codec.json and codec.png. Times are seconds per
100 M parameters on two threads; ours and the baseline take turns, and who is first changes
with every repeat.

    python -m benchmarks.codec --quick
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.codec import baseline
from benchmarks.codec.memory import write_payloads
from benchmarks.codec.quality import quality, sizes
from benchmarks.codec.report import RESULTS, draw, print_table, write_json
from benchmarks.codec.shapes import bench_shapes, gaussian_model, num_params, rolled
from compression import aggregate, apply, check, decode, encode_with_feedback, make_plan

NUM_THREADS, TOP_K, DECAY = 2, 64, 0.95
NUM_PEERS, ROLL = 20, 1_000_003
PEAK_PAYLOADS = (1, 5, 20)
PER_PARAMS = 100e6
ROOT = Path(__file__).resolve().parents[2]


@dataclass(kw_only=True)
class Bench:
    """Everything that is timed works on this."""

    deltas: dict[str, Tensor]
    ours: list[bytes] = field(default_factory=list)
    theirs: list[baseline.BaselinePayload] = field(default_factory=list)

    def __post_init__(self) -> None:
        shapes = {name: tuple(t.shape) for name, t in self.deltas.items()}
        self.plan = make_plan(shapes, TOP_K)
        self.our_residual = {n: torch.zeros(s) for n, s in shapes.items()}
        self.their_residual = {n: torch.zeros(s) for n, s in shapes.items()}
        self.params = {n: torch.zeros(s) for n, s in shapes.items()}
        self.mean = dict.fromkeys(shapes, 1.0 / NUM_PEERS)
        for peer in range(NUM_PEERS):
            dense = rolled(self.deltas, peer * ROLL)
            self.ours.append(self._encode_ours(dense))
            self.theirs.append(baseline.encode(dense, TOP_K))

    def _encode_ours(self, dense: dict[str, Tensor]) -> bytes:
        for residual in self.our_residual.values():
            residual.zero_()
        return encode_with_feedback(
            dense, self.our_residual, self.plan, decay=DECAY, num_threads=NUM_THREADS
        )

    def operations(self) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
        """Name -> what is timed of ours, and of the baseline."""
        return {
            "encode": (self._encode, self._encode_baseline),
            "decode": (self._decode, lambda: baseline.decode(self.theirs[0], self.params)),
            "apply": (self._apply, lambda: baseline.apply(self.params, self.theirs[0], 0.1)),
            "aggregate20": (
                self._aggregate,
                lambda: baseline.aggregate(self.params, self.theirs, 0.1),
            ),
        }

    def encode_without_feedback(self) -> object:
        return baseline.encode(self.deltas, TOP_K)

    def _encode(self) -> object:
        return encode_with_feedback(
            self.deltas, self.our_residual, self.plan, decay=DECAY, num_threads=NUM_THREADS
        )

    def _encode_baseline(self) -> object:
        return baseline.error_feedback_step(self.their_residual, self.deltas, DECAY, TOP_K)

    def _decode(self) -> object:
        return decode(self.ours[0], self.plan, num_threads=NUM_THREADS)

    def _apply(self) -> None:
        sparse = decode(self.ours[0], self.plan, num_threads=NUM_THREADS)
        apply(self.params, sparse, self.mean, num_threads=NUM_THREADS)

    def _aggregate(self) -> None:
        """As the protocol does: check each body, clip its tensors to the median norm, add."""
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            norms = list(pool.map(lambda body: check(body, self.plan, num_threads=1), self.ours))
        median = {name: statistics.median_low(n[name] for n in norms) for name in self.params}
        factors = [
            {
                name: min(1.0, median[name] / max(norm, 1e-12)) / NUM_PEERS
                for name, norm in n.items()
            }
            for n in norms
        ]
        updates = zip(self.ours, factors, strict=True)
        aggregate(self.params, updates, self.plan, num_threads=NUM_THREADS)


def timed(operation: Callable[[], object]) -> float:
    """Seconds per 100 M parameters; what it returns is freed after the clock has stopped."""
    start_s = time.perf_counter()
    kept = operation()
    elapsed_s = time.perf_counter() - start_s
    del kept
    return elapsed_s


def alternate(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int, scale: float
) -> dict[str, dict[str, float | list[float]]]:
    """One warm-up each, then turns; the first to go changes every repeat."""
    ours()
    theirs()
    times: dict[str, list[float]] = {"ours": [], "baseline": []}
    for repeat in range(repeats):
        turns = [("ours", ours), ("baseline", theirs)]
        for side, operation in turns if repeat % 2 == 0 else turns[::-1]:
            times[side].append(timed(operation) * scale)
    return {side: summary(values) for side, values in times.items()}


def summary(values: list[float]) -> dict[str, float | list[float]]:
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
        "all": [round(value, 4) for value in values],
    }


def speed(bench: Bench, repeats: int) -> dict[str, Any]:
    scale = PER_PARAMS / bench.plan.num_elements
    seconds: dict[str, Any] = {}
    for name, (ours, theirs) in bench.operations().items():
        seconds[name] = alternate(ours, theirs, repeats, scale)
        print(
            f"  {name}: {seconds[name]['ours']['all']} against {seconds[name]['baseline']['all']}"
        )
    plain = [timed(bench.encode_without_feedback) * scale for _ in range(repeats)]
    seconds["encode_without_feedback"] = {"baseline": summary(plain)}
    ratio = {
        name: round(s["baseline"]["median"] / s["ours"]["median"], 2)
        for name, s in seconds.items()
        if "ours" in s
    }
    return {"seconds_per_100m": seconds, "ratio": ratio}


def memory(bench: Bench) -> dict[str, Any]:
    """Peak resident set of a process that aggregates 1, 5 or 20 payloads, per side."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_payloads(folder, bench.ours, bench.theirs)
        peaks: dict[str, dict[str, float]] = {}
        for side in ("ours", "baseline"):
            peaks[side] = {}
            for count in PEAK_PAYLOADS:
                peak, before = _measure(side, count, folder)
                peaks[side][str(count)] = peak
                peaks[side]["before"] = before
    model_mb = num_params(bench_shapes()) * 4 / 2**20
    before = peaks["ours"].pop("before")
    peaks["baseline"].pop("before")
    return {
        "peak_rss_mb": peaks["ours"],
        "peak_rss_mb_baseline": peaks["baseline"],
        "rss_mb_before": before,
        "model_mb": round(model_mb, 1),
    }


def _measure(side: str, count: int, folder: Path) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks.codec.memory", side, str(count), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(NUM_THREADS)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    peak, before = done.stdout.split()
    return float(peak), float(before)


def main(argv: list[str]) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="less data for the errors")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(NUM_THREADS)
    started_s = time.monotonic()
    print("errors of the values, on five kinds of tensors")
    result: dict[str, Any] = quality(arguments.quick)
    print(f"20 payloads of {num_params(bench_shapes()) / 1e6:.1f} M parameters")
    bench = Bench(deltas=gaussian_model(bench_shapes(), seed=1))
    result |= sizes(bench.ours[0], bench.theirs[0], bench.plan)
    result |= speed(bench, arguments.repeats)
    result |= memory(bench)
    result["machine"] = {
        "cpus": os.cpu_count(),
        "cpu": _cpu_name(),
        "threads": NUM_THREADS,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load_before": round(os.getloadavg()[2], 2),
        "seconds": round(time.monotonic() - started_s, 1),
        "quick": arguments.quick,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(result, arguments.out / "codec.json")
    draw(result, arguments.out / "codec.png")
    print_table(result)
    print(f"{arguments.out / 'codec.json'} and codec.png; {result['machine']['seconds']} s in all")


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main(sys.argv[1:])
