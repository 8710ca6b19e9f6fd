"""What a neuron is started with so that faults can reach it: a clock, and a way past proxies.

Compiles `shim.c`, which the loader puts before the C library: the neuron itself is the real
one, unchanged. Linux only. Does not own when the clock goes wrong.
"""

import os
import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from template.errors import ConfigError

SOURCE: Final = Path(__file__).with_name("shim.c")
_OFFSET: Final = struct.Struct("=q")


class Clock:
    """The wall clock of the processes that were started with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(_OFFSET.pack(0))

    def set_offset(self, seconds: int) -> None:
        """From now on their time is the machine's plus this.

        Written in place: they have the file mapped, and another would not reach them.
        """
        with self.path.open("r+b") as file:
            file.write(_OFFSET.pack(seconds))


def build(folder: Path) -> Path:
    """The compiled library. ConfigError if there is no C compiler, or it fails."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise ConfigError(
            "cc: not there; install a C compiler (Debian: apt install gcc), or set CC"
        )
    path = folder / "shim.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(path), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{SOURCE.name} does not compile:\n{done.stderr}")
    return path


def environment(library: Path, clock: Clock, ports: Mapping[int, int]) -> dict[str, str]:
    """Variables that load the library. `ports`: on loopback, the server's -> its proxy's."""
    return {
        "LD_PRELOAD": str(library),
        "CHAOS_CLOCK": str(clock.path),
        "CHAOS_PORTS": ",".join(f"{server}:{proxy}" for server, proxy in ports.items()),
    }
