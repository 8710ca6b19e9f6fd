"""Rows of changed code, kept where the change makes no difference: one row of each kind runs again.

A kind is a rule, an inner optimiser, the code of before and the values of the plan that go with it
unchanged. The shortest trial of a kind stands for the others: if its loss and its curve are equal
to the last bit, all rows of the kind get the digest of the code that is here; else they stay stale.
Only on the machine of before, with its torch; a change that the shortest trial does not reach
stays unseen.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.learning.origin import STALE, age, code_digest
from benchmarks.learning.record import append, load
from benchmarks.learning.run import run_trial
from benchmarks.learning.trial import Trial
from benchmarks.learning.workers import FINAL_PAGES

Kind = tuple[str, str, bool, str]


def vouch(path: Path, final_pages: int = FINAL_PAGES) -> Iterator[str]:
    """A line for each kind of stale rows, when it was decided."""
    kinds: dict[Kind, list[tuple[Trial, dict[str, Any]]]] = defaultdict(list)
    for row in load(path).values():
        trial = Trial(**row["trial"])
        if age(trial, row) != STALE:
            continue
        before, _, plan = row["code"].partition(".")
        if code_digest(trial).endswith(f".{plan}"):
            kinds[trial.strategy, trial.inner, trial.noise_miners > 0, before].append((trial, row))
    for (strategy, inner, _, before), members in kinds.items():
        trial, row = min(members, key=lambda member: member[0].tokens(1))
        again, recorded = run_trial(trial, final_pages), row["outcome"]
        equal = again.held_out_loss == recorded["held_out_loss"] and list(
            map(list, again.curve)
        ) == list(map(list, recorded["curve"]))
        for other, kept in members if equal else ():
            append(path, kept | {"code": code_digest(other)})
        verdict = "equal to the last bit, kept" if equal else "another result, stale"
        yield f"{strategy}, {inner}, code {before}: {len(members)} rows, {verdict}"
