"""The benchmark of validators' dividends.

    python -m benchmarks.validators                    everything (some 15 minutes on one core)
    python -m benchmarks.validators --quick            one crowd on one chain, no swarm
    python -m benchmarks.validators --only modelled    or played; the rest stays on record

Writes validators.json and validators.md, and prints the latter.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.learning.report import commit
from benchmarks.learning.text import ROOT
from benchmarks.validators import report, suite
from benchmarks.validators.chain import YUMA
from benchmarks.validators.crowd import Rule
from benchmarks.validators.played import facts_of, load_crowd
from benchmarks.validators.roles import honest_rows

RECORD: Final = ROOT / "benchmarks" / "results" / "validators.json"
PARTS: Final = ("modelled", "played")
FIRST_PLAYED_EPOCH: Final = 8
"""The account is full after four epochs."""


def main(argv: list[str]) -> None:
    """Measure and write; an interrupt leaves what is whole."""
    parser = argparse.ArgumentParser(prog="benchmarks.validators", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="one crowd on one chain, no swarm")
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--record", type=Path, default=RECORD)
    arguments = parser.parse_args(argv)
    old = arguments.record
    record = json.loads(old.read_text()) if arguments.only and old.exists() else {}
    head = {"command": " ".join(["python -m benchmarks.validators", *argv]), "commit": commit()}
    if arguments.only in (None, "modelled"):
        rows = [suite.measure(case) for case in suite.cases(quick=arguments.quick)]
        record["modelled"] = head | {"seeds": list(suite.SEEDS), "rows": rows}
        arguments.record.write_text(text_of_record(record))
    if arguments.only in (None, "played") and not arguments.quick:
        record["played"] = head | measure_played()
    arguments.record.write_text(text_of_record(record))
    text = report.text_of(*(record.get(part, {}).get("rows", []) for part in PARTS))
    arguments.record.with_suffix(".md").write_text(text + "\n")
    print(text)


def text_of_record(record: dict[str, Any]) -> str:
    """JSON with five digits of each number, which is more than seeds agree on."""
    exact = json.dumps(record)
    rounded = json.loads(exact, parse_float=lambda text: float(f"{float(text):.5g}"))
    return json.dumps(rounded, indent=1) + "\n"


def measure_played() -> dict[str, Any]:
    """Rules on every chain, over the swarms of all seeds; pay beside that without duels."""
    crowds = [load_crowd(seed) for seed in suite.SEEDS]
    plain = Rule(account=16)
    earned = [np.mean(honest_rows(crowd, plain)[FIRST_PLAYED_EPOCH:], axis=0) for crowd in crowds]
    rows = []
    for name, rule in suite.RULES.items():
        for yuma, params in YUMA.items():
            chain = suite.Chain(
                stake=suite.USUAL_STAKE, params=params, first_epoch=FIRST_PLAYED_EPOCH
            )
            found = suite.measure_all(crowds, rule, earned, chain)
            rows.append({"rule": name, "yuma": yuma} | found)
    return {"facts": [facts_of(crowd) for crowd in crowds], "rows": rows}


if __name__ == "__main__":
    main(sys.argv[1:])
