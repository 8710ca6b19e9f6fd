"""Time and memory of each phase of a window at 1 M, 10 M and 100 M parameters.

    python -m benchmarks.size [--quick]

Every role and size runs in a process of its own, on two threads. Writes size.json, size.md and
size.png. Exit status 1 if a bar does not hold.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.size.report import RESULTS, bars, write_all
from benchmarks.size.world import SIZES, write_world

NUM_THREADS = 2
ROOT = Path(__file__).resolve().parents[2]
QUICK = ("1M",)


def main(argv: list[str]) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="1 M parameters alone, without bars")
    parser.add_argument("--repeats", type=int, default=3, help="processes for each role and size")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(NUM_THREADS)
    rows: list[dict[str, Any]] = []
    for size in QUICK if arguments.quick else SIZES:
        with tempfile.TemporaryDirectory(prefix="tessera-size-") as name:
            write_world(size, Path(name))
            for role in ("miner", "validator"):
                runs = [_measure(role, size, Path(name)) for _ in range(arguments.repeats)]
                rows.append(_quietest(runs))
                print(f"{role} {size}: done", flush=True)
    result = {
        "rows": rows,
        "machine": {
            "cpus": os.cpu_count(),
            "threads": NUM_THREADS,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "load": [round(load, 1) for load in os.getloadavg()],
        },
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_all(result, arguments.out)
    print((arguments.out / "size.md").read_text("utf-8"))
    return int(not all(bar.holds for bar in bars(result)))


def _measure(role: str, size: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.size.roles", role, size, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(NUM_THREADS)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def _quietest(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The least time of each phase over the runs, and the most memory: others share the machine."""
    first, *others = runs
    for other in others:
        for phase, again in zip(first["phases"], other["phases"], strict=True):
            phase["wall_s"] = min(phase["wall_s"], again["wall_s"])
            phase["cpu_s"] = min(phase["cpu_s"], again["cpu_s"])
            phase["peak_bytes"] = max(phase["peak_bytes"], again["peak_bytes"])
    return first


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
