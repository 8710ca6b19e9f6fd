"""Memory and cores of this machine, as a new process finds them.

The limits of a container (cgroup version 2) count as the machine's own. Figures that this system
does not tell are None.
"""

import os
from pathlib import Path
from typing import Final

CGROUP: Final = Path("/sys/fs/cgroup")
MEMINFO: Final = Path("/proc/meminfo")
_KIB: Final = 1024


def num_cores() -> float:
    """Cores that this process may use, a fraction under a container's quota."""
    return min(_num_cpus(), _quota())


def free_memory_bytes() -> int | None:
    """Memory that new processes may have, by the kernel's estimate and the container's limit."""
    found = _meminfo("MemAvailable:")
    if (limit := _memory_limit()) is not None:
        found.append(limit - _held_bytes())
    return min(found, default=None)


def total_memory_bytes() -> int | None:
    """Memory of the machine or of the container, whichever is less."""
    found = _meminfo("MemTotal:")
    if (limit := _memory_limit()) is not None:
        found.append(limit)
    return min(found, default=None)


def _meminfo(label: str) -> list[int]:
    lines = [line.split() for line in _text(MEMINFO).splitlines()]
    return [int(words[1]) * _KIB for words in lines if words[:1] == [label]]


def _memory_limit() -> int | None:
    limit = _words(CGROUP / "memory.max")
    return int(limit[0]) if limit and limit[0] != "max" else None


def _held_bytes() -> int:
    """Memory that this container holds and cannot give back."""
    values = dict(line.split() for line in _text(CGROUP / "memory.stat").splitlines())
    return sum(int(values.get(key, 0)) for key in ("anon", "shmem", "unevictable"))


def _num_cpus() -> float:
    if hasattr(os, "sched_getaffinity"):
        return float(len(os.sched_getaffinity(0)))
    return float(os.cpu_count() or 1)


def _quota() -> float:
    """The CPU limit of this container in cores; infinite without one."""
    words = _words(CGROUP / "cpu.max")
    if len(words) < 2 or words[0] == "max":
        return float("inf")
    return int(words[0]) / int(words[1])


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
