"""From the losses of a window to verdicts: a pure function for validators, audits, simulations.

Legend: S sequences of the window's pool, H held-out ones, K those shown to one payload,
Q quarters of a sequence.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluation.evidence import GainRules, Past
from evaluation.gain import gain_scale, half_gap, paired_gain, relative_gains
from evaluation.verdict import NAMED, NOT_AUTHOR, SCORED, Verdict
from evaluation.work import HELD_OUT, Floats, Ints, WorkRules, WorkSample, shown_to, work_sample

LEAST_OF_PART = 0.5
"""Of the best part's gain: the least gain of a whole payload that measures parts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeRules:
    """Rules of acceptance.

    A payload is useful if the gain test holds for the hotkey, this window included; unless the gain
    is significantly below the floor, gain + `naming_z` x standard error <= `min_relative_gain` x
    scale, or the work test has decided against the miner. Of useful payloads alike, one counts: the
    payload with the most evidence of work on its own pages in this window, times claimed pages.

    Of a payload of a part of the model, gain and standard error count over `usual_share`.
    """

    naming_z: float
    min_relative_gain: float
    work: WorkRules
    gain: GainRules


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A window's losses in nats per token, float64.

    `before_SQ`: at theta, by quarters of a sequence; `after_KQ`: uid -> after the payload's step,
    for measured payloads, on the sequences `shown_to` the uid, in the pool's order.
    `owners_S`: int64, uid of the claimant of each sequence, or HELD_OUT. `half_way_H`: half-way
    between the theta before the last step and theta, on the held-out sequences in order; None where
    not measured.
    """

    owners_S: Ints
    before_SQ: Floats
    after_KQ: Mapping[int, Floats]
    half_way_H: Floats | None = None

    @property
    def held_out_H(self) -> Floats:
        """Losses at theta of the held-out sequences."""
        held_H: Floats = self.before_SQ[self.owners_S == HELD_OUT].mean(axis=1)
        return held_H

    def held_out_after_H(self, uid: int) -> Floats:
        """Losses of the held-out sequences after the step of a measured uid."""
        held_K = self.owners_S[shown_to(self.owners_S, uid)] == HELD_OUT
        after_H: Floats = self.after_KQ[uid][held_K].mean(axis=1)
        return after_H

    def work_of(self, uid: int) -> WorkSample | None:
        """The evidence for the work test on a measured uid."""
        shown_S = shown_to(self.owners_S, uid)
        with np.errstate(invalid="ignore"):  # infinity less infinity, which counts as not finite
            gains_KQ = self.before_SQ[shown_S] - self.after_KQ[uid]
        return work_sample(gains_KQ, self.owners_S[shown_S] == HELD_OUT)


def judge(
    blanks: Sequence[Verdict],
    measured: Measured,
    past: Past,
    rules: JudgeRules,
) -> tuple[Verdict, ...]:
    """Verdicts in uid order.

    `blanks`: a verdict per committed payload, without figures; unmeasured payloads carry the
    reason, payloads alike their uids. `past`: what the windows before say.
    """
    found = []
    for blank in sorted(blanks, key=lambda verdict: verdict.uid):
        if blank.uid not in measured.after_KQ:
            found.append(blank)
            continue
        after_H = measured.held_out_after_H(blank.uid)
        gain = paired_gain(measured.held_out_H, after_H)
        sample = measured.work_of(blank.uid)
        found.append(
            replace(
                blank,
                status=SCORED,
                gain=gain.mean,
                gain_standard_error=gain.standard_error,
                work_effect=None if sample is None else sample.effect,
                work_variance=None if sample is None else sample.variance,
                page_effect=None if sample is None else sample.page_effect,
                page_square=None if sample is None else sample.page_square,
                quarter_profile=() if sample is None else sample.quarter_profile,
                half_gap=half_gap(measured.held_out_H, after_H),
            )
        )
    return _with_relative_gains(_find_authors(_decide_statuses(found, past, rules), rules), rules)


def usual_share(verdict: Verdict) -> float:
    """What a payload of a part of the model gains, beside one of the whole model; 1 for the whole.

    The part's share of the parameters. Most parts gain as much or more: of models of four layers,
    halves gained 0.8 to 0.9, and quarters 0.15 to 1 but for the embedding's, 0 to 0.3.
    """
    return verdict.model_share


def of_scale(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The verdicts whose gains make a scale: those on payloads of the whole model, or all verdicts
    if no whole gains at least `LEAST_OF_PART` times the best part's gain.

    What a part gains over its share varies from part to part, and whoever sends parts chooses their
    number: parts are measured by wholes, and never the other way round. A useful whole gains about
    what the best part gains, or more. Where all others send parts, a single whole payload of no
    worth would otherwise set the scale, and all parts with any gain would pass and be paid alike.
    """
    listed = list(verdicts)
    wholes = [v for v in listed if v.model_share == 1.0]
    best = max((v.gain or 0.0 for v in wholes), default=0.0)
    best_part = max((v.gain or 0.0 for v in listed if v.model_share != 1.0), default=0.0)
    return wholes if best > 0 and best >= LEAST_OF_PART * best_part else listed


def whole_gain(verdict: Verdict) -> float | None:
    """The gain over `usual_share`, nats per token: gains of parts and of wholes are then alike."""
    return None if verdict.gain is None else verdict.gain / usual_share(verdict)


