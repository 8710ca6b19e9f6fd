"""Histories: the entries of every hotkey over the last windows, the basis of pay.

A function of the verdicts of the last windows: equal logs give equal histories.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from evaluation.gain import WORST_RELATIVE_GAIN
from evaluation.judge import sample_of
from evaluation.verdict import NOT_DRAWN, Verdict
from evaluation.work import WorkRules, WorkSample, WorkState, work_state


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A window of a hotkey.

    `relative_gain`: None for a payload outside the window's sample. `pages`: claimed pages, 0 for
    an undecodable payload. `work`: evidence for the work test, None without own sequences.
    """

    relative_gain: float | None
    pages: int
    work: WorkSample | None = None


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
    for verdict in verdicts:
        if verdict.relative_gain is not None or verdict.status == NOT_DRAWN:
            entry = Entry(
                relative_gain=verdict.relative_gain,
                pages=verdict.pages_consumed or 0,
                work=sample_of(verdict),
            )
            grown.setdefault(verdict.hotkey, {})[window] = entry
    return select_windows(grown, range(window - length + 1, window + 1))


def mark_undelivered(histories: Histories, window: int, undelivered: Iterable[str]) -> Histories:
    """Histories with the worst gain for each undelivered payload, whatever was measured here.

    `undelivered`: hotkeys of payloads unavailable to half of the voting stake. Withholding a bad
    draw must not pay.
    """
    settled = {hotkey: dict(history) for hotkey, history in histories.items()}
    for hotkey in undelivered:
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


def work_states(histories: Histories, rules: WorkRules) -> dict[str, WorkState]:
    """hotkey -> work test, from the samples in window order."""
    return {
        hotkey: work_state(
            (entry.work for _, entry in sorted(history.items()) if entry.work is not None), rules
        )
        for hotkey, history in histories.items()
    }
