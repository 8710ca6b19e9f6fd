"""Histories: the entries of every hotkey over the last windows, the basis of pay.

A function of the verdicts of the last windows: equal logs give equal histories.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from evaluation.evidence import Evidence, Past, lower_medians
from evaluation.gain import WORST_RELATIVE_GAIN
from evaluation.judge import JudgeRules, of_scale, sample_of, whole_gain
from evaluation.verdict import NOT_DRAWN, Verdict
from evaluation.work import WorkSample


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A window of a hotkey.

    `relative_gain`: None for a payload outside the window's sample. `pages`: claimed pages, 0 for
    an undecodable payload. `work`: evidence for the work test, None without own sequences.
    `gain_log_ratio`: evidence for the gain test, None without a gain. `named_gain`: gain of a
    payload named in the window that counts for the scale (`of_scale`), in nats per token.
    `model_share`: of the model's parameters, trained in the window. `width`: of the payload.
    `half_gap`: for the duels, in nats per token; None without a finite gain.
    """

    relative_gain: float | None
    pages: int
    work: WorkSample | None = None
    gain_log_ratio: float | None = None
    named_gain: float | None = None
    model_share: float = 1.0
    width: int = 1
    half_gap: float | None = None


Histories = Mapping[str, Mapping[int, Entry]]
"""hotkey -> window -> entry."""


def add_window(
    histories: Histories, window: int, verdicts: Iterable[Verdict], length: int
) -> Histories:
    """Histories with the verdicts of `window`, cut to the last `length` windows.

    A verdict without a relative gain says nothing about the miner and is left out, except for a
    payload outside the sample.
    """
    grown = {hotkey: dict(history) for hotkey, history in histories.items()}
    listed = list(verdicts)
    counted = {verdict.uid for verdict in of_scale(v for v in listed if v.named)}
    for verdict in listed:
        if verdict.relative_gain is not None or verdict.status == NOT_DRAWN:
            entry = Entry(
                relative_gain=verdict.relative_gain,
                pages=verdict.pages_consumed or 0,
                work=sample_of(verdict),
                gain_log_ratio=verdict.gain_log_ratio,
                named_gain=whole_gain(verdict) if verdict.uid in counted else None,
                model_share=verdict.model_share,
                width=verdict.width,
                half_gap=verdict.half_gap,
            )
            grown.setdefault(verdict.hotkey, {})[window] = entry
    return select_windows(grown, range(window - length + 1, window + 1))


def mark_undelivered(histories: Histories, window: int, undelivered: Iterable[str]) -> Histories:
    """Histories with the worst gain for each undelivered payload, whatever was measured here.

    `undelivered`: hotkeys of payloads unavailable to half of the voting stake. Withholding a bad
    draw must not pay.
    """
    return mark_pairs(histories, [(window, hotkey) for hotkey in undelivered])


def mark_pairs(histories: Histories, undelivered: Iterable[tuple[int, str]]) -> Histories:
    """`mark_undelivered` for (window, hotkey) pairs of any windows, with one copy for all."""
    settled = {hotkey: dict(history) for hotkey, history in histories.items()}
    for window, hotkey in undelivered:
        entry = Entry(relative_gain=WORST_RELATIVE_GAIN, pages=0)
        settled.setdefault(hotkey, {})[window] = entry
    return settled


def select_windows(histories: Histories, windows: Container[int]) -> Histories:
    """The entries of `windows`, without empty hotkeys."""
    kept = {
        hotkey: {w: entry for w, entry in history.items() if w in windows}
        for hotkey, history in histories.items()
    }
    return {hotkey: history for hotkey, history in kept.items() if history}


def windows_in(histories: Histories) -> tuple[int, ...]:
    """All windows with an entry, ascending."""
    return tuple(sorted({w for history in histories.values() for w in history}))


def past_of(histories: Histories, rules: JudgeRules) -> Past:
    """What the histories say: evidence on each hotkey in window order, and medians of gains."""
    evidence, named_gains = {}, dict[int, list[float]]()
    for hotkey, history in histories.items():
        so_far = Evidence()
        for window, entry in sorted(history.items()):
            so_far = so_far.after(entry.work, entry.gain_log_ratio, rules.work, rules.gain)
            if entry.named_gain is not None:
                named_gains.setdefault(window, []).append(entry.named_gain)
        evidence[hotkey] = so_far
    return Past(evidence=evidence, medians=lower_medians(named_gains))
