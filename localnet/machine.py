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
from template.host import free_memory_bytes, num_cores

SERVERS_BYTES: Final = 400_000_000
"""Memory of launcher, chain and bucket server together. Measured: 0.35 GB at nine hotkeys."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """`cores` may be a fraction. `memory_bytes`: free for new processes, None if unknown."""

    cores: float
    memory_bytes: int | None
    disk_bytes: int


def look_at_machine(out: Path) -> Machine:
    """The machine as of now; `out` is an existing folder."""
    return Machine(
        cores=num_cores(),
        memory_bytes=free_memory_bytes(),
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
