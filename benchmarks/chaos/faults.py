"""How each fault is planted, and how one sees that it took effect.

Every fault begins, is looked at several times a second while it lasts, and ends. What it says
of itself comes from outside: exit statuses, /proc, the proxies' counts, the neuron's own rows
and log. Does not own when and to whom (`plan`), nor what came of it (`measure`).
"""

import os
import resource
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from benchmarks.chaos.ground import Ground, Planted
from benchmarks.chaos.plan import Fault
from benchmarks.chaos.troubles import TROUBLES, Troubled
from localnet.adversaries.validators import Lie, find_lie, plan_lies
from localnet.events import JsonlTail
from simulation.faults import ProcessFault
from template.metrics import EVENTS_FILE
from template.sync.own_checkpoint import LOCAL_FILE, PIECES_FOLDER

DEATH_LIMIT_S: Final = 5.0
CLOCK_OFF_S: Final = 600
CLOCK_TOLERANCE_S: Final = 60.0
FILE_SHARE: Final = 0.5
"""Of the state file that a node has: what a file may have where the disk is full."""
DISK_WORDS: Final = "cannot be written"


class Killed(Planted):
    """SIGKILL to the process group; the keeper starts it again."""

    def begin(self) -> None:
        for name in self.targets:
            service = self.ground.service(name)
            pid = service.pid
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            _wait(lambda service=service: service.exit is not None)  # type: ignore[misc]
            self.evidence[name] = {"pid": pid, "exit": service.exit}

    @property
    def took_effect(self) -> bool:
        return bool(self.evidence) and all(
            seen["exit"] == -signal.SIGKILL for seen in self.evidence.values()
        )


class Paused(Planted):
    """SIGSTOP, and SIGCONT at the end. Seen in /proc: stopped whenever one looked, no CPU used."""

    def begin(self) -> None:
        self._pids = {name: self.ground.service(name).pid for name in self.targets}
        for pid in self._pids.values():
            _signal(pid, signal.SIGSTOP)
        time.sleep(0.05)
        self._ticks = {name: _process_row(pid)[1] for name, pid in self._pids.items()}
        self._states: dict[str, set[str]] = {name: set() for name in self.targets}

    def look(self) -> None:
        for name, pid in self._pids.items():
            self._states[name].add(_process_row(pid)[0])

    def end(self) -> None:
        for name, pid in self._pids.items():
            used = _process_row(pid)[1] - self._ticks[name]
            self.evidence[name] = {"states": sorted(self._states[name]), "cpu_ticks": used}
            _signal(pid, signal.SIGCONT)

    @property
    def took_effect(self) -> bool:
        return bool(self.evidence) and all(
            seen == {"states": ["T"], "cpu_ticks": 0} for seen in self.evidence.values()
        )


class LiedAlone(Planted):
    """A false vote on `window` by the first of the targets, while the others are paused.

    Seen in the votes on chain: nobody else's stands beside the lie.
    """

    def __init__(self, ground: Ground, targets: Sequence[str], *, window: int, lie: Lie) -> None:
        super().__init__(ground, targets)
        self._liar, self._window, self._lie = targets[0], window, lie
        self._pause = Paused(ground, targets[1:])

    def begin(self) -> None:
        plan_lies(self.ground.posts[self._liar].state_dir, {self._window: self._lie})
        self._pause.begin()

    def look(self) -> None:
        self._pause.look()

    def end(self) -> None:
        self._pause.end()
        votes = self.ground.votes(self._window)
        found = find_lie(votes[self._liar]) if self._liar in votes else None
        others = sorted(votes.keys() - {self._liar})
        self.evidence[self._liar] = {"voted": found or "no lie", "other_votes": len(others)}
        self.evidence |= self._pause.evidence

    @property
    def took_effect(self) -> bool:
        seen = {"voted": self._lie, "other_votes": 0}
        return self._pause.took_effect and self.evidence.get(self._liar) == seen


class Left(Planted):
    """SIGTERM to all at once; they come back at the end."""

    def begin(self) -> None:
        for name in self.targets:
            _signal(self.ground.service(name).pid, signal.SIGTERM)
        self._looks_gone = 0

    def look(self) -> None:
        gone = [self.ground.service(name).exit for name in self.targets]
        self._looks_gone += None not in gone

    def end(self) -> None:
        for name in self.targets:
            status = self.ground.service(name).exit
            self.evidence[name] = {"exit": status, "looks_gone": self._looks_gone}
            if status is not None:
                self.ground.revive(name)

    @property
    def took_effect(self) -> bool:
        return bool(self.evidence) and all(
            seen["exit"] in (130, -signal.SIGTERM) and seen["looks_gone"] > 0
            for seen in self.evidence.values()
        )


