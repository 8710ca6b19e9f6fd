"""The benchmark of long runs.

    python -m benchmarks.long               200 windows with three seeds, 500 with one, turncoats
    python -m benchmarks.long --quick       one seed, 48 windows

About an hour on 2 cores; runs on record are not run again, and an interrupt loses the runs in
flight alone.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.learning.pool import Job, run_jobs
from benchmarks.learning.record import load
from benchmarks.learning.text import ROOT
from benchmarks.long import report
from benchmarks.long.case import cases, run_case

RECORD = ROOT / "benchmarks" / "results" / "long_runs.jsonl"


def main(argv: list[str]) -> None:
    """Run what is missing, then write tables and picture."""
    parser = argparse.ArgumentParser(prog="benchmarks.long", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="one seed, 48 windows")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--record", type=Path, default=RECORD)
    arguments = parser.parse_args(argv)
    wanted = cases((1,), 48, 0)[:2] if arguments.quick else cases()
    done = load(arguments.record)
    jobs = [
        Job(call=run_case, arguments=(case, arguments.record), cost=case.windows)
        for case in wanted
        if case.key not in done
    ]
    try:
        run_jobs(jobs, arguments.workers)
    except KeyboardInterrupt:
        print("interrupted: the runs that ended are on record")
    command = " ".join(["python -m benchmarks.long", *argv])
    content = report.summary(wanted, load(arguments.record))
    report.write(content, arguments.record.parent, command)
    print((arguments.record.parent / "long.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(sys.argv[1:])
