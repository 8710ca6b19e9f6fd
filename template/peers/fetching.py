"""Payloads being fetched, a few at a time, in the order given.

All at once would share this node's line among all of them, and of large payloads none would come in
time. So only so many are on their way as the line needs. A silent bucket gives up its place to the
next one and is waited for all the same, so silent buckets delay nobody; and while one more bucket
raises the rate of all together, the line has room, and one more is asked.

What is not there when the time is over is the bucket's fault only if the bucket had its time and
was slow by itself: asked early enough, and silent or slower than a quarter of the others' rate.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from template.errors import AskedTooLate, NodeTrouble, SubnetError, Unavailable
from template.peers.arrival import Arrival, Fetch, Watch, least_rate
from template.peers.threads import start
from template.protocol.root import Member

FETCH_THREADS: Final = 256
FEW: Final = 4
"""Payloads on their way at least, of any size: one alone seldom fills a line."""
IN_FLIGHT_BYTES: Final = 64 << 20
"""Bytes that may be on their way together in more than `FEW` payloads: small ones wait for answers
and not for the line."""
MAX_LANES: Final = 64
LOOK_S: Final = 2.0
"""Seconds between two looks at who is silent, and at the rate of all."""
RATE_GROWTH: Final = 1.1


def never_late() -> bool:
    """For a caller whose buckets always have their time."""
    return False


def num_lanes(num_bytes: int) -> int:
    """Payloads of this length on their way at a time."""
    return min(max(FEW, IN_FLIGHT_BYTES // max(num_bytes, 1)), MAX_LANES)


@dataclass(slots=True)
class _Request:
    """One payload: waiting until `future` is set."""

    member: Member
    fetch: Fetch
    arrival: Arrival = field(default_factory=Arrival)
    watch: Watch = field(default_factory=Watch)
    future: Future[bytes] | None = None
    asked_s: float = 0.0
    ended_s: float = 0.0
    asked_late: bool = False
    is_silent: bool = False
    is_told: bool = False

    def bytes_per_s(self, now_s: float) -> float:
        return self.arrival.num_bytes / max(now_s - self.asked_s, 1e-6)


class Fetching:
    """Requests in order. `wait` and `num_waiting` begin the next ones; one thread uses both.

    `node_troubles`: hotkey -> the failure of this node that a running request waits for.
    `is_late`: whether a bucket asked now has too little time to answer.
    """

    def __init__(
        self,
        node_troubles: Mapping[str, NodeTrouble],
        *,
        num_bytes: int = 1,
        is_late: Callable[[], bool] = never_late,
        look_s: float = LOOK_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node_troubles = node_troubles
        self._is_late, self._look_s, self._now_s = is_late, look_s, now_s
        self._lanes = num_lanes(num_bytes)
        self._pool = ThreadPoolExecutor(max_workers=FETCH_THREADS, thread_name_prefix="fetch")
        self._requests: list[_Request] = []
        self._waiting: deque[_Request] = deque()
        self._running: list[_Request] = []
        self._looked_s, self._seen_bytes, self._best_rate = now_s(), 0, 0.0

    def add(self, member: Member, fetch: Fetch) -> None:
        """Put a payload at the end of the queue."""
        request = _Request(member, fetch)
        self._requests.append(request)
        self._waiting.append(request)

    @property
    def is_begun(self) -> bool:
        """Whether every bucket has been asked."""
        return not self._waiting

    @property
    def num_waiting(self) -> int:
        """Buckets without an answer."""
        self.advance()
        return len(self._waiting) + len(self._running)

    def wait(self, timeout_s: float) -> bool:
        """Whether every bucket has answered within `timeout_s`."""
        end_s = time.monotonic() + timeout_s
        while self.num_waiting:
            left_s = end_s - time.monotonic()
            futures = [request.future for request in self._running if request.future is not None]
            if left_s <= 0 or not wait(futures, left_s, return_when=FIRST_COMPLETED).done:
                return not self.num_waiting
        return True

    def newly_answered(self) -> list[tuple[Member, bytes | SubnetError]]:
        """The payloads that have come since the last call, and the errors that are final."""
        done = [r for r in self._requests if not r.is_told and r.future and r.future.done()]
        for request in done:
            request.is_told = True
        return [(request.member, self._outcome(request, 0.0)) for request in done]

    def outcomes(self) -> list[tuple[Member, bytes | SubnetError]]:
        """Each member's payload, or the error."""
        least = self._least_rate()
        return [(request.member, self._outcome(request, least)) for request in self._requests]

    def close(self) -> None:
        """Begin no other request, and end those under way with their next byte."""
        self._waiting.clear()
        for request in self._running:
            request.arrival.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def advance(self) -> None:
        """Ask the next buckets, as many as there is room for."""
        self._running = [r for r in self._running if r.future is not None and not r.future.done()]
        now_s = self._now_s()
        if now_s - self._looked_s >= self._look_s:
            self._look(now_s)
        num_moving = sum(not request.is_silent for request in self._running)
        for _ in range(min(self._lanes - num_moving, len(self._waiting))):
            self._begin(self._waiting.popleft())

    def _begin(self, request: _Request) -> None:
        request.asked_s, request.asked_late = self._now_s(), self._is_late()
        request.future = start(self._pool, partial(self._fetch, request))
        self._running.append(request)

    def _fetch(self, request: _Request) -> bytes:
        try:
            return request.fetch(request.arrival)
        finally:
            request.ended_s = self._now_s()

    def _look(self, now_s: float) -> None:
        """Find the silent, and give the line one more payload while it seems to have room.

        It has room if the rate of all rose with the last payload, or is far from the best.
        """
        since_s, self._looked_s = now_s - self._looked_s, now_s
        least = self._least_rate()
        for request in self._running:
            if now_s - request.asked_s >= self._look_s:
                moves = request.watch.is_moving(request.arrival.num_bytes, since_s, least)
                request.is_silent = not moves
        total = sum(request.arrival.num_bytes for request in self._requests)
        rate, self._seen_bytes = (total - self._seen_bytes) / since_s, total
        if rate > RATE_GROWTH * self._best_rate or rate < self._best_rate / 2:
            self._lanes += 1
        self._best_rate = max(rate, self._best_rate)

    def _least_rate(self) -> float:
        """Bytes a second below which a bucket is slow by itself."""
        return least_rate(
            [
                request.bytes_per_s(request.ended_s)
                for request in self._requests
                if request.future is not None
                and request.future.done()
                and not request.future.cancelled()
                and request.future.exception() is None
            ]
        )

    def _outcome(self, request: _Request, least_rate: float) -> bytes | SubnetError:
        future = request.future
        if future is None:
            return AskedTooLate("this node had no time left to ask")
        if future.cancelled():
            return NodeTrouble("this node had no thread to ask in time")
        if not future.done():
            return self._node_troubles.get(
                request.member.hotkey, self._no_answer(request, least_rate)
            )
        try:
            return future.result()
        except SubnetError as error:
            return error

    def _no_answer(self, request: _Request, least_rate: float) -> SubnetError:
        if request.asked_late:
            return AskedTooLate("this node asked too late for an answer in time")
        if request.bytes_per_s(self._now_s()) >= least_rate:
            return AskedTooLate("the bytes were still coming when the time was over")
        return Unavailable("no answer in time")
