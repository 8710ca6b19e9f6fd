"""The rules of pay: how verdicts become reputations and weights."""

from dataclasses import dataclass

from evaluation.judge import JudgeRules
from evaluation.weights import WeightRules


@dataclass(frozen=True, kw_only=True, slots=True)
class PayRules:
    """Everything between losses and weights, from the run spec.

    `weights.history_windows` also bounds the ratings, `work_windows` the work test. `tested`: a
    miner needs a passed work test to be paid.
    """

    judge: JudgeRules
    weights: WeightRules
    work_windows: int
    tested: bool

    @property
    def length(self) -> int:
        """Number of past windows with an influence on the weights."""
        return max(self.weights.most_windows, self.work_windows)
