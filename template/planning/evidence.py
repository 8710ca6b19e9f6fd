"""What the work test will see in a run: a law measured on small models, and what follows from it.

With N parameters, n pages of a payload and the effect e of `evaluation.work`, in standard
deviations of a page:

    log e = a + b log(N / N_0) - log(n) / 2 - log(1 + n / n_t) / 2
    log n_t = c + d log(N / N_0),                                   N_0 = 10^5

A page's part of a step is one in n, and what other pages do to it by chance falls with the root of
n: while the noise of the batch is most of a step, the effect falls with the root of the pages;
beyond n_t pages, with the pages. Fitted by least squares to the points of `benchmarks.incentive`,
payloads of 30 inner steps in the first windows after a warm start, pages of 256 tokens; the
covariance is that of the fit. Later in a run, and of longer pages, payloads show more.

In the mean a window whose true effect is e adds (a e - a^2 / 2) / v to the log-likelihood ratio of
a test that assumes a, with v of the claimed and held-out pages; the gate opens at log((1 - p) / p).

Far beyond the largest model measured the law is an extrapolation, and says so.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from evaluation.work import WINSOR
from template.protocol.spec import EvaluationSpec, RunSpec
from template.protocol.spec.model import count_parameters

LAW_FILE: Final = Path(__file__).with_name("effects.json")
NORMAL_95: Final = 1.96
UNIT_PARAMETERS: Final = 10**5
"""N_0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EffectLaw:
    """The law. `coefficients`: a, b, c, d; `covariance` of them. `parameters`, `pages`: the
    smallest and the largest measured. `points`: behind the fit.
    """

    coefficients: tuple[float, float, float, float]
    covariance: tuple[tuple[float, ...], ...]
    parameters: tuple[int, int]
    pages: tuple[int, int]
    points: int

    def effect(self, parameters: int, pages: int) -> float:
        """The expected effect; the test cuts single pages at `WINSOR`, and so the mean too."""
        return min(WINSOR, math.exp(log_effect(self.coefficients, parameters, pages)))

    def interval(self, parameters: int, pages: int) -> tuple[float, float]:
        """95 % of the law at that place, by the fit alone."""
        slopes = log_slopes(self.coefficients, parameters, pages)
        variance = _dot(slopes, [_dot(row, slopes) for row in self.covariance])
        spread = math.exp(NORMAL_95 * math.sqrt(max(0.0, variance)))
        middle = math.exp(log_effect(self.coefficients, parameters, pages))
        return min(WINSOR, middle / spread), min(WINSOR, middle * spread)

    def covers(self, parameters: int, pages: int) -> bool:
        """Whether the place lies within what was measured."""
        within = self.parameters[0] <= parameters <= self.parameters[1]
        return within and self.pages[0] <= pages <= self.pages[1]

    def turn(self, parameters: int) -> float:
        """n_t: pages of a payload beyond which the effect falls with the pages."""
        _, _, turn, by_parameters = self.coefficients
        return math.exp(turn + by_parameters * math.log(parameters / UNIT_PARAMETERS))


def log_effect(coefficients: Sequence[float], parameters: int, pages: int) -> float:
    """log e of the module."""
    start, by_parameters, turn, turn_by_parameters = coefficients
    size = math.log(parameters / UNIT_PARAMETERS)
    beyond = math.log(pages) - turn - turn_by_parameters * size
    return start + by_parameters * size - (math.log(pages) + _log_one_plus_exp(beyond)) / 2


def log_slopes(coefficients: Sequence[float], parameters: int, pages: int) -> list[float]:
    """Derivatives of `log_effect` by the coefficients."""
    _, _, turn, turn_by_parameters = coefficients
    size = math.log(parameters / UNIT_PARAMETERS)
    beyond = math.log(pages) - turn - turn_by_parameters * size
    share = math.exp(beyond - _log_one_plus_exp(beyond)) / 2
    return [1.0, size, share, share * size]


def _log_one_plus_exp(value: float) -> float:
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(left, right, strict=True))


def effect_variance(claimed: int, held_out: int) -> float:
    """Of a window's effect by chance, as `evaluation.work` states it."""
    freedom = held_out - 1
    return (1 / claimed + 1 / held_out) * freedom / max(1, freedom - 2)


def windows_to_pass(effect: float, evaluation: EvaluationSpec) -> float:
    """Windows until the gate opens for honest work in the mean; infinite where it never does."""
    assumed = evaluation.work_effect
    variance = effect_variance(evaluation.claimed_pages, evaluation.held_out_pages)
    evidence = (assumed * effect - assumed * assumed / 2) / variance
    return _bound(evaluation.work_error) / evidence if evidence > 0 else math.inf


def pages_to_pass(effect: float, held_out: int, error: float, windows: float) -> int | None:
    """Claimed pages of a payload with which the gate opens in so many windows in the mean, where
    the test assumes what is true; None where no number does, for want of held-out pages.
    """
    if effect <= 0:
        return None
    allowed = windows * effect * effect / (2 * _bound(error))
    freedom = held_out - 1
    rest = allowed * max(1, freedom - 2) / freedom - 1 / held_out
    return math.ceil(1 / rest) if rest > 0 else None


def _bound(error: float) -> float:
    return math.log((1 - error) / error)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkOutlook:
    """What the work test will see of an honest whole payload of `pages`, by the law of small
    models. `low`, `high`: 95 %. `windows`: to the gate in the mean, None for never; `measured`:
    whether the law reaches so far. `needed`: claimed pages for one window, None for no number.
    """

    pages: int
    effect: float
    low: float
    high: float
    measured: bool
    windows: float | None
    needed: int | None


def expect_work(spec: RunSpec, law: EffectLaw) -> WorkOutlook:
    """What `law` says of a spec's payloads of width 1."""
    evaluation = spec.evaluation
    parameters, pages = count_parameters(spec.model), spec.training.pages_per_window
    effect, (low, high) = law.effect(parameters, pages), law.interval(parameters, pages)
    windows = windows_to_pass(effect, evaluation)
    return WorkOutlook(
        pages=pages,
        effect=effect,
        low=low,
        high=high,
        measured=law.covers(parameters, pages),
        windows=windows if math.isfinite(windows) else None,
        needed=pages_to_pass(effect, evaluation.held_out_pages, evaluation.work_error, 1),
    )


def law_text(law: EffectLaw) -> str:
    return json.dumps(asdict(law), indent=1) + "\n"


def parse_law(table: Mapping[str, Any]) -> EffectLaw:
    """The inverse of `law_text`."""
    lists = {name: tuple(table[name]) for name in ("coefficients", "parameters", "pages")}
    covariance = tuple(tuple(row) for row in table["covariance"])
    return EffectLaw(**{**table, **lists, "covariance": covariance})


@lru_cache(maxsize=1)
def read_law() -> EffectLaw:
    """The law of the record of `make bench-incentive`."""
    return parse_law(json.loads(LAW_FILE.read_text("ascii")))
