"""Worker processes: run jobs that are not done yet, and end with the process that started them."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for_sentinel
from threading import Thread
from typing import Any, Final

from template.data.preparing.jobs import Job
from template.errors import StateError

POLL_S: Final = 0.5
_JOBS_AHEAD: Final = 2
"""Jobs of each worker that wait in the queue: a million jobs would be a million futures."""

_counter: list[Any] = []
"""In a worker: the number of bytes done, shared by all workers."""


def run_jobs(jobs: Sequence[Job], workers: int, show: Callable[[int], object]) -> None:
    """Run the jobs that are not done; `show` gets the bytes done now and then.

    With 0 workers in this process. Raises the first job's error after the running jobs have ended.
    """
    missing = [job for job in jobs if not job.done.is_file()]
    done_before = sum(job.num_bytes for job in jobs) - sum(job.num_bytes for job in missing)
    show(done_before)
    if workers == 0:
        total = [done_before]
        for job in missing:
            job.run(lambda num_bytes: _add(total, num_bytes))
            show(total[0])
    elif missing:
        _run_in_processes(iter(missing), min(workers, len(missing)), done_before, show)


def _add(total: list[int], num_bytes: int) -> None:
    total[0] += num_bytes


def _run_in_processes(
    jobs: Iterator[Job], workers: int, done_before: int, show: Callable[[int], object]
) -> None:
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin_worker, initargs=(counter,)
    )
    running: set[Future[None]] = set()
    try:
        while True:
            while len(running) < workers * _JOBS_AHEAD and (job := next(jobs, None)) is not None:
                running.add(pool.submit(_run_job, job))
            if not running:
                return
            ended, running = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED)
            for future in ended:
                future.result()
            show(done_before + counter.value)
    except BrokenProcessPool as error:
        raise StateError(
            "a worker process ended, killed perhaps for want of memory: what was prepared so far "
            "is kept; start the same command again, with a smaller --memory or fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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
