"""Time and peak memory of phases in this process, beyond what was in memory at the start."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

PAGE_BYTES = 1024
BEFORE_WINDOW = "save before"
"""The phase that brings the disk to what a window begins with."""
RESTART = "restart"
"""The phase in which a process takes up what the process before has saved."""
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""Written to `clear_refs`: the peak of the resident set starts anew at its present value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """One phase. `peak_bytes`: the most in memory during it, beyond the start of the meter."""

    name: str
    wall_s: float
    cpu_s: float
    peak_bytes: int


class Meter:
    """Measures phases one after another."""

    def __init__(self) -> None:
        gc.collect()
        self._start_bytes = _status_bytes("VmRSS")
        self.phases: list[Phase] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the block."""
        _CLEAR.write_text(RESET_PEAK, "ascii")
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.phases.append(
            Phase(
                name=name,
                wall_s=time.perf_counter() - wall,
                cpu_s=time.process_time() - cpu,
                peak_bytes=_status_bytes("VmHWM") - self._start_bytes,
            )
        )

    def rows(self) -> list[dict[str, float | int | str]]:
        """The phases as JSON values."""
        return [asdict(phase) for phase in self.phases]


def _status_bytes(key: str) -> int:
    for line in _STATUS.read_text("ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * PAGE_BYTES
    raise RuntimeError(f"{_STATUS}: no {key}; this benchmark needs Linux")