def sample_of(verdict: Verdict) -> WorkSample | None:
    """The evidence for the work test in a verdict, or None."""
    figures = (
        verdict.work_effect, verdict.work_variance, verdict.page_effect, verdict.page_square,
    )  # fmt: skip
    effect, variance, page_effect, page_square = figures
    if effect is None or variance is None or page_effect is None or page_square is None:
        return None
    return WorkSample(
        effect=effect,
        variance=variance,
        page_effect=page_effect,
        page_square=page_square,
        quarter_profile=verdict.quarter_profile,
        width=verdict.width,
    )


def _find_authors(verdicts: Sequence[Verdict], rules: JudgeRules) -> list[Verdict]:
    """Turn `named` into `not_author` where a payload alike shows more work; of equals the lowest
    uid counts.

    Evidence times claimed pages, of one batch a step: a great effect on a few pages is less work
    than a fair one on all, and wide claims are no more by their width. Only the effect beyond half
    of the smallest honest one is evidence: a copy that claims all of its pages without work shows a
    small effect by chance, and would beat a slow author's on a few. This window alone: a long
    record of honest work must not lend authority to a copy.
    """

    def rank(verdict: Verdict) -> tuple[float, int]:
        sample = sample_of(verdict)
        if sample is None:
            return math.inf, verdict.uid
        # Of the log-likelihood ratio's sign.
        evidence = sample.effect - rules.work.effect_at(verdict.width) / 2
        return -evidence * (verdict.pages_consumed or 0) / verdict.width, verdict.uid

    authors: set[int] = set()
    for verdict in sorted((v for v in verdicts if v.named), key=rank):
        if authors.isdisjoint(verdict.alike):
            authors.add(verdict.uid)
    return [
        replace(v, status=NOT_AUTHOR) if v.named and v.uid not in authors else v for v in verdicts
    ]


def _with_relative_gains(verdicts: Sequence[Verdict], rules: JudgeRules) -> tuple[Verdict, ...]:
    """Set relative gains; blameless payloads get no relative gain, copies the worst.

    A payload that lost to a payload alike, and shows work of its own, keeps its gain: to lose a
    window must cost an author no pay. Chance does not pay a copy: in most windows it shows no work.
    Without a work test nothing speaks for either, and the loser has no entry.
    """
    judged = [v for v in verdicts if not v.blameless and not _is_unproven_loser(v)]
    relative = relative_gains(
        {v.uid: whole_gain(v) if _earns(v, rules) else None for v in judged},
        {verdict.uid for verdict in of_scale(judged)},
    )
    return tuple(replace(v, relative_gain=relative.get(v.uid)) for v in verdicts)


def _is_unproven_loser(verdict: Verdict) -> bool:
    return verdict.status == NOT_AUTHOR and sample_of(verdict) is None


def _earns(verdict: Verdict, rules: JudgeRules) -> bool:
    """Whether the gain counts; a loser's counts if this window's evidence speaks for work."""
    sample = sample_of(verdict)
    if verdict.status != NOT_AUTHOR or sample is None:
        return True
    return sample.log_likelihood_ratio(rules.work.effect_at(verdict.width)) > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """What a window's gains are held against, nats per token.

    `scale`: the usual gain; `error_limit`: the largest standard error that counts; `floor`: a gain
    significantly below is refused.
    """

    scale: float
    error_limit: float
    floor: float


def bar_of(verdicts: Sequence[Verdict], past: Past, rules: JudgeRules) -> Bar:
    """The bar of a window, from the gains of its measured verdicts and the windows before."""
    # A random direction gains a few percent of the scale by luck, on every sequence alike, so
    # the test over sequences misses the luck: hence the floor.
    scored = {v.hotkey: whole_gain(v) for v in verdicts if v.measured}
    gains = {hotkey: gain for hotkey, gain in scored.items() if gain is not None}
    counted = {v.hotkey: gains[v.hotkey] for v in of_scale(verdicts) if v.hotkey in gains}
    scale = past.scale(counted) or gain_scale(counted.values())
    return Bar(
        scale=scale,
        error_limit=past.error_limit(_finite_errors(verdicts)),
        floor=rules.min_relative_gain * scale,
    )


def _decide_statuses(verdicts: Sequence[Verdict], past: Past, rules: JudgeRules) -> list[Verdict]:
    """Turn `scored` into `named`, `no_gain` or `no_work`, with the window's evidence of gain."""
    bar = bar_of(verdicts, past, rules)
    decided = []
    for verdict in verdicts:
        if verdict.status != SCORED:
            decided.append(verdict)
            continue
        known = whole_gain(verdict)
        gain = -math.inf if known is None else known
        error = min((verdict.gain_standard_error or 0.0) / usual_share(verdict), bar.error_limit)
        log_ratio = rules.gain.log_ratio(gain, error, bar.scale)
        evidence = past.of(verdict.hotkey).after(
            sample_of(verdict), log_ratio, rules.work, rules.gain
        )
        if not evidence.gain.holds or gain + rules.naming_z * error <= bar.floor:
            status = "no_gain"
        elif evidence.work.log_ratio <= -rules.work.bound:
            status = "no_work"
        else:
            status = NAMED
        decided.append(replace(verdict, status=status, gain_log_ratio=log_ratio))
    return decided


def _finite_errors(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """hotkey -> standard error, of the payloads with a finite gain."""
    return {
        v.hotkey: v.gain_standard_error / usual_share(v)
        for v in verdicts
        if v.measured
        and v.gain is not None
        and math.isfinite(v.gain)
        and v.gain_standard_error is not None
    }
