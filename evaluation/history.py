"""What a validator remembers of the last windows: all that ratings aside decides on pay.

A function of the last windows' verdicts: whoever has their logs comes to the same.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from evaluation.gain import WORST_RELATIVE_GAIN
from evaluation.judge import sample_of
from evaluation.verdict import Verdict
from evaluation.work import WorkRules, WorkSample, WorkState, work_state


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One window of one hotkey. `pages`: those it said its payload was made from, 0 if it could
    not be opened. `work` is None where there was nothing to test.
    """

    relative_gain: float
    pages: int
    work: WorkSample | None = None


Histories = Mapping[str, Mapping[int, Entry]]
"""hotkey -> window -> what was found."""


def remember(
    histories: Histories, window: int, verdicts: Iterable[Verdict], length: int
) -> Histories:
    """As of `window`, with its verdicts: the last `length` windows and no other.

    Verdicts without a relative gain say nothing of the miner and are left out.
    """
    grown = {hotkey: dict(history) for hotkey, history in histories.items()}
    for verdict in verdicts:
        if verdict.relative_gain is not None:
            entry = Entry(
                relative_gain=verdict.relative_gain,
                pages=verdict.pages_consumed or 0,
                work=sample_of(verdict),
            )
            grown.setdefault(verdict.hotkey, {})[window] = entry
    return only(grown, range(window - length + 1, window + 1))


def settle(histories: Histories, window: int, undelivered: Iterable[str]) -> Histories:
    """With the worst gain there is for every payload that half of the voting stake could not
    get, whatever was found here: withholding a bad draw must not pay.
    """
    settled = {hotkey: dict(history) for hotkey, history in histories.items()}
    for hotkey in undelivered:
        entry = Entry(relative_gain=WORST_RELATIVE_GAIN, pages=0)
        settled.setdefault(hotkey, {})[window] = entry
    return settled


def only(histories: Histories, windows: Container[int]) -> Histories:
    """Those windows, and the hotkeys that have any of them."""
    kept = {
        hotkey: {w: entry for w, entry in history.items() if w in windows}
        for hotkey, history in histories.items()
    }
    return {hotkey: history for hotkey, history in kept.items() if history}


def windows_of(histories: Histories) -> tuple[int, ...]:
    """Those of which anything is remembered, ascending."""
    return tuple(sorted({w for history in histories.values() for w in history}))


def work_states(histories: Histories, rules: WorkRules) -> dict[str, WorkState]:
    """hotkey -> its work test, from its samples in the order of their windows."""
    return {
        hotkey: work_state(
            (entry.work for _, entry in sorted(history.items()) if entry.work is not None), rules
        )
        for hotkey, history in histories.items()
    }
