"""Child processes of a localnet: started with a log, ended together on every exit.

On Linux a child is killed when the launcher dies, even by kill -9. `keeper` decides on restarts.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from localnet.buckets import tied_to
from template.errors import ConfigError

STOP_LIMIT_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Command line, environment and log of a process; the log gets stdout and stderr."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log_path: Path

    def __repr__(self) -> str:
        """The name alone: the environment holds credentials."""
        return f"Command({self.name})"


class Child:
    """A restartable process; after a restart, `pid` and `exit` belong to the new process."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self._process = _spawn(command)

    @property
    def name(self) -> str:
        return self.command.name

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit(self) -> int | None:
        """The exit status, negative for a signal; None for a running process."""
        return self._process.poll()

    def start_again(self) -> None:
        """Start the same command once more. ValueError if the process still runs."""
        if self.exit is None:
            raise ValueError(f"{self.name} still runs")
        self._process = _spawn(self.command)

    def log_tail(self, num_bytes: int = 2000) -> str:
        return self.command.log_path.read_bytes()[-num_bytes:].decode("utf-8", "replace")

    def signal(self, number: int) -> None:
        """Send a signal to the group of a running process."""
        if self.exit is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def wait(self, limit_s: float) -> None:
        """Return when the process has ended, or after `limit_s`."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(limit_s)


class Children:
    """A context manager; leaving the `with` block ends every process."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def start(self, command: Command) -> Child:
        """Start a process in a group of its own."""
        child = Child(command)
        self._children.append(child)
        return child

    def stop(self) -> None:
        """Send SIGTERM to every process, and SIGKILL after STOP_LIMIT_S. Idempotent."""
        for child in self._children:
            child.signal(signal.SIGTERM)
        end_s = time.monotonic() + STOP_LIMIT_S
        for child in self._children:
            child.wait(max(0.0, end_s - time.monotonic()))
            child.signal(signal.SIGKILL)
            child.wait(STOP_LIMIT_S)


def _spawn(command: Command) -> subprocess.Popen[bytes]:
    """Start a process tied to the calling thread: on Linux the thread's end kills the process."""
    command.log_path.parent.mkdir(parents=True, exist_ok=True)
    with command.log_path.open("ab") as log:
        return subprocess.Popen(
            list(command.argv),
            env=dict(command.env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=tied_to(os.getpid()),
        )


def wait_for_line(child: Child, start: str, limit_s: float) -> str:
    """The first line of a child's log with this start; ConfigError after `limit_s` seconds."""
    end_s = time.monotonic() + limit_s
    path = child.command.log_path
    while time.monotonic() < end_s:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(start):
                return line
        if child.exit is not None:
            raise ConfigError(f"{child.name} ended while starting:\n{child.log_tail()}")
        time.sleep(0.05)
    raise ConfigError(f"{child.name} was not ready in {limit_s:.0f} s:\n{child.log_tail()}")
