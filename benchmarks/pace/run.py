"""One race from theta_0 to its last loss, and its line of the record."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.learning.record import append
from benchmarks.learning.workers import CURVE_PAGES, FINAL_PAGES
from benchmarks.pace.machines import Race
from benchmarks.pace.race import Course

CURVE_POINTS = 16


def run_race(race: Race, final_pages: int = FINAL_PAGES) -> dict[str, Any]:
    """Losses in nats per byte, times in windows, work in batches."""
    start_s, course = time.perf_counter(), Course(race)
    workers, windows = course.workers, race.trial.rounds
    params_N = workers.theta0()
    every = max(1, windows // CURVE_POINTS)
    curve = [(0, workers.held_out_loss(params_N, CURVE_PAGES))]
    for number in range(windows):
        params_N = course.window(number, params_N)
        if (number + 1) % every == 0:
            curve.append((number + 1, workers.held_out_loss(params_N, CURVE_PAGES)))
        if not torch.isfinite(params_N).all():
            break
    loss = workers.held_out_loss(course.finish(params_N), final_pages)
    return {
        "held_out_loss": loss,
        "curve": curve,
        "trained": [account.trained for account in course.accounts],
        "sent": [account.sent for account in course.accounts],
        "busy": [account.busy / windows for account in course.accounts],
        "payloads": [account.payloads for account in course.accounts],
        **course.paid(),
        "notes": course.notes(),
        "num_params": workers.space.num_elements,
        "seconds": time.perf_counter() - start_s,
    }


def run_one(race: Race, label: str, record: Path) -> str:
    """Run, append to the record, and say so."""
    outcome = run_race(race)
    append(record, {"key": race.key, "race": asdict(race), "outcome": outcome})
    return (
        f"{label}, seed {race.trial.seed}: {outcome['held_out_loss']:.4f}, "
        f"{sum(outcome['sent'])} batches, {outcome['seconds']:.0f} s"
    )
