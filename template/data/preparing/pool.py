"""Worker processes: run jobs that are not done yet, and end with the process that started them."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for_sentinel
from threading import Thread
from typing import Any, Final, Self

from template.data.preparing.jobs import Job
from template.errors import StateError

POLL_S: Final = 0.5
_JOBS_AHEAD: Final = 2
"""Jobs of each worker that wait in the queue: a million jobs would be a million futures."""

_counter: list[Any] = []
"""In a worker: the number of bytes done, shared by all workers."""


class Workers:
    """A pool of `number` processes, started with the first job; with 0 jobs run in this process.

    A context manager. After an error the block ends at once, and with it, when this process ends,
    the jobs under way.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._context = multiprocessing.get_context("spawn")
        self._counter = self._context.Value("q", 0)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def run(self, jobs: Sequence[Job], show: Callable[[int], object]) -> None:
        """Run the jobs that are not done; `show` gets the bytes done, first those done before.

        Raises the error of the first job that fails, StateError if a worker was killed.
        """
        missing = [job for job in jobs if not job.done.is_file()]
        done = sum(job.num_bytes for job in jobs) - sum(job.num_bytes for job in missing)
        show(done)
        try:
            if self._number:
                self._run_in_processes(iter(missing), done, show)
            else:
                _run_here(missing, done, show)
        except BrokenProcessPool as error:
            raise StateError(
                "a worker process ended, killed perhaps for want of memory: what was prepared so "
                "far is kept; start the same command again, with a smaller --memory or --workers"
            ) from error

    def _run_in_processes(
        self, jobs: Iterator[Job], done: int, show: Callable[[int], object]
    ) -> None:
        self._counter.value = 0
        running: set[Future[None]] = set()
        while True:
            while len(running) < self._number * _JOBS_AHEAD and (job := next(jobs, None)):
                running.add(self._started().submit(_run_job, job))
            if not running:
                return
            ended, running = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED)
            for future in ended:
                future.result()
            show(done + self._counter.value)

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._number,
                mp_context=self._context,
                initializer=_begin_worker,
                initargs=(self._counter,),
            )
        return self._pool


def _run_here(jobs: Sequence[Job], done: int, show: Callable[[int], object]) -> None:
    total = [done]

    def tell(num_bytes: int) -> None:
        total[0] += num_bytes

    for job in jobs:
        job.run(tell)
        show(total[0])


def _begin_worker(counter: Any) -> None:
    # The tokenizer's own threads would take the cores of other workers.
    os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _counter[:] = [counter]
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot end its workers, and they would wait for jobs for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for_sentinel([parent.sentinel])
    os._exit(1)


def _run_job(job: Job) -> None:
    job.run(_tell)


def _tell(num_bytes: int) -> None:
    with _counter[0].get_lock():
        _counter[0].value += num_bytes
