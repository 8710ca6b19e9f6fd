"""Memory and time of a neuron's window by the number of ranks, over gloo on the CPU.

    python -m benchmarks.scale [--roles miner validator] [--sizes 10M] [--ranks 1 2 4]

Every rank is a process of one thread. Memory is what a rank takes beyond an idle rank; time on a
machine with fewer cores than ranks says little. Writes scale.json; rows that are not measured now
stay. Exit status 1 if the memory of the fullest rank does not fall with the number of ranks.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch

from benchmarks.scale.rank import TRAIN_STEP
from benchmarks.scale.scoring import scoring_of
from benchmarks.size.report import RESULTS
from benchmarks.size.world import SIZES, write_world

ROOT = Path(__file__).resolve().parents[2]
ROLES = ("miner", "validator")
LIMIT_S = 900


def main(argv: list[str]) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--roles", choices=ROLES, nargs="+", default=list(ROLES))
    parser.add_argument("--sizes", choices=SIZES, nargs="+", default=["10M"])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER")
    arguments = parser.parse_args(argv)
    path = arguments.out / "scale.json"
    rows = json.loads(path.read_text("utf-8"))["rows"] if path.exists() else []
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory(prefix="tessera-scale-") as name:
            write_world(size, Path(name))
            for role, ranks in product(arguments.roles, arguments.ranks):
                row = measure(role, size, ranks, Path(name))
                rows = [other for other in rows if place_of(other) != place_of(row)]
                rows.append(row)
                print(line_of(row), flush=True)
    rows.sort(key=place_of)
    result = {
        "rows": rows,
        "machine": {
            "cpus": os.cpu_count(),
            "threads_per_rank": 1,
            "backend": "gloo",
            "python": platform.python_version(),
            "torch": torch.__version__,
            "load": [round(load, 1) for load in os.getloadavg()],
        },
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, sort_keys=True) + "\n"
    path.write_text(text, "utf-8")
    return int(not falls(rows))


def place_of(row: dict[str, Any]) -> tuple[int, int, int]:
    """Where a row stands in the record."""
    return ROLES.index(row["role"]), list(SIZES).index(row["size"]), row["ranks"]


def measure(role: str, size: str, ranks: int, folder: Path) -> dict[str, Any]:
    """A window of a neuron of so many ranks; bytes and seconds by phase, and a parameter."""
    for left in ("meeting", "node.safetensors"):
        (folder / left).unlink(missing_ok=True)
    running = [_start(role, size, rank, ranks, folder) for rank in range(ranks)]
    try:
        out, _ = running[0].communicate(timeout=LIMIT_S)
        ends = [process.wait(LIMIT_S) for process in running]
    finally:
        for process in running:
            process.kill()
    if any(ends):
        raise RuntimeError(f"{ranks} ranks ended with {ends}")
    row: dict[str, Any] = json.loads(out)
    count = row["parameters"]
    # A validator never trains: the step is there for the speed of the machine.
    phases = [phase for phase in row["phases"] if phase["name"] != TRAIN_STEP]
    peaks = [max(phase["peak_bytes"][rank] for phase in phases) for rank in range(ranks)]
    row["role"], row["size"] = role, size
    row["peak_bytes_per_parameter"] = [round(peak / count, 2) for peak in peaks]
    row["seconds_per_million_parameters"] = {
        phase["name"]: round(phase["wall_s"] / count * 1e6, 4) for phase in row["phases"]
    }
    if role == "validator" and ranks == 1:
        row["scoring"] = asdict(scoring_of(row))
    return row


def _start(role: str, size: str, rank: int, ranks: int, folder: Path) -> subprocess.Popen[str]:
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
    }
    command = [sys.executable, "-m", "benchmarks.scale.rank", role, size, str(folder)]
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=None if rank else subprocess.PIPE, text=True
    )


def line_of(row: dict[str, Any]) -> str:
    """A line for the screen."""
    peaks = row["peak_bytes_per_parameter"]
    return (
        f"{row['role']} {row['size']}, {row['ranks']} ranks: peak bytes a parameter by rank "
        f"{peaks}, seconds for a million parameters {row['seconds_per_million_parameters']}"
    )


def falls(rows: list[dict[str, Any]]) -> bool:
    """Whether the fullest rank has less, the more ranks there are."""
    return all(
        max(after["peak_bytes_per_parameter"]) < max(before["peak_bytes_per_parameter"])
        for before, after in pairwise(rows)
        if (before["role"], before["size"]) == (after["role"], after["size"])
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
