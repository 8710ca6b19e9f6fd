"""Starting again what died: the service manager of a localnet.

Owns when a process is started again and how often, as an operator's systemd unit with
`Restart=on-failure` would, and the file that says which pid is whose. Does not own how a
process is started, and never ends one.
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
"""Of one process: five pauses are 31 s in all. What still dies then has a fault to look at."""
MAX_PAUSE_S: Final = 16.0
"""The fifth pause, for who allows more restarts than that."""
NEURON_FINAL_STATUSES: Final = frozenset({0, 2, 130})
"""The run is over, an operator must change something, it was asked to end."""
ASKED_TO_END: Final = frozenset({signal.SIGTERM, signal.SIGINT})


class Service(Protocol):
    """A process that can be started again in its place: same command, same state."""

    @property
    def name(self) -> str: ...

    @property
    def pid(self) -> int: ...

    @property
    def exit(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""

    def start_again(self) -> None:
        """Start it, and return without waiting until it is ready."""


@dataclass(kw_only=True)
class _Kept:
    service: Service
    final_statuses: Collection[int]
    restarts: int = 0
    due_s: float | None = None
    is_over: bool = False


class Keeper:
    """Watches services and starts again those that died. All of it in the caller's thread:
    `tick` often, and never from a thread that ends before the services shall.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        pids_path: Path,
        *,
        max_restarts: int = MAX_RESTARTS,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tell` gets a line on every death; `max_restarts` is per service, 0 for none."""
        self._tell = tell
        self._pids_path = pids_path
        self._max_restarts = max_restarts
        self._now_s = now_s
        self._kept: dict[str, _Kept] = {}
        self.last_restart_s = float("-inf")

    def keep(self, service: Service, final_statuses: Collection[int]) -> None:
        """Watch a running service; one of `final_statuses`, or SIGTERM, is an end on purpose."""
        self._kept[service.name] = _Kept(service=service, final_statuses=final_statuses)
        self._write_pids()

    def tick(self) -> None:
        """See who died, and start those whose pause is over."""
        started = [self._look_after(kept) for kept in self._kept.values()]
        if any(started):
            self._write_pids()

    def exit_of(self, name: str) -> int | None:
        """The exit status of who has ended for good; None while it runs or will run again."""
        kept = self._kept[name]
        return kept.service.exit if kept.is_over else None

    def service(self, name: str) -> Service:
        return self._kept[name].service

    def revive(self, name: str) -> None:
        """Start again who has ended for good. ValueError for who runs, or will by itself."""
        kept = self._kept[name]
        if not kept.is_over:
            raise ValueError(f"{name} has not ended for good")
        kept.is_over = False
        kept.service.start_again()
        self.last_restart_s = self._now_s()
        self._write_pids()

    @property
    def restarts(self) -> dict[str, int]:
        """How often each was started again."""
        return {name: kept.restarts for name, kept in self._kept.items()}

    def _look_after(self, kept: _Kept) -> bool:
        """Whether it was started again just now."""
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
            self._tell(f"{name} {_how(status)}; it is not started again (--no-restart)")
        elif kept.restarts >= self._max_restarts:
            self._tell(f"{name} {_how(status)}, after {kept.restarts} restarts: no more")
        else:
            pause_s = min(FIRST_PAUSE_S * PAUSE_GROWTH**kept.restarts, MAX_PAUSE_S)
            kept.is_over, kept.due_s = False, self._now_s() + pause_s
            which = f"restart {kept.restarts + 1} of {self._max_restarts}"
            self._tell(f"{name} {_how(status)}; {which} in {pause_s:.0f} s")

    def _write_pids(self) -> None:
        """All at once: whoever reads the file finds the old pids or the new ones."""
        pids = {name: kept.service.pid for name, kept in self._kept.items()}
        new = self._pids_path.with_name(self._pids_path.name + ".new")
        new.write_text(json.dumps(pids), encoding="utf-8")
        os.replace(new, self._pids_path)


def _how(status: int) -> str:
    if status < 0:
        return f"was killed by signal {-status}"
    return f"ended with status {status}"