class ClockOff(Planted):
    """Another wall clock, seen in the times of the rows that the neuron writes meanwhile."""

    def begin(self) -> None:
        self._tails = {
            n: JsonlTail(self.ground.posts[n].state_dir / EVENTS_FILE) for n in self.targets
        }
        for name in self.targets:
            self._tails[name].read_new()
            self.ground.posts[name].clock.set_offset(CLOCK_OFF_S)

    def look(self) -> None:
        for name, tail in self._tails.items():
            for row in tail.read_new():
                self.evidence[name] = {"ahead_s": round(row["time_s"] - time.time())}

    def end(self) -> None:
        for name in self.targets:
            self.ground.posts[name].clock.set_offset(0)

    @property
    def took_effect(self) -> bool:
        return self.targets == tuple(self.evidence) and all(
            abs(seen["ahead_s"] - CLOCK_OFF_S) < CLOCK_TOLERANCE_S
            for seen in self.evidence.values()
        )


def _largest_state_file(state_dir: Path) -> int:
    """Bytes of the largest file that holds a part of the node's own checkpoint."""
    sizes = [0]
    for path in (state_dir / LOCAL_FILE, *(state_dir / PIECES_FOLDER).glob("*")):
        with suppress(FileNotFoundError):  # replaced while this looks
            sizes.append(path.stat().st_size)
    return max(sizes)


class FullDisk(Planted):
    """No file may become as large as the node's state: set on whichever process it has.

    Seen in the neuron's log, which stays small enough.
    """

    def begin(self) -> None:
        self._limited: dict[str, int] = {}
        self._log_start = {n: self.ground.posts[n].log_path.stat().st_size for n in self.targets}
        self._limit_bytes = {
            n: int(FILE_SHARE * _largest_state_file(self.ground.posts[n].state_dir))
            for n in self.targets
        }
        self.look()

    def look(self) -> None:
        for name in self.targets:
            pid = self.ground.service(name).pid
            if self._limited.get(name) != pid and _limit_files(pid, self._limit_bytes[name]):
                self._limited[name] = pid

    def end(self) -> None:
        for name in self.targets:
            _limit_files(self.ground.service(name).pid, resource.RLIM_INFINITY)
            with self.ground.posts[name].log_path.open("rb") as file:
                file.seek(self._log_start[name])
                told = file.read().decode("utf-8", "replace").count(DISK_WORDS)
            self.evidence[name] = {"limit_bytes": self._limit_bytes[name], "told": told}

    @property
    def took_effect(self) -> bool:
        return bool(self.evidence) and all(seen["told"] > 0 for seen in self.evidence.values())


def plant(fault: Fault, ground: Ground) -> Planted:
    """The fault, ready to begin."""
    if fault.kind in SIMPLE:
        return SIMPLE[fault.kind](ground, fault.targets)
    if fault.kind in LIES:
        # The votes that are due in the fault's window are those on the window before.
        voted, lie = fault.window - 1, LIES[fault.kind]
        return LiedAlone(ground, fault.targets, window=voted, lie=lie)
    return Troubled(ground, fault.targets, TROUBLES[fault.kind](ground, fault.targets))


SIMPLE: Final[Mapping[ProcessFault, Callable[[Ground, Sequence[str]], Planted]]] = {
    ProcessFault.KILL_MINER: Killed,
    ProcessFault.KILL_VALIDATOR: Killed,
    ProcessFault.KILL_TOP_VALIDATOR: Killed,
    ProcessFault.KILL_CHAIN: Killed,
    ProcessFault.KILL_BUCKETS: Killed,
    ProcessFault.PAUSE_ONE: Paused,
    ProcessFault.PAUSE_THREE: Paused,
    ProcessFault.LEAVE: Left,
    ProcessFault.CLOCK: ClockOff,
    ProcessFault.FULL_DISK: FullDisk,
}
LIES: Final[Mapping[ProcessFault, Lie]] = {
    ProcessFault.LIE_ROOT: Lie.ROOT,
    ProcessFault.LIE_SAMPLE: Lie.SAMPLE,
}


def _wait(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + DEATH_LIMIT_S
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.01)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


def _process_row(pid: int) -> tuple[str, int]:
    """State letter and CPU ticks used, of /proc; "X" and 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", 0
    return fields[0], int(fields[11]) + int(fields[12])


def _limit_files(pid: int, num_bytes: int) -> bool:
    """Set the soft limit of a running process; False if it is gone."""
    try:
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (num_bytes, hard))
    except ProcessLookupError:
        return False
    return True
