"""Child processes of a localnet: started with a log, ended together, whatever happens.

On Linux a child is killed when the launcher dies, even by kill -9.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from template.errors import ConfigError
from template.localnet.buckets import tied_to

STOP_LIMIT_S = 10.0


@dataclass(kw_only=True)
class Child:
    """One process; `exit` is None while it runs."""

    name: str
    log_path: Path
    process: subprocess.Popen[bytes]

    @property
    def exit(self) -> int | None:
        return self.process.poll()

    def log_tail(self, num_bytes: int = 2000) -> str:
        return self.log_path.read_bytes()[-num_bytes:].decode("utf-8", "replace")


class Children:
    """A context manager that ends all its processes on the way out."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def start(
        self, name: str, argv: Sequence[str], env: Mapping[str, str], log_path: Path
    ) -> Child:
        """Start a process in a group of its own; both its outputs go to the log."""
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                list(argv),
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=tied_to(os.getpid()),
            )
        child = Child(name=name, log_path=log_path, process=process)
        self._children.append(child)
        return child

    def stop(self) -> None:
        """Ask all to end, then kill what is left after STOP_LIMIT_S. Idempotent."""
        for child in self._children:
            _signal(child, signal.SIGTERM)
        end_s = time.monotonic() + STOP_LIMIT_S
        for child in self._children:
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, end_s - time.monotonic()))
            _signal(child, signal.SIGKILL)
            child.process.wait()


def _signal(child: Child, number: int) -> None:
    if child.exit is None:
        with suppress(ProcessLookupError):
            os.killpg(child.process.pid, number)


def wait_for_line(child: Child, start: str, limit_s: float) -> str:
    """The first line of a child's log that starts so; ConfigError if none comes in time."""
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        for line in child.log_path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(start):
                return line
        if child.exit is not None:
            raise ConfigError(f"{child.name} ended while starting:\n{child.log_tail()}")
        time.sleep(0.05)
    raise ConfigError(f"{child.name} was not ready in {limit_s:.0f} s:\n{child.log_tail()}")
