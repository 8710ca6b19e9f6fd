"""Why pay is not more: from accounts with one thing amiss each, of histories made up for it."""

from dataclasses import replace
from typing import Any

import pytest

from evaluation.conclusion import Registered, reputations_and_weights
from evaluation.gain import WORST_RELATIVE_GAIN
from evaluation.history import Histories, add_window, mark_undelivered
from evaluation.verdict import Verdict
from simulation.swarm import TINY, small_run
from simulation.world import hotkey_of
from template.public import books
from template.public.books import open_book
from template.public.facts import Judgement
from template.public.miner_causes import pay_causes
from template.scoring.rules import pay_rules

NAMES = ("honest-a", "honest-b", "honest-c", "odd")
UIDS = {hotkey_of(name): uid for uid, name in enumerate(NAMES, start=1)}
WINDOWS = 8
SPEC = small_run({"owner": 0}, **{**TINY, "evaluation__claimed_pages": 8}).spec
RULES = pay_rules(SPEC)


def judgements(odd) -> list[Judgement]:
    """Logs of a validator who judges three honest miners, and one by `odd(verdict, window)`."""
    histories: Histories = {}
    found = []
    for window in range(WINDOWS):
        verdicts = {}
        for hotkey, uid in UIDS.items():
            verdict: Verdict | None = Verdict(
                window=window, uid=uid, hotkey=hotkey, digest=f"{uid:064x}", status="named",
                gain=0.01, gain_standard_error=0.001, relative_gain=1.0 + uid / 100,
                pages_consumed=8, base_window=window, gain_log_ratio=0.5, work_effect=0.9,
                work_variance=0.05, page_effect=0.45, page_square=0.3,
            )  # fmt: skip
            verdict = odd(verdict, window) if hotkey == hotkey_of("odd") else verdict
            if verdict is not None:
                verdicts[uid] = verdict
        known = tuple(range(window))
        histories = add_window(histories, window, verdicts.values(), RULES.length)
        registered = Registered(uids={**UIDS, hotkey_of("owner"): 0}, burn_uid=0)
        reputations, shares = reputations_and_weights(histories, window, registered, RULES)
        found.append(
            Judgement(
                window=window,
                verdicts=verdicts,
                reputations=reputations,
                shares=shares,
                known=known,
                undelivered=(),
                uids=registered.uids,
                burn_uid=0,
                pace=0,
                held_out=None,
            )
        )
    return found


class Stub:
    """The part of a window's view that pay is explained by."""

    def __init__(self) -> None:
        self.run = self
        self.rules = lambda _: RULES
        self.facts = self
        self.subnet = self
        self.owner_uid = 0
        self.window = WINDOWS - 1


def causes_of(odd) -> list[str]:

    book = open_book(judgements(odd), lambda _: RULES)
    page = book.pages[WINDOWS - 1]
    assert page.follows, "the made up shares follow"
    stub: Any = Stub()
    return pay_causes(stub, page, hotkey_of("odd"), UIDS[hotkey_of("odd")])


def test_a_log_with_a_lower_share_is_no_lost_duel() -> None:
    """Without duels, or where the log's shares do not follow from the logs before."""
    *before, last = judgements(honest)
    uid = UIDS[hotkey_of("odd")]
    lowered = replace(last, shares={**last.shares, uid: last.shares[uid] / 2})
    duels = replace(RULES, weights=replace(RULES.weights, duel_share=0.5, period_windows=1))
    for rules in (RULES, duels):
        found = dict.fromkeys(range(WINDOWS), rules)
        page = open_book([*before, lowered], found.__getitem__).pages[WINDOWS - 1]
        assert not page.follows
        stub: Any = Stub()
        stub.rules = lambda _, rules=rules: rules
        assert "duel_lost" not in pay_causes(stub, page, hotkey_of("odd"), uid)


def honest(verdict, _window):
    return verdict


def half_of_the_pages(verdict, _window):
    return replace(verdict, pages_consumed=4)


def absent_every_second_window(verdict, window):
    return None if window % 2 else verdict


def refused_once(verdict, window):
    return replace(verdict, relative_gain=-1.0, pages_consumed=0) if window == 3 else verdict


def trained_unevenly(verdict, _window):
    """A claim of which some quarters show the usual effect and the others none."""
    return replace(verdict, work_effect=0.3, page_effect=0.15, page_square=0.3)


def without_work(verdict, _window):
    return replace(verdict, work_effect=0.0, page_effect=0.0)


def without_gain(verdict, _window):
    return replace(verdict, relative_gain=-0.2)


def of_half_the_model(verdict, _window):
    return replace(verdict, parts=2, model_share=0.5)


def new(verdict, window):
    return verdict if window >= WINDOWS - 2 else None


@pytest.mark.parametrize(
    ("odd", "expected"),
    [
        (honest, set()),
        (half_of_the_pages, {"pages_short"}),
        (absent_every_second_window, {"pages_absent", "pages_short"}),
        (refused_once, {"pages_refused", "pages_short"}),
        (trained_unevenly, {"trained_short"}),
        (without_work, {"gate_closed"}),
        (without_gain, {"gain_low"}),
        (of_half_the_model, {"part_of_model", "pages_short"}),
        (new, {"too_new", "pages_absent", "pages_short"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_pay_is_less_for_the_reason_that_is_true(odd, expected) -> None:
    assert set(causes_of(odd)) == expected


def test_a_log_that_is_missing_is_named_and_nothing_is_followed_over_the_gap() -> None:
    logs = judgements(honest)
    book = open_book([log for log in logs if log.window != 3], lambda _: RULES)
    assert book.pages.keys() == {0, 1, 2}
    assert book.gaps == dict.fromkeys(range(4, WINDOWS), (3,))


def test_shares_that_do_not_follow_are_noticed() -> None:
    logs = judgements(honest)
    forged = replace(logs[-1], shares={**logs[-1].shares, 4: 0.9})
    assert not open_book([*logs[:-1], forged], lambda _: RULES).pages[WINDOWS - 1].follows


def test_a_log_with_many_undelivered_pairs_costs_one_copy_a_window(monkeypatch) -> None:
    """20,000 pairs of a hostile log: one mark for each window that pay rests on, no more."""
    marked: list[int] = []

    def counting(histories, window, hotkeys):
        marked.append(window)
        return mark_undelivered(histories, window, hotkeys)

    monkeypatch.setattr(books, "mark_undelivered", counting)
    logs, odd = judgements(honest), hotkey_of("odd")
    pairs = tuple((number, f"stranger-{number}") for number in range(20_000))
    hostile = replace(logs[-1], undelivered=(*pairs, *((5, f"s-{n}") for n in range(9)), (5, odd)))
    page = open_book([*logs[:-1], hostile], lambda _: RULES).pages[WINDOWS - 1]
    assert sorted(marked) == list(range(WINDOWS - 1))
    assert page.histories[odd][5].relative_gain == WORST_RELATIVE_GAIN
    assert "s-8" in page.histories
    assert "stranger-9" not in page.histories


def test_an_undelivered_pair_outside_the_known_windows_is_dropped() -> None:
    logs, odd = judgements(honest), hotkey_of("odd")
    last = replace(logs[-1], known=(0, 1, 2, 3, 4), undelivered=((5, odd), (4, odd)))
    histories = open_book([*logs[:-1], last], lambda _: RULES).pages[WINDOWS - 1].histories
    assert 5 not in histories[odd]
    assert histories[odd][4].relative_gain == WORST_RELATIVE_GAIN
