"""Three naming rules, asked about the same recorded gains: how often is each wrong?

`one window`: gain - 2 standard errors > a tenth of the window's scale; the rule up to D120.
`filter`: a Kalman filter of each hotkey's gain, named while the posterior mean exceeds a fifth of
the scale. `gain test`: the rule of the plan, the project's own code.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.learning.workers import PLAN
from evaluation.evidence import Evidence, GainRules, Past, lower_medians
from evaluation.gain import gain_scale
from evaluation.work import WorkRules, WorkSample
from template.commands.plan import load_plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """A measured payload: gain and standard error in nats per token, and evidence of work."""

    gain: float
    error: float
    work: WorkSample | None


Window = Mapping[int, Figures]
"""Measured payloads by uid."""
Rule = Callable[[Sequence[Window]], Iterator[set[int]]]
"""The uids named in each window, in order."""


def one_window(windows: Sequence[Window]) -> Iterator[set[int]]:
    for window in windows:
        floor = 0.1 * gain_scale(each.gain for each in window.values())
        yield {uid for uid, each in window.items() if each.gain - 2 * each.error > floor}


def kalman(windows: Sequence[Window]) -> Iterator[set[int]]:
    """A drift of 0.15 and a spread of 0.3 of the scale a window; newcomers start at 0 +- 0.5."""
    means: dict[int, float] = {}
    variances: dict[int, float] = {}
    medians: list[float] = []
    for window in windows:
        medians.append(statistics.median_low(each.gain for each in window.values()))
        scale, named = statistics.median(medians[-8:]), set()
        for uid, each in window.items():
            prior = variances.get(uid, (0.5 * scale) ** 2) + (0.15 * scale) ** 2
            total = prior + each.error**2 + (0.3 * scale) ** 2
            share = prior / total if total > 0 else 0.0  # no gain and no error: nothing is said
            mean = means.get(uid, 0.0)
            means[uid] = mean + share * (each.gain - mean)
            variances[uid] = (1 - share) * prior
            if means[uid] > 0.2 * scale and each.gain + 2 * each.error > 0:
                named.add(uid)
        yield named


def gain_test(windows: Sequence[Window]) -> Iterator[set[int]]:
    """As `evaluation.judge` decides, with the plan's rules and without other reasons."""
    plan = load_plan(PLAN)["evaluation"]
    work = WorkRules(effect=plan["work_effect"], error=plan["work_error"])
    rules = GainRules(gain=plan["naming_gain"], error=plan["naming_error"])
    evidence: dict[int, Evidence] = {}
    gains: dict[int, list[float]] = {}
    for number, window in enumerate(windows):
        past = Past(
            evidence={str(uid): found for uid, found in evidence.items()},
            medians=lower_medians(gains),
        )
        scale = past.scale({str(uid): each.gain for uid, each in window.items()})
        scale = scale or gain_scale(each.gain for each in window.values())
        limit = past.error_limit({str(uid): each.error for uid, each in window.items()})
        named = set()
        for uid, each in window.items():
            error = min(each.error, limit)
            log_ratio = rules.log_ratio(each.gain, error, scale)
            found = evidence.get(uid, Evidence()).after(each.work, log_ratio, work, rules)
            evidence[uid] = found
            is_harmful = each.gain + plan["naming_z"] * error <= plan["min_relative_gain"] * scale
            if found.gain.holds and not is_harmful and found.work.log_ratio > -work.bound:
                named.add(uid)
        gains[number] = [window[uid].gain for uid in named]
        yield named


RULES: Mapping[str, Rule] = {"one window": one_window, "filter": kalman, "gain test": gain_test}


def windows_to_refusal(rule: Rule, windows: Sequence[Window], uid: int, first: int) -> int:
    """Windows from `first` on in which a hotkey is named before its first refusal there."""
    named = list(rule(windows))[first:]
    return next((count for count, uids in enumerate(named) if uid not in uids), len(named))


def windows_to_naming(rule: Rule, windows: Sequence[Window], uid: int, first: int) -> int:
    """Windows until a hotkey that arrives in window `first` is named."""
    seen = [
        {other: each for other, each in window.items() if other != uid or number >= first}
        for number, window in enumerate(windows)
    ]
    named = list(rule(seen))[first:]
    return next((count for count, uids in enumerate(named) if uid in uids), len(named))


def turned(windows: Sequence[Window], uid: int, other: int, first: int) -> list[Window]:
    """The windows as if `uid` had sent what `other` sent, from window `first` on."""
    return [
        {**window, uid: window[other]} if number >= first and other in window else window
        for number, window in enumerate(windows)
    ]


def without_gain(windows: Sequence[Window], uid: int, first: int) -> list[Window]:
    """The windows as if `uid` had sent a payload of no effect, from window `first` on."""
    nothing = Figures(gain=0.0, error=0.0, work=_sample(0.0, 0.08))
    return [{**w, uid: nothing} if number >= first else w for number, w in enumerate(windows)]


def figures_of(row: Sequence[float | str | None]) -> Figures | None:
    """A payload of the record; None for a payload that was not measured."""
    _, gain, error, effect, variance, _ = row
    if gain is None or error is None:
        return None
    work = None
    if effect is not None and variance is not None:
        work = _sample(float(effect), float(variance))
    return Figures(gain=float(gain), error=float(error), work=work)


def _sample(effect: float, variance: float) -> WorkSample:
    """Nobody is paid here: what only pay asks for is left out."""
    return WorkSample(effect=effect, variance=variance, page_effect=math.nan, page_square=math.nan)
