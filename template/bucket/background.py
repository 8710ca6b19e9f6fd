"""Uploads beside the loop: jobs in threads of their own, which give way to what cannot wait.

A job is a function that does what there is to do and returns. The loop starts it again and again;
a job under way when it is started runs once more afterwards, so nothing offered meanwhile is left.
Between two pieces a job calls `give_way`: while the loop puts named payloads, votes or logs, jobs
stand still. Owns the threads and their end; the jobs own their queues and their retries.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Condition, RLock

from template.errors import NodeTrouble, Unavailable
from template.peers.threads import start
from template.store.types import Source

Job = Callable[[], object]


class Stopped(Unavailable):
    """The node ends: what this job has not done is left to the next start."""


def as_it_is(source: Source) -> Source:
    """A source that gives way to nobody, for an owner of uploads that runs alone."""
    return source


class Background:
    """Jobs by name, each in one thread at a time. Safe from any thread.

    `note_work`: told True when work begins and False when no job moves any more
    (`NodeContext.note_work`).
    """

    def __init__(self, note_work: Callable[[bool], None]) -> None:
        self._note_work = note_work
        self._changed = Condition(RLock())
        self._asked: dict[str, Job | None] = {}
        """Name of a job under way -> the job that follows it, if any."""
        self._futures: list[Future[None]] = []
        self._num_first = 0
        self._is_noted = False
        self._is_stopped = False

    def start(self, name: str, job: Job) -> None:
        """Run a job soon; once more if a job of this name is under way. Nothing once stopped."""
        with self._changed:
            if self._is_stopped:
                return
            if name in self._asked:
                self._asked[name] = job
                return
            self._asked[name] = None
            self._note()
        pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        future = start(pool, lambda: self._run(name, job))
        pool.shutdown(wait=False)  # the thread ends with its job
        with self._changed:
            self._futures.append(future)
        if future.done() and isinstance(future.exception(), NodeTrouble):
            self._end(name)  # no thread could be started

    def _run(self, name: str, job: Job) -> None:
        is_over = False
        try:
            while not is_over:
                job()
                job, is_over = self._next(name, job)
        except Stopped:
            pass
        finally:
            if not is_over:
                self._end(name)

    def _next(self, name: str, job: Job) -> tuple[Job, bool]:
        """The job that was asked for meanwhile; or True: this thread's work is over."""
        with self._changed:
            asked = self._asked[name]
            if asked is None or self._is_stopped:
                self._end(name)
                return job, True
            self._asked[name] = None
            return asked, False

    def _end(self, name: str) -> None:
        with self._changed:
            self._asked.pop(name, None)
            self._note()
            self._changed.notify_all()

    @contextmanager
    def first(self) -> Iterator[None]:
        """Within the block the caller's uploads go first: jobs stand still at their next piece."""
        with self._changed:
            self._num_first += 1
            self._note()
        try:
            yield
        finally:
            with self._changed:
                self._num_first -= 1
                self._note()
                self._changed.notify_all()

    def give_way(self) -> None:
        """For jobs, between two pieces: wait while others are first. Stopped at the node's end."""
        with self._changed:
            while self._num_first and not self._is_stopped:
                self._changed.wait()
            if self._is_stopped:
                raise Stopped("this node ends; the upload goes on after the next start")

    @property
    def is_stopped(self) -> bool:
        """Whether jobs shall end."""
        return self._is_stopped

    def raise_failure(self) -> None:
        """Raise what ended a job, once: a full disk, or a fault of the code."""
        with self._changed:
            ended = [future for future in self._futures if future.done()]
            failed = [future for future in ended if future.exception() is not None]
            # Of several failures the others are raised by the next calls.
            gone = failed[:1] + [future for future in ended if future not in failed]
            self._futures = [future for future in self._futures if future not in gone]
        for future in failed[:1]:
            future.result()

    def wait_for(self, name: str) -> None:
        """Return once the job with this name, and what was asked for meanwhile, is done."""
        with self._changed:
            while name in self._asked:
                self._changed.wait()

    def stop(self, limit_s: float) -> None:
        """End all jobs between two pieces; wait for `limit_s` at most, and start none again."""
        with self._changed:
            self._is_stopped = True
            futures = list(self._futures)
            self._changed.notify_all()
        wait(futures, timeout=limit_s)

    def paced(self, source: Source) -> "PausedSource":
        """The same bytes; each piece is read once nobody else is first."""
        return PausedSource(source, self.give_way)

    def _note(self) -> None:
        is_working = bool(self._asked) and not self._num_first
        if is_working != self._is_noted:
            self._is_noted = is_working
            self._note_work(is_working)


class PausedSource:
    """A source that waits before each piece: so an upload in parts gives way in its middle."""

    def __init__(self, source: Source, give_way: Callable[[], None]) -> None:
        self._source, self._give_way = source, give_way

    @property
    def num_bytes(self) -> int:
        return self._source.num_bytes

    def read(self, start: int, num_bytes: int) -> bytes:
        """As in `Source`; Stopped at the node's end."""
        self._give_way()
        return self._source.read(start, num_bytes)
