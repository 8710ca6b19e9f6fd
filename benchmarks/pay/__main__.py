"""The curve of pay over work.

    python -m benchmarks.pay                          what the record lacks, table, picture
    python -m benchmarks.pay --quick                  one seed of each case
    python -m benchmarks.pay --list                   the cases with their keys
    python -m benchmarks.pay --only KEY,...           some cases
    python -m benchmarks.pay --localnet OUT/report.json   also the miners of a localnet
    python -m benchmarks.pay --report                 table and picture again

Runs are appended to the record as they end, and skipped when they are there.
"""

import argparse
import sys
from pathlib import Path
from typing import Final

from benchmarks.learning.pool import Job, run_jobs
from benchmarks.learning.record import load
from benchmarks.learning.text import ROOT
from benchmarks.pay import report
from benchmarks.pay.cases import everything, quick
from benchmarks.pay.localnet import record_report
from benchmarks.pay.run import run_case

RECORD: Final = ROOT / "benchmarks" / "results" / "pay_curve_runs.jsonl"


def main(argv: list[str]) -> None:
    """Play what is missing, then write table and picture."""
    parser = argparse.ArgumentParser(prog="benchmarks.pay", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="one seed of each case")
    parser.add_argument("--only", default="", metavar="KEY,...", help="cases with these keys")
    parser.add_argument("--list", action="store_true", help="the cases with their keys")
    parser.add_argument("--report", action="store_true", help="of the runs on record, none more")
    parser.add_argument("--localnet", type=Path, metavar="OUT/report.json", help="its miners too")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--record", type=Path, default=RECORD)
    arguments = parser.parse_args(argv)
    cases, done = quick() if arguments.quick else everything(), load(arguments.record)
    if arguments.list:
        for case in cases:
            print(case.key, case.label, "(on record)" if case.key in done else "")
        return
    if arguments.localnet is not None:
        print(record_report(arguments.localnet, arguments.record))
    wanted = set(filter(None, arguments.only.split(",")))
    missing = [
        case
        for case in cases
        if not arguments.report and case.key not in done and (not wanted or case.key in wanted)
    ]
    jobs = [Job(call=run_case, arguments=(c, arguments.record), cost=c.cost) for c in missing]
    try:
        run_jobs(jobs, arguments.workers)
    except KeyboardInterrupt:
        print("interrupted: the runs that ended are on record")
    # Without a folder of this machine.
    given = ["OUT/report.json" if word == str(arguments.localnet) else word for word in argv]
    command = " ".join(["python -m benchmarks.pay", *given])
    report.write(everything(), load(arguments.record), arguments.record.parent, command)


if __name__ == "__main__":
    main(sys.argv[1:])
