"""What the host's work costs for each parameter: a record of `benchmarks.size`, as straight lines.

A phase's CPU seconds and memory at two sizes make a line in the number of parameters. The lines lie
in `costs.json`; `contrib/hardware_pages.py` makes the file of the record.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

COSTS_FILE: Final = Path(__file__).with_name("costs.json")
SIZES: Final = ("10M", "100M")
"""The sizes of the record that make the lines."""
NUM_PAYLOADS: Final = 20
"""Payloads in the record's windows."""
MAX_THREADS: Final = 16
"""More threads do not help: the loops wait for memory."""
SOCKETS: Final = 2
"""Of a host with several devices: each socket has a memory of its own, which ranks on it use."""
IN_THREADS: Final = frozenset({"open payloads", "overlap places", "encode", "outer step", "digest"})
"""Phases whose loops use all cores; the others use one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseCost:
    """A phase of the record. `times`: how often in a window. Seconds are of one run, on one core;
    bytes are the process's peak in the phase, beyond interpreter and libraries.
    """

    role: str
    name: str
    times: int
    fixed_s: float
    s_per_parameter: float
    fixed_bytes: float
    bytes_per_parameter: float

    def cpu_s(self, parameters: int) -> float:
        """CPU seconds of one run."""
        return max(0.0, self.fixed_s + self.s_per_parameter * parameters)

    def peak_bytes(self, parameters: int) -> float:
        return max(0.0, self.fixed_bytes + self.bytes_per_parameter * parameters)


def codec_threads(cores: int, processes: int) -> int:
    """Threads of the codec's loops in all ranks of a host."""
    return min(cores, MAX_THREADS * min(processes, SOCKETS))


@dataclass(frozen=True, slots=True)
class Costs:
    """All phases of a record."""

    phases: tuple[PhaseCost, ...]

    def of(self, role: str, name: str) -> PhaseCost:
        """A phase by role and name; KeyError if the record has none."""
        for phase in self.phases:
            if (phase.role, phase.name) == (role, name):
                return phase
        raise KeyError(f"{COSTS_FILE.name}: has no phase {name!r} of a {role}")

    def seconds(
        self, role: str, name: str, parameters: int, cores: int, processes: int = 1
    ) -> float:
        """Seconds of one run of a phase on a machine with so many cores; `processes`: ranks, each
        with its part of the model.
        """
        threads = codec_threads(cores, processes) if name in IN_THREADS else 1
        return self.of(role, name).cpu_s(parameters) / threads

    def of_role(self, role: str) -> tuple[PhaseCost, ...]:
        return tuple(phase for phase in self.phases if phase.role == role)


def fit_costs(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines of a record of `benchmarks.size`, as plain values for `costs.json`."""
    rows = {(row["role"], row["size"]): row for row in record["rows"]}
    roles = dict.fromkeys(role for role, _ in rows)
    return [
        asdict(_fit(role, name, [rows[role, size] for size in SIZES]))
        for role in roles
        for name in dict.fromkeys(phase["name"] for phase in rows[role, SIZES[0]]["phases"])
    ]


def _fit(role: str, name: str, rows: Sequence[Mapping[str, Any]]) -> PhaseCost:
    runs = [[phase for phase in row["phases"] if phase["name"] == name] for row in rows]
    params = [float(row["params"]) for row in rows]
    seconds = [sum(phase["cpu_s"] for phase in run) / len(run) for run in runs]
    peaks = [float(max(phase["peak_bytes"] for phase in run)) for run in runs]
    fixed_s, s_per_parameter = _line(params, seconds)
    fixed_bytes, bytes_per_parameter = _line(params, peaks)
    return PhaseCost(
        role=role,
        name=name,
        times=len(runs[-1]),
        fixed_s=fixed_s,
        s_per_parameter=s_per_parameter,
        fixed_bytes=fixed_bytes,
        bytes_per_parameter=bytes_per_parameter,
    )


def _line(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """The line through two points; through the origin and the far point if it would fall."""
    (near, far), (low, high) = xs, ys
    slope = (high - low) / (far - near)
    if slope <= 0:
        return 0.0, _short(high / far)
    return _short(low - slope * near), _short(slope)


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def costs_text(record: Mapping[str, Any]) -> str:
    """The text of `costs.json`."""
    return json.dumps({"phases": fit_costs(record)}, indent=1) + "\n"


@lru_cache(maxsize=1)
def read_costs() -> Costs:
    """The costs of this package's file."""
    rows = json.loads(COSTS_FILE.read_text("ascii"))["phases"]
    return Costs(tuple(PhaseCost(**row) for row in rows))
