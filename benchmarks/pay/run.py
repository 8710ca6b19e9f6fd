"""One case, played where it says, and its line of the record; what the pool's processes do."""

from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks.learning.record import append
from benchmarks.pay import neurons, suite
from benchmarks.pay.cases import SUITE, SWARM, Case

PLAY: Final = {SUITE: suite.play, SWARM: neurons.play}


def run_case(case: Case, record: Path) -> str:
    """Play a case and append it; the words to say so."""
    outcome = PLAY[case.where](case)
    append(record, {"key": case.key, "case": asdict(case), "outcome": outcome})
    return f"{case.label}: {outcome['seconds']:.0f} s"
