"""Restarts dead processes: the service manager of a localnet.

Owns time and number of restarts, like a systemd unit with `Restart=on-failure`, and the file of
pids by name. A service starts its own process; the keeper never ends a process.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

MAX_RESTARTS: Final = 5
FIRST_PAUSE_S: Final = 1.0
PAUSE_GROWTH: Final = 2.0
"""A process's five pauses add up to 31 s. A crash after five restarts needs an operator."""
MAX_PAUSE_S: Final = 16.0
"""The fifth pause, and every later pause with a higher `max_restarts`."""
NEURON_FINAL_STATUSES: Final = frozenset({0, 2, 130})
"""0: the run is over. 2: an operator must act. 130: asked to end."""
ASKED_TO_END: Final = frozenset({signal.SIGTERM, signal.SIGINT})


class Service(Protocol):
    """A restartable process: same command, same state."""

    @property
    def name(self) -> str: ...

    @property
    def pid(self) -> int: ...

    @property
    def exit(self) -> int | None:
        """The exit status, negative for a signal; None for a running process."""

    def start_again(self) -> None:
        """Start the process, and return without waiting for readiness."""


@dataclass(kw_only=True)
class _Kept:
    service: Service
    final_statuses: Collection[int]
    restarts: int = 0
    due_s: float | None = None
    is_over: bool = False


class Keeper:
    """Watches services and restarts dead services, in the caller's thread.

    Call `tick` often, and only from a thread with a longer life than the services.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        pids_path: Path,
        *,
        max_restarts: int = MAX_RESTARTS,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tell` gets a line on every crash; `max_restarts` is per service, 0 to disable."""
        self._tell = tell
        self._pids_path = pids_path
        self._max_restarts = max_restarts
        self._now_s = now_s
        self._kept: dict[str, _Kept] = {}
        self.last_restart_s = float("-inf")

    def keep(self, service: Service, final_statuses: Collection[int]) -> None:
        """Watch a service; `final_statuses` and the signals ASKED_TO_END are an end on purpose."""
        self._kept[service.name] = _Kept(service=service, final_statuses=final_statuses)
        self._write_pids()

    def tick(self) -> None:
        """Note crashes, and restart services at the end of a pause."""
        started = [self._look_after(kept) for kept in self._kept.values()]
        if any(started):
            self._write_pids()

    def exit_of(self, name: str) -> int | None:
        """The exit status of a service ended for good; None if running or due to restart."""
        kept = self._kept[name]
        return kept.service.exit if kept.is_over else None

    def service(self, name: str) -> Service:
        return self._kept[name].service

    def revive(self, name: str) -> None:
        """Restart a service ended for good. ValueError if running or due to restart."""
        kept = self._kept[name]
        if not kept.is_over:
            raise ValueError(f"{name} has not ended for good")
        kept.is_over = False
        kept.service.start_again()
        self.last_restart_s = self._now_s()
        self._write_pids()

    @property
    def restarts(self) -> dict[str, int]:
        """Service name -> number of restarts."""
        return {name: kept.restarts for name, kept in self._kept.items()}

    def _look_after(self, kept: _Kept) -> bool:
        """Note a crash, or restart after the pause; whether this call restarted the service."""
        status = kept.service.exit
        if status is None or kept.is_over:
            return False
        if kept.due_s is None:
            self._bury(kept, status)
        elif self._now_s() >= kept.due_s:
            kept.due_s = None
            kept.restarts += 1
            kept.service.start_again()
            self.last_restart_s = self._now_s()
            return True
        return False

    def _bury(self, kept: _Kept, status: int) -> None:
        name = kept.service.name
        kept.is_over = True
        if status in kept.final_statuses or -status in ASKED_TO_END:
            return
        if self._max_restarts == 0:
            self._tell(f"{name} {_how(status)}; --no-restart: {name} stays down")
        elif kept.restarts >= self._max_restarts:
            self._tell(f"{name} {_how(status)} after {kept.restarts} restarts: {name} stays down")
        else:
            pause_s = min(FIRST_PAUSE_S * PAUSE_GROWTH**kept.restarts, MAX_PAUSE_S)
            kept.is_over, kept.due_s = False, self._now_s() + pause_s
            which = f"restart {kept.restarts + 1} of {self._max_restarts}"
            self._tell(f"{name} {_how(status)}; {which} in {pause_s:.0f} s")

    def _write_pids(self) -> None:
        """Write atomically: a reader finds either the old or the new pids."""
        pids = {name: kept.service.pid for name, kept in self._kept.items()}
        new = self._pids_path.with_name(self._pids_path.name + ".new")
        new.write_text(json.dumps(pids), encoding="utf-8")
        os.replace(new, self._pids_path)


def _how(status: int) -> str:
    if status < 0:
        return f"was killed by signal {-status}"
    return f"ended with status {status}"
