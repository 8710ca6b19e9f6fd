"""Several processes, one job each at a time, and a line per finished job with the time left.

A job appends its own result to the record before it returns, so that an interrupt loses
only what is in flight.
"""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A call with a label; `cost` in any unit, for the estimate of the time left."""

    call: Callable[..., str]
    arguments: tuple[object, ...]
    cost: float


def run_jobs(jobs: Sequence[Job], num_processes: int) -> None:
    """Run all jobs, the first ones first. On an interrupt nothing new is started."""
    if not jobs:
        return
    start_s, total, done = time.perf_counter(), sum(job.cost for job in jobs), 0.0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, mp_context=context, initializer=_one_thread) as pool:
        futures: dict[Future[str], Job] = {
            pool.submit(job.call, *job.arguments): job for job in jobs
        }
        try:
            for count, future in enumerate(as_completed(futures), 1):
                done += futures[future].cost
                left_s = (time.perf_counter() - start_s) * (total / done - 1)
                print(
                    f"[{count}/{len(jobs)}] {future.result()}; {left_s / 60:.0f} min left",
                    flush=True,
                )
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_thread() -> None:
    torch.set_num_threads(1)
