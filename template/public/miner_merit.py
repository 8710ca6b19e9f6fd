"""Gain and work test in a miner's payslip. Pure."""

import statistics

from evaluation.verdict import Verdict
from template.public.miner_causes import reach
from template.public.miner_point import MinerPoint
from template.public.statements import Figure, Statement, counted, nats


def gain(point: MinerPoint) -> Statement | None:
    verdict = point.verdict
    if verdict is None or not verdict.measured:
        return None
    own, error = verdict.gain, verdict.gain_standard_error or 0.0
    figures = [
        Figure("gain", own, "nats/token"),
        Figure("gain_error", error, "nats/token"),
        Figure("relative_gain", verdict.relative_gain),
    ]
    shown = "not finite" if own is None else f"{nats(own)} +- {error:.5f} nats per token"
    words = f"Gain on held-out pages: {shown}."
    if (others := _others(point, verdict)) is not None:
        words += " " + others[0]
        figures += others[1]
    if (evidence := _evidence(point, verdict)) is not None:
        words += " " + evidence[0]
        figures += evidence[1]
    return Statement(
        topic="gain",
        words=words,
        figures=tuple(figures),
        sources=point.log_source,
        rule="Gain: the loss of theta less the loss after a tenth of the payload's outer step, "
        "mean over the window's held-out pages; the error is its standard error. Relative: "
        "over the root mean square of the window's positive gains. A hotkey is named while "
        "its evidence of gain is above zero, once that and the evidence of work together have "
        "reached the bound, unless gain + z * error lies at or below the floor.",
        where="evaluation/gain.py, evaluation/evidence.py, evaluation/judge.py",
        command=point.audit,
    )


def _others(point: MinerPoint, own: Verdict) -> tuple[str, list[Figure]] | None:
    if point.reference is None:
        return None
    verdicts = point.view.judgements[point.reference].verdicts.values()
    gains = [v.gain for v in verdicts if v.gain is not None and v.uid != own.uid]
    if not gains:
        return "No other payload was measured.", []
    middle = statistics.median(gains)
    words = (
        f"The window's {counted(len(gains), 'other')}: {nats(middle)} in the middle, "
        f"{nats(min(gains))} to {nats(max(gains))}."
    )
    return words, [
        Figure("others_median_gain", middle, "nats/token"),
        Figure("others_least_gain", min(gains), "nats/token"),
        Figure("others_most_gain", max(gains), "nats/token"),
        Figure("num_others", len(gains), "payloads"),
    ]


def _evidence(point: MinerPoint, verdict: Verdict) -> tuple[str, list[Figure]] | None:
    """The gain test after the window, and the floor where the windows before are known."""
    if point.reference is None:
        return None
    reputation = point.view.judgements[point.reference].reputations.get(point.hotkey)
    rules = point.view.run.rules(point.view.window).judge
    figures, words = [], ""
    if reputation is not None and verdict.gain_log_ratio is not None:
        gain, bound = reputation.evidence.gain, rules.gain.bound
        words = (
            f"Evidence of gain: {verdict.gain_log_ratio:+.2f} by this window, "
            f"{gain.log_ratio:+.2f} in all, of {bound:.2f} at most; the gate is "
            f"{'open' if gain.holds else 'closed'}."
        )
        figures += [
            Figure("gain_evidence_window", verdict.gain_log_ratio),
            Figure("gain_evidence", gain.log_ratio),
            Figure("gain_evidence_bound", bound),
            Figure("gain_gate_open", gain.holds),
        ]
    if point.page is not None and verdict.gain is not None:
        bar, reached = point.page.bar, reach(point.page, verdict, rules)
        words += (
            f" The floor is {nats(bar.floor)}: with {rules.naming_z:g} errors this payload "
            f"reaches {nats(reached)}."
        )
        figures += [
            Figure("gain_scale", bar.scale, "nats/token"),
            Figure("gain_floor", bar.floor, "nats/token"),
            Figure("gain_reach", reached, "nats/token"),
        ]
    return (words.strip(), figures) if figures else None


def work(point: MinerPoint) -> Statement | None:
    verdict, rules = point.verdict, point.view.run.rules(point.view.window)
    if verdict is None or not verdict.measured or not rules.tested or point.reference is None:
        return None
    reputation = point.view.judgements[point.reference].reputations.get(point.hotkey)
    figures = [
        Figure("work_effect", verdict.work_effect, "standard deviations"),
        Figure("work_variance", verdict.work_variance),
    ]
    if verdict.work_effect is None:
        words = "None of its claimed pages was in the window's pool: no evidence of work."
    else:
        words = (
            f"On its own pages it gains {verdict.work_effect:+.2f} standard deviations more "
            f"than on held-out pages (expected of honest work: at least "
            f"{rules.judge.work.effect:g})."
        )
    if reputation is not None:
        work, bound = reputation.evidence.work, rules.judge.work.bound
        words += (
            f" Evidence of work over its windows: {work.log_ratio:+.2f} of +-{bound:.2f}; the "
            f"gate is {'open' if work.holds else 'closed'}."
        )
        figures += [
            Figure("work_evidence", work.log_ratio),
            Figure("work_evidence_bound", bound),
            Figure("work_gate_open", work.holds),
        ]
    return Statement(
        topic="work",
        words=words,
        figures=tuple(figures),
        sources=point.log_source,
        rule="A payload has to gain more on the pages that it claims than on pages that nobody "
        "trained on. Evidence adds up over windows; at the upper bound the gate opens, at the "
        "lower bound payloads are refused.",
        where="evaluation/work.py",
        command=point.audit,
    )
