"""What the processes of the pool do: they append to the record before they answer."""

from pathlib import Path

from benchmarks.learning import tuning
from benchmarks.learning.origin import code_digest
from benchmarks.learning.record import append
from benchmarks.learning.run import as_row, run_trial
from benchmarks.learning.trial import Trial


def run_search(name: str, record: Path, budget: int) -> str:
    count = sum(1 for _ in tuning.search(name, record, budget))
    return f"rates of {name}: {count} trials"


def run_one(trial: Trial, record: Path) -> str:
    code = code_digest(trial)
    outcome = run_trial(trial)
    append(record, as_row(trial, outcome, code))
    return (
        f"{trial.strategy} lag {trial.lag}, {trial.rounds} rounds, seed {trial.seed}: "
        f"{outcome.held_out_loss:.4f} in {outcome.seconds:.0f} s"
    )
