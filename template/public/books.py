"""The pay behind a validator's weights, followed from its verdict logs. Pure.

The arithmetic is `evaluation`'s own; this module puts the logs of the windows before in order, and
says where one of them is missing.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from evaluation.evidence import Evidence, Past
from evaluation.history import Histories, add_window, mark_undelivered, past_of, select_windows
from evaluation.judge import Bar, bar_of
from evaluation.rules import PayRules
from evaluation.weights import Account, accounts, chain_weights
from template.public.facts import Judgement


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """What one log says of pay, followed from the logs before.

    `accounts`: by uid. `histories`: of every hotkey, this window included. `past`: what the windows
    before say; `bar`: what this window's gains are held against. `follows`: whether the shares
    computed again are those of the log, to the bit.
    """

    judgement: Judgement
    accounts: Mapping[int, Account]
    histories: Histories
    past: Past
    bar: Bar
    follows: bool

    def evidence_before(self, hotkey: str) -> Evidence:
        return self.past.of(hotkey)


@dataclass(frozen=True, kw_only=True, slots=True)
class Book:
    """One validator's pages by window. `gaps`: window -> the windows known to the validator whose
    logs are not here: nothing can be followed there.
    """

    pages: Mapping[int, Page]
    gaps: Mapping[int, tuple[int, ...]]


def open_book(judgements: Iterable[Judgement], rules_at: Callable[[int], PayRules]) -> Book:
    """A validator's book from its logs, in any order. `rules_at`: of a window."""
    histories: Histories = {}
    given: set[int] = set()
    pages, gaps = dict[int, Page](), dict[int, tuple[int, ...]]()
    for judgement in sorted(judgements, key=lambda each: each.window):
        rules = rules_at(judgement.window)
        for window, hotkeys in _undelivered(judgement, rules).items():
            histories = mark_undelivered(histories, window, hotkeys)
        lacking = tuple(window for window in judgement.known if window not in given)
        after = add_window(histories, judgement.window, judgement.verdicts.values(), rules.length)
        if lacking:
            gaps[judgement.window] = lacking
        else:
            known = select_windows(histories, set(judgement.known))
            pages[judgement.window] = _page(judgement, known, rules)
        histories = after
        given.add(judgement.window)
    return Book(pages=pages, gaps=gaps)


def _undelivered(judgement: Judgement, rules: PayRules) -> dict[int, list[str]]:
    """Window -> hotkeys whose payload the votes found undelivered, of windows that pay rests on.

    A stranger's log may name as many pairs as its bytes hold, of any windows: each mark copies all
    histories, so that there is one mark a window, and none where nothing follows from it.
    """
    first, known = judgement.window - rules.length, set(judgement.known)
    found: dict[int, list[str]] = {}
    for window, hotkey in judgement.undelivered:
        if first <= window < judgement.window and window in known:
            found.setdefault(window, []).append(hotkey)
    return found


def _page(judgement: Judgement, before: Histories, rules: PayRules) -> Page:
    window, verdicts = judgement.window, tuple(judgement.verdicts.values())
    histories = add_window(before, window, verdicts, rules.length)
    after, past = past_of(histories, rules.judge), past_of(before, rules.judge)
    uids = judgement.uids
    known = {uids[hotkey]: history for hotkey, history in histories.items() if hotkey in uids}
    holding = {
        uids[hotkey]
        for hotkey, evidence in after.evidence.items()
        if hotkey in uids and (evidence.work.holds or not rules.tested)
    }
    arguments = (known, holding, window, rules.weights, judgement.burn_uid)
    return Page(
        judgement=judgement,
        accounts=accounts(*arguments),
        histories=histories,
        past=past,
        bar=bar_of(verdicts, past, rules.judge),
        follows=chain_weights(*arguments) == dict(judgement.shares),
    )
