"""Machines of unequal pace.

    python -m benchmarks.pace                everything; races on record are not run again
    python -m benchmarks.pace --quick        the modes with one seed
    python -m benchmarks.pace --only pace    some sections
    python -m benchmarks.pace.lanes          how much of a window a miner trains

An interrupt loses the races in flight alone.
"""

import argparse
import sys
from pathlib import Path
from typing import Final

from benchmarks.learning.pool import Job, run_jobs
from benchmarks.learning.record import load
from benchmarks.learning.text import ROOT
from benchmarks.pace import report
from benchmarks.pace.run import run_one
from benchmarks.pace.suite import DEEP, Group, everything, quick

RECORD: Final = ROOT / "benchmarks" / "results" / "pace_runs.jsonl"
DEEP_COST: Final = 2.5


def main(argv: list[str]) -> None:
    """Run what is missing, then write table and picture."""
    parser = argparse.ArgumentParser(prog="benchmarks.pace", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="the modes with one seed")
    parser.add_argument("--only", default="", metavar="SECTION,...")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--record", type=Path, default=RECORD)
    arguments = parser.parse_args(argv)
    wanted = arguments.only.split(",") if arguments.only else None
    groups = [
        group
        for group in (quick() if arguments.quick else everything())
        if wanted is None or group.section in wanted
    ]
    try:
        run_jobs(jobs_of(groups, arguments.record), arguments.workers)
    except KeyboardInterrupt:
        print("interrupted: the races that ended are on record")
    command = " ".join(["python -m benchmarks.pace", *argv])
    report.write(everything(), load(arguments.record), arguments.record.parent, command)


def jobs_of(groups: list[Group], record: Path) -> list[Job]:
    """The races without a line in the record, each once: all groups' first seeds, then the next."""
    done, jobs = load(record).keys(), dict[str, Job]()
    for number in range(max((len(group.races) for group in groups), default=0)):
        for group in groups:
            race = group.races[number]
            if race.key in done or race.key in jobs:
                continue
            work = sum(machine.width / machine.windows for machine in race.machines)
            cost = race.trial.rounds * (work + len(race.machines)) / 2
            cost *= DEEP_COST if race.trial.model == DEEP else 1.0
            label = f"{group.section} {group.case} {group.label}"
            jobs[race.key] = Job(call=run_one, arguments=(race, label, record), cost=cost)
    return list(jobs.values())


if __name__ == "__main__":
    main(sys.argv[1:])
