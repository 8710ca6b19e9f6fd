"""Progress of a phase in lines: how much is done, at which rate, and how long it will take."""

import time
from collections.abc import Callable
from typing import Final

INTERVAL_S: Final = 10.0
_UNITS: Final = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_TIMES: Final = ((86_400, "days"), (3_600, "hours"), (60, "minutes"))


class Progress:
    """Says a line at most every `INTERVAL_S`, and one at the end of a phase.

    The rate is of this process: what an earlier one has done costs no time now.
    """

    def __init__(
        self, say: Callable[[str], object], now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._say = say
        self._now_s = now_s
        self._name, self._total = "", 0
        self._began_s = self._said_s = 0.0
        self._before: int | None = None
        self._done = 0

    def begin(self, name: str, total_bytes: int) -> None:
        """A phase of so many bytes begins."""
        self._name, self._total = name, total_bytes
        self._began_s = self._said_s = self._now_s()
        self._before = None

    def show(self, done_bytes: int) -> None:
        """So many bytes are done; the first call tells what was done before."""
        if self._before is None:
            self._before = done_bytes
        self._done = done_bytes
        now_s = self._now_s()
        if now_s - self._said_s >= INTERVAL_S:
            self._said_s = now_s
            self._say(line(self._name, self._total, done_bytes, self._rate(now_s)))

    def end(self) -> None:
        """Say what the phase took."""
        now_s = self._now_s()
        text = f"{self._name}: {size(self._total)} in {duration(now_s - self._began_s)}"
        rate = self._rate(now_s)
        self._say(f"{text}, {size(rate)}/s" if rate else text)

    def _rate(self, now_s: float) -> float:
        elapsed_s = now_s - self._began_s
        return (self._done - (self._before or 0)) / elapsed_s if elapsed_s > 0 else 0.0


def line(name: str, total: int, done: int, rate: float) -> str:
    """`encode: 1.2 GB of 4.8 GB (25 %), 12.3 MB/s, about 5.0 minutes left`."""
    share = 100 * done // total if total else 100
    text = f"{name}: {size(done)} of {size(total)} ({share} %)"
    if rate <= 0:
        return text
    return f"{text}, {size(rate)}/s, about {duration((total - done) / rate)} left"


def size(num_bytes: float) -> str:
    for unit, name in _UNITS:
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes:.0f} bytes"


def duration(seconds: float) -> str:
    for unit, name in _TIMES:
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{max(0.0, seconds):.0f} s"
