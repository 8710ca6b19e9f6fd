"""The attack suite's command.

    python -m benchmarks.attacks --quick            all attacks at 25 % of 8 miners, one seed
    python -m benchmarks.attacks                    three seeds, and 20 miners at 5, 25 and 40 %
    python -m benchmarks.attacks --only "NAME;..."  some attacks
    python -m benchmarks.attacks --report           tables and picture again

Runs are appended to the record as they end and skipped when they are there; tables and picture
are of all runs on record, and lie beside it.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.attacks import report, suite
from benchmarks.attacks.catalogue import ATTACKS
from benchmarks.attacks.panel import WORK_EFFECT
from benchmarks.learning.pool import Job, run_jobs
from benchmarks.learning.record import load
from benchmarks.learning.report import commit
from benchmarks.learning.text import ROOT
from evaluation.work import WorkRules
from template.commands.plan import load_plan

SECONDS = {suite.WEAK: 0.15, suite.STRONG: 0.4}
"""Model -> of one miner's window, trained and scored; measured on one core with AVX2."""
UNSCORED = 0.6
"""Of those seconds, training alone."""
RECORD = ROOT / "benchmarks" / "results" / "attacks_runs.jsonl"


def main(argv: list[str]) -> None:
    """Run what is missing, then write tables and picture."""
    parser = argparse.ArgumentParser(prog="benchmarks.attacks", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="8 miners, 25 %%, one seed")
    parser.add_argument("--only", default="", metavar="NAME;...", help="and the runs beside them")
    parser.add_argument("--report", action="store_true", help="of the runs on record, none more")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--record", type=Path, default=RECORD)
    arguments = parser.parse_args(argv)
    wanted = set(filter(None, arguments.only.split(";")))
    if unknown := wanted - ATTACKS.keys():
        parser.error(f"--only: no attack {sorted(unknown)}; there are: {'; '.join(ATTACKS)}")
    cases = [] if arguments.report else suite.quick() if arguments.quick else suite.full()
    cases = [case for case in cases if not wanted or case.attack in {*wanted, suite.CLEAN}]
    done = load(arguments.record)
    jobs = [
        Job(call=suite.run_case, arguments=(case, arguments.record), cost=cost(case))
        for case in cases
        if case.key not in done
    ]
    jobs.sort(key=lambda job: -job.cost)
    try:
        run_jobs(jobs, arguments.workers)
    except KeyboardInterrupt:
        print("interrupted: the runs that ended are on record")
    command = " ".join(["python -m benchmarks.attacks", *argv])
    error = float(load_plan(ROOT / "runs" / "localnet.toml")["evaluation"]["work_error"])
    rules = WorkRules(effect=WORK_EFFECT, error=error)
    everything = list({case.key: case for case in (*suite.full(), *suite.quick())}.values())
    head = {"command": command, "commit": commit()}
    rows = load(arguments.record)
    report.write(everything, rows, rules, arguments.record.parent, head)
    print((arguments.record.parent / "attacks.md").read_text())


def cost(case: suite.Case) -> float:
    """About its seconds on one core."""
    a_window_s = SECONDS[case.model] * (1.0 if case.defended else UNSCORED)
    return case.miners * case.windows * a_window_s


if __name__ == "__main__":
    main(sys.argv[1:])
