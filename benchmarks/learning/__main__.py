"""The learning benchmark's command.

    python -m benchmarks.learning --quick           recorded rates, 24 rounds
    python -m benchmarks.learning                   everything that the record lacks
    python -m benchmarks.learning --more            and what an hour has no room for
    python -m benchmarks.learning --only main,noise some sections
    python -m benchmarks.learning --tune            the search for rates, before anything else

A run whose code changed since (`origin`) is run again. Runs from before the record had digests
are shown as such, marked *, and `--again` runs these too. `--vouch` runs one of each kind of
changed runs first, and keeps the kind if nothing differs. An interrupt loses the runs in flight
and nothing else. Tables and pictures are of all runs on record, and lie beside it: `--record
NEW/runs.jsonl` runs everything anew and leaves the kept results alone.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.learning import report, suite, tuning
from benchmarks.learning.contenders import RATES, load_rates
from benchmarks.learning.jobs import run_one, run_search
from benchmarks.learning.origin import to_run
from benchmarks.learning.pool import Job, run_jobs
from benchmarks.learning.record import load
from benchmarks.learning.text import ROOT
from benchmarks.learning.trial import Trial
from benchmarks.learning.vouch import vouch

RECORD = ROOT / "benchmarks" / "results" / "learning_runs.jsonl"
COSTS = {"adamw_dp": 1.0, "demo": 1.7}
MODEL_COSTS = {"tiny": 0.2, "small": 1.0, "medium": 3.0}


def main(argv: list[str]) -> None:
    """Run what is missing, then write tables and pictures."""
    arguments = parse(argv)
    if arguments.tune:
        names = list(tuning.searches()) if arguments.tune == "all" else arguments.tune.split(",")
        tune(names, arguments)
    for line in vouch(arguments.record) if arguments.vouch else ():
        print(line, flush=True)
    rates = load_rates()
    everything = suite.full(rates) + suite.more(rates)
    groups = suite.quick(rates) if arguments.quick else suite.full(rates)
    groups = everything if arguments.more or arguments.only else groups
    wanted = set(arguments.only.split(",")) if arguments.only else None
    groups = [group for group in groups if wanted is None or group.section in wanted]
    trials = to_run(suite.in_order(groups), load(arguments.record), arguments.again)
    jobs = [
        Job(call=run_one, arguments=(trial, arguments.record), cost=cost(trial)) for trial in trials
    ]
    try:
        run_jobs(jobs, arguments.workers)
    except KeyboardInterrupt:
        print("interrupted: the runs that ended are on record")
    command = " ".join(["python -m benchmarks.learning", *argv])
    report.write(everything, load(arguments.record), arguments.record.parent, command)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.learning", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="24 rounds at recorded rates")
    parser.add_argument("--more", action="store_true", help="and what an hour has no room for")
    parser.add_argument(
        "--again", action="store_true", help="also what was recorded before rows had digests"
    )
    parser.add_argument(
        "--vouch",
        action="store_true",
        help="keep runs of changed code if one ends equal",
    )
    parser.add_argument("--only", default="", metavar="SECTION,...")
    parser.add_argument(
        "--tune", nargs="?", const="all", metavar="NAME,...", help="search for rates first"
    )
    parser.add_argument("--budget", type=int, default=tuning.BUDGET, help="trials of a search")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--record", type=Path, default=RECORD)
    return parser.parse_args(argv)


def tune(names: Sequence[str], arguments: argparse.Namespace) -> None:
    """Search, then write down the rates of all that were ever searched."""
    record, budget = arguments.record, arguments.budget
    jobs = [Job(call=run_search, arguments=(n, record, budget), cost=1.0) for n in names]
    run_jobs(jobs, arguments.workers)
    tuning.write_rates(record, RATES, budget)


def cost(trial: Trial) -> float:
    """About proportional to the seconds that a trial takes."""
    per_token = COSTS.get(trial.strategy, 1.1) * MODEL_COSTS[trial.model]
    return per_token * trial.tokens(64)


if __name__ == "__main__":
    main(sys.argv[1:])
