"""The law of the points (`template.planning.evidence`), by least squares."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from benchmarks.incentive.point import STEPS
from template.planning.evidence import EffectLaw, log_effect, log_slopes

RELATIVE_ERROR: Final = 0.25
LEAST_ERROR: Final = 0.03
"""Runs differ by a part of the effect, and chance shows a few hundredths of nothing."""
ROUNDS, STEPS_OF_FIT = 10, 100
LEAST_POINTS: Final = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """The mean over a point's payloads. `error`: standard error of `effect`, by the spread between
    payloads. `gain`: in standard deviations of a page.
    """

    model: str
    parameters: int
    pages: int
    seed: int
    steps: int
    effect: float
    error: float
    gain: float
    payloads: int


def shown_in(row: Mapping[str, Any]) -> Shown:
    """A row of the record; ValueError with fewer than two payloads."""
    effects = np.array([sample["effect"] for sample in row["samples"]])
    if effects.size < 2:
        raise ValueError(f"{row['key']}: {effects.size} payloads, 2 or more are needed")
    return Shown(
        **row["point"],
        parameters=row["parameters"],
        effect=float(effects.mean()),
        error=float(effects.std(ddof=1)) / math.sqrt(effects.size),
        gain=float(np.mean([sample["gain_effect"] for sample in row["samples"]])),
        payloads=int(effects.size),
    )


def fit(points: Iterable[Shown]) -> EffectLaw:
    """The law of the points with the usual number of steps, those without an effect among them.

    Least squares of the effect itself, each point by its relative error and a floor (Levenberg and
    Marquardt). ValueError with fewer than six points, or with none that differ in parameters or in
    pages.
    """
    counted = [point for point in points if point.steps == STEPS]
    if len(counted) < LEAST_POINTS:
        raise ValueError(f"{len(counted)} points, {LEAST_POINTS} or more are needed")
    if len({p.parameters for p in counted}) < 2 or len({p.pages for p in counted}) < 3:
        raise ValueError("the points do not differ in parameters and in pages")
    values = np.array([point.effect for point in counted])
    solved = np.array([1.5, 0.25, 6.0, 0.25])
    told, slopes = _told(solved, counted)
    for _ in range(ROUNDS):
        # By what the law says: by what was measured, points low by chance would weigh most.
        weights = 1 / (RELATIVE_ERROR * told + LEAST_ERROR)
        damping = 1.0
        for _ in range(STEPS_OF_FIT):
            left, rows = weights * (values - told), weights[:, None] * slopes
            square = rows.T @ rows
            move = np.linalg.solve(square + damping * np.diag(np.diag(square)), rows.T @ left)
            told_then, slopes_then = _told(solved + move, counted)
            if np.sum((weights * (values - told_then)) ** 2) <= left @ left:
                solved, told, slopes, damping = solved + move, told_then, slopes_then, damping / 3
            else:
                damping *= 4
    left, rows = weights * (values - told), weights[:, None] * slopes
    variance = float(left @ left) / (len(counted) - len(solved))
    covariance = variance * np.linalg.inv(rows.T @ rows)
    start, by_parameters, turn, turn_by_parameters = map(float, solved)
    return EffectLaw(
        coefficients=(start, by_parameters, turn, turn_by_parameters),
        covariance=tuple(tuple(map(float, row)) for row in covariance),
        parameters=_ends([point.parameters for point in counted]),
        pages=_ends([point.pages for point in counted]),
        points=len(counted),
    )


def fit_gain(points: Iterable[Shown]) -> tuple[float, float, float]:
    """Gain in standard deviations of a page, as exp(a) N^b n^c: a, b and c, by least squares of the
    logarithm over the points with the usual number of steps and a gain.
    """
    counted = [point for point in points if point.steps == STEPS and point.gain > 0]
    rows = np.array([[1.0, math.log(p.parameters), math.log(p.pages)] for p in counted])
    values = np.log([point.gain for point in counted])
    start, by_parameters, by_pages = map(float, np.linalg.lstsq(rows, values, rcond=None)[0])
    return start, by_parameters, by_pages


def _told(coefficients: Any, points: Sequence[Shown]) -> tuple[Any, Any]:
    """The law's effects at the points, float64 [P], and their slopes, float64 [P, 4]."""
    told = np.exp([log_effect(coefficients, p.parameters, p.pages) for p in points])
    slopes = np.array([log_slopes(coefficients, p.parameters, p.pages) for p in points])
    return told, told[:, None] * slopes


def _ends(values: Sequence[int]) -> tuple[int, int]:
    return min(values), max(values)


def typical_miss(law: EffectLaw, points: Iterable[Shown]) -> float:
    """Root mean square of effect less the law's, over the points with the usual steps."""
    misses = [p.effect - law.effect(p.parameters, p.pages) for p in points if p.steps == STEPS]
    return math.sqrt(math.fsum(miss * miss for miss in misses) / len(misses))
