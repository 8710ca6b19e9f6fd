"""The learning benchmark's command.

    python -m benchmarks.learning --quick           recorded rates, 24 rounds
    python -m benchmarks.learning                   everything; runs that are recorded are skipped
    python -m benchmarks.learning --only main,noise some sections
    python -m benchmarks.learning --tune            the search for rates, before anything else

An interrupt loses the runs in flight and nothing else.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.learning import report, suite, tuning
from benchmarks.learning.contenders import RATES, load_rates
from benchmarks.learning.pool import Job, run_jobs
from benchmarks.learning.record import append, load, missing
from benchmarks.learning.run import as_row, run_trial
from benchmarks.learning.text import ROOT
from benchmarks.learning.trial import Trial

RESULTS = ROOT / "benchmarks" / "results"
RECORD = RESULTS / "learning_runs.jsonl"
COSTS = {"adamw_dp": 1.0, "demo": 1.7}
MODEL_COSTS = {"tiny": 0.2, "small": 1.0, "medium": 3.0}


def main(argv: list[str]) -> None:
    """Run what is missing, then write tables and pictures."""
    arguments = parse(argv)
    if arguments.tune:
        tune(arguments.record, arguments.workers, arguments.budget)
    rates = load_rates()
    groups = suite.quick(rates) if arguments.quick else suite.full(rates)
    wanted = set(arguments.only.split(",")) if arguments.only else None
    groups = [group for group in groups if wanted is None or group.section in wanted]
    trials = missing([t for g in groups for t in g.trials], load(arguments.record))
    jobs = [
        Job(call=run_one, arguments=(trial, arguments.record), cost=cost(trial)) for trial in trials
    ]
    run_jobs(jobs, arguments.workers)
    report.write(groups, load(arguments.record), RESULTS, "python -m benchmarks.learning")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.learning", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="24 rounds at recorded rates")
    parser.add_argument("--only", default="", metavar="SECTION,...")
    parser.add_argument("--tune", action="store_true", help="search for rates first")
    parser.add_argument("--budget", type=int, default=tuning.BUDGET, help="trials of a search")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--record", type=Path, default=RECORD)
    return parser.parse_args(argv)


def tune(record: Path, num_processes: int, budget: int) -> None:
    jobs = [
        Job(call=run_search, arguments=(name, record, budget), cost=1.0)
        for name in tuning.searches()
    ]
    run_jobs(jobs, num_processes)
    tuning.write_rates(record, RATES, budget)


def run_search(name: str, record: Path, budget: int) -> str:
    count = sum(1 for _ in tuning.search(name, record, budget))
    return f"rates of {name}: {count} trials"


def run_one(trial: Trial, record: Path) -> str:
    outcome = run_trial(trial)
    append(record, as_row(trial, outcome))
    return (
        f"{trial.strategy} lag {trial.lag}, {trial.rounds} rounds, seed {trial.seed}: "
        f"{outcome.held_out_loss:.4f} in {outcome.seconds:.0f} s"
    )


def cost(trial: Trial) -> float:
    """About proportional to the seconds that a trial takes."""
    per_token = COSTS.get(trial.strategy, 1.1) * MODEL_COSTS[trial.model]
    return per_token * trial.tokens(64)


if __name__ == "__main__":
    main(sys.argv[1:])
