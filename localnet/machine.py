"""What this machine has for a localnet: cores, memory, disk; and what a localnet needs of them.

The limits of a container (cgroup version 2) count as the machine's own. Figures that this system
does not tell are None, and nothing is demanded then.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from template.errors import ConfigError

CGROUP: Final = Path("/sys/fs/cgroup")
MEMINFO: Final = Path("/proc/meminfo")
SERVERS_BYTES: Final = 400_000_000
"""Memory of launcher, chain and bucket server together. Measured: 0.35 GB at nine hotkeys."""
_KIB: Final = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """`cores` may be a fraction. `memory_bytes`: free for new processes, None if unknown."""

    cores: float
    memory_bytes: int | None
    disk_bytes: int


def look_at_machine(out: Path) -> Machine:
    """The machine as of now; `out` is an existing folder."""
    return Machine(
        cores=min(_num_cpus(), _quota()),
        memory_bytes=_free_memory_bytes(),
        disk_bytes=shutil.disk_usage(out).free,
    )


def demand_memory(machine: Machine, processes: int, process_bytes: int) -> None:
    """ConfigError if so many processes of this size do not fit into the free memory."""
    needed = processes * process_bytes + SERVERS_BYTES
    if machine.memory_bytes is None or machine.memory_bytes >= needed:
        return
    fitting = max(0, machine.memory_bytes - SERVERS_BYTES) // max(1, process_bytes)
    raise ConfigError(
        f"memory: {processes} processes of {process_bytes / 1e9:.2f} GB need "
        f"{needed / 1e9:.1f} GB with chain and bucket server, and {machine.memory_bytes / 1e9:.1f} "
        f"GB are free: end other programs, or take fewer --miners and --validators ({fitting} "
        "neurons fit)"
    )


def demand_disk(machine: Machine, out: Path, needed: int) -> None:
    """ConfigError if the file system of `out` has less room than `needed` bytes."""
    if machine.disk_bytes < needed:
        raise ConfigError(
            f"disk: the run takes {needed / 1e9:.2f} GB, and the file system of {out} has "
            f"{machine.disk_bytes / 1e9:.2f} GB free: free some, or name another place with --out"
        )


def cpu_s(pid: int) -> float:
    """Seconds of CPU of a process and its ended children so far; 0 for none and without /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / float(os.sysconf("SC_CLK_TCK"))


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


def _free_memory_bytes() -> int | None:
    """Memory that new processes may have, by the kernel's estimate and the container's limit."""
    lines = [line.split() for line in _text(MEMINFO).splitlines()]
    found = [int(words[1]) * _KIB for words in lines if words[:1] == ["MemAvailable:"]]
    limit = _words(CGROUP / "memory.max")
    if limit and limit[0] != "max":
        found.append(int(limit[0]) - _held_bytes())
    return min(found, default=None)


def _held_bytes() -> int:
    """Memory that this container holds and cannot give back."""
    values = dict(line.split() for line in _text(CGROUP / "memory.stat").splitlines())
    return sum(int(values.get(key, 0)) for key in ("anon", "shmem", "unevictable"))


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
