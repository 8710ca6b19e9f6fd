"""Chain weights: shares add up, caps and burns, and honest work pays while chance does not."""

import math
import random
import statistics
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.history import Entry
from evaluation.trained import LEVEL_SHARE
from evaluation.weights import WeightRules, accounts, first_window, lower_bound
from evaluation.weights import chain_weights as gated_weights
from evaluation.work import QUARTERS, WorkSample, work_sample

RULES = WeightRules(
    history_windows=8,
    most_windows=32,
    min_windows=4,
    confidence_z=1.0,
    min_relative_gain=0.1,
    max_share=1.0,
)
WINDOW = 20
RECENT = range(13, 21)
"""The last 8 windows as of window 20."""


Gains = Mapping[int, Mapping[int, float | None]]


def worked(gains: Gains, pages: Mapping[int, int] | None = None) -> dict[int, dict[int, Entry]]:
    """Histories of such gains, and of 240 claimed pages a window without `pages`."""
    return {
        uid: {
            w: Entry(relative_gain=gain, pages=240 if pages is None else pages[uid])
            for w, gain in history.items()
        }
        for uid, history in gains.items()
    }


def chain_weights(
    gains: Gains, window: int, rules: WeightRules, burn_uid: int | None = 0
) -> dict[int, float]:
    """Of miners who all hold the gate, and claim as many pages."""
    return gated_weights(worked(gains), gains.keys(), window, rules, burn_uid)


def steady(gain: float, windows: range | list[int] = RECENT) -> dict[int, float]:
    return dict.fromkeys(windows, gain)


def test_lower_bound_against_the_textbook() -> None:
    gains = [0.9, 1.1, 1.0, 1.4]
    expected = 1.1 - 2 * statistics.stdev(gains) / 2
    assert lower_bound(gains, 2.0) == pytest.approx(expected)
    assert lower_bound([0.5, 0.5], 100.0) == 0.5


@pytest.mark.parametrize("gains", [[], [1.0], [1.0, math.nan], [1.0, math.inf], [1.0, -math.inf]])
def test_what_bounds_nothing_is_minus_infinity(gains: list[float]) -> None:
    assert lower_bound(gains, 2.0) == -math.inf


def test_shares_follow_the_pages_and_not_the_gains() -> None:
    gains = {1: steady(0.4), 2: steady(3.0), 3: steady(1.0)}
    histories = worked(gains, {1: 60, 2: 60, 3: 120})
    shares = gated_weights(histories, gains.keys(), WINDOW, RULES, 0)
    assert shares == pytest.approx({1: 0.25, 2: 0.25, 3: 0.5})


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.integers(1, 9), st.integers(16, 960), min_size=1), st.integers(2, 8))
def test_a_machine_earns_the_same_with_one_hotkey_or_with_many(
    pages: dict[int, int], parts: int
) -> None:
    """One of the miners shares its pages out over hotkeys of its own."""
    one = min(pages)
    pages = {uid: parts * count for uid, count in pages.items()}
    split = {uid: n for uid, n in pages.items() if uid != one}
    split |= {100 + part: pages[one] // parts for part in range(parts)}
    paid = {
        who: gated_weights(
            worked(dict.fromkeys(claims, steady(1.0)), claims), claims.keys(), WINDOW, RULES, 0
        )
        for who, claims in (("whole", pages), ("split", split))
    }
    mine = sum(share for uid, share in paid["split"].items() if uid >= 100)
    assert mine == pytest.approx(paid["whole"][one])


def test_without_the_gate_nobody_is_paid() -> None:
    histories = worked({1: steady(1.0), 2: steady(3.0)})
    assert gated_weights(histories, {2, 5}, WINDOW, RULES, 0) == {2: 1.0}
    assert gated_weights(histories, set(), WINDOW, RULES, 0) == {0: 1.0}


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 1.0, 2.0, 4.0])
def test_pay_is_linear_in_the_pages_at_any_pace(share: float) -> None:
    gains = dict.fromkeys(range(1, 6), steady(1.0))
    histories = worked(gains, {**dict.fromkeys(range(1, 5), 240), 5: round(240 * share)})
    shares = gated_weights(histories, gains.keys(), WINDOW, RULES, 0)
    assert shares[5] / shares[1] == pytest.approx(share)


def _sample(effect: float, trained: float) -> WorkSample:
    """Pages with that mean effect, all of it on a share of them."""
    square = 1 + effect**2 / trained
    return WorkSample(effect=effect, variance=1e-9, page_effect=effect, page_square=square)


def test_pages_claimed_and_not_trained_on_are_no_work() -> None:
    """Half of the pages with the usual effect, half with none, against that effect on all."""
    even, uneven = _sample(1.0, 1.0), _sample(0.5, 0.5)
    gains = dict.fromkeys(range(1, 5), steady(1.0))
    histories = {
        uid: {w: replace(e, work=uneven if uid == 4 else even) for w, e in history.items()}
        for uid, history in worked(gains).items()
    }
    shares = gated_weights(histories, gains.keys(), WINDOW, RULES, 0)
    assert shares[4] / shares[1] == pytest.approx(0.5 * 0.25 / LEVEL_SHARE, rel=0.02)


def test_a_refused_and_an_undelivered_payload_bring_no_pay_of_their_window() -> None:
    windows = {w: Entry(relative_gain=1.0, pages=240) for w in RECENT}
    for lost in (Entry(relative_gain=-1.0, pages=240), Entry(relative_gain=1.0, pages=0)):
        histories = {1: windows, 2: {**windows, 15: lost}}
        shares = gated_weights(histories, {1, 2}, WINDOW, replace(RULES, confidence_z=0.0), 0)
        assert shares[2] / shares[1] == pytest.approx(7 / 8)


def test_half_the_windows_are_half_the_pay() -> None:
    half = steady(1.0, [13, 15, 17, 19])
    shares = chain_weights({1: steady(1.0), 2: half}, WINDOW, RULES)
    assert shares == pytest.approx({1: 2 / 3, 2: 1 / 3})


@pytest.mark.parametrize(("gain", "paid"), [(0.1, False), (0.1001, True)])
def test_what_chance_may_gain_is_not_paid(gain: float, paid: bool) -> None:
    assert chain_weights({1: steady(gain)}, WINDOW, RULES) == ({1: 1.0} if paid else {0: 1.0})


def test_the_floor_is_for_the_bound_and_not_for_the_mean() -> None:
    noisy = dict(zip(RECENT, [0.9, 0.1] * 4, strict=True))
    bound = lower_bound(list(noisy.values()), RULES.confidence_z)
    assert 0.3 < bound < 0.5
    assert chain_weights({1: noisy}, WINDOW, replace(RULES, min_relative_gain=bound)) == {0: 1.0}
    rules = replace(RULES, min_relative_gain=0.99 * bound)
    assert chain_weights({1: noisy}, WINDOW, rules) == {1: 1.0}


def test_only_the_last_windows_count() -> None:
    old = steady(50.0, range(0, 13)) | steady(1.0)
    future = steady(1.0) | {21: 50.0, 22: 50.0}
    gains = {1: old, 2: steady(1.0), 3: future}
    shares = gated_weights(worked(gains, dict.fromkeys(gains, 1)), gains, WINDOW, RULES, 0)
    assert shares == pytest.approx({1: 1 / 3, 2: 1 / 3, 3: 1 / 3})


def test_early_in_a_run_the_windows_so_far_are_the_whole() -> None:
    full, half = steady(1.0, range(0, 4)), steady(1.0, range(0, 2))
    rules = replace(RULES, min_windows=2)
    assert chain_weights({1: full, 2: half}, 3, rules) == pytest.approx({1: 2 / 3, 2: 1 / 3})


@pytest.mark.parametrize(("num_windows", "paid"), [(3, False), (4, True)])
def test_min_windows(num_windows: int, paid: bool) -> None:
    shares = chain_weights({1: steady(1.0, RECENT[-num_windows:])}, WINDOW, RULES)
    assert shares == ({1: 1.0} if paid else {0: 1.0})


@pytest.mark.parametrize(
    "histories",
    [
        {},
        {1: {}},
        {1: steady(0.0)},
        {1: steady(-1.0), 2: steady(-0.1)},
        {1: steady(5.0, range(0, 12))},
        {1: dict(zip(RECENT, [1.0, -1.0] * 4, strict=True))},
        {1: steady(1.0) | {20: math.nan}},
        {0: steady(1.0)},
    ],
    ids=["nobody", "no windows", "zero", "harm", "long ago", "chance", "nan", "the burn uid"],
)
def test_without_gain_all_is_burned(histories: dict[int, dict[int, float]]) -> None:
    assert chain_weights(histories, WINDOW, RULES) == {0: 1.0}


def test_what_exceeds_the_cap_is_burned() -> None:
    rules = replace(RULES, max_share=0.5)
    assert chain_weights({1: steady(1.0)}, WINDOW, rules, 7) == {1: 0.5, 7: 0.5}
    gains = dict.fromkeys((1, 2, 3), steady(1.0))
    shares = gated_weights(worked(gains, {1: 800, 2: 100, 3: 100}), gains, WINDOW, rules, 7)
    assert shares == pytest.approx({1: 0.5, 2: 0.1, 3: 0.1, 7: 0.3})


def test_one_failure_among_the_last_windows_lowers_the_pay() -> None:
    failed = steady(1.0) | {17: -1.0}
    gains = {1: steady(1.0), 2: failed, 3: steady(1.0)}
    shares = gated_weights(worked(gains, dict.fromkeys(gains, 240)), gains, WINDOW, RULES, 0)
    assert shares == pytest.approx({1: 8 / 23, 2: 7 / 23, 3: 8 / 23})


histories_of_any_kind = st.dictionaries(
    st.integers(0, 12),
    st.dictionaries(st.integers(8, 22), st.floats(-1.0, 16.0), max_size=12),
    max_size=8,
)


@settings(max_examples=100, deadline=None)
@given(
    histories_of_any_kind,
    st.floats(0.05, 1.0),
    st.floats(0.0, 4.0),
    st.randoms(),
)
def test_any_histories_give_shares_of_one_in_any_order(
    histories: dict[int, dict[int, float]],
    max_share: float,
    confidence_z: float,
    generator: random.Random,
) -> None:
    rules = replace(RULES, max_share=max_share, confidence_z=confidence_z)
    shares = chain_weights(histories, WINDOW, rules, 3)
    assert math.fsum(shares.values()) == pytest.approx(1.0)
    assert all(0 < share <= (1.0 if uid == 3 else max_share) for uid, share in shares.items())
    assert shares.keys() <= histories.keys() | {3}
    shuffled = generator.sample(sorted(histories), len(histories))
    mixed = {
        u: dict(generator.sample(list(histories[u].items()), len(histories[u]))) for u in shuffled
    }
    assert chain_weights(mixed, WINDOW, rules, 3) == shares
    if 3 not in histories:
        shares.pop(3, None)
        assert chain_weights(histories, WINDOW, rules, None) == shares, "nobody gets the rest"


def _paid_over_a_life(joins: int, works: int, after: float | None) -> float:
    """Windows of an honest miner's pay that a miner gets in all, who works so many windows and
    then has payloads refused (-1), or sends none (None).
    """
    leaves = joins + works
    total = 0.0
    for window in range(leaves + RULES.history_windows + 4):
        mine = dict.fromkeys(range(joins, min(leaves, window + 1)), 1.0)
        if after is not None:
            mine |= dict.fromkeys(range(leaves, window + 1), after)
        shares = chain_weights({1: steady(1.0, range(window + 1)), 2: mine}, window, RULES)
        total += shares.get(2, 0.0) / max(shares.get(1, 0.0), 1e-9)
    return total


@pytest.mark.parametrize("after", [-1.0, None])
@pytest.mark.parametrize("works", [6, 10, 20])
def test_a_miner_that_stops_is_paid_no_more_than_the_windows_that_it_worked(works, after) -> None:
    """Pay looks back: who joins a run under way waits for as much at first as it gets at last."""
    paid = _paid_over_a_life(20, works, after)
    assert 0.5 * works < paid <= works
    assert _paid_over_a_life(0, works, after) > paid, "the first ones need not wait"


def test_renaming_the_miners_renames_their_shares() -> None:
    generator = np.random.default_rng(4)
    gains = {
        uid: dict(zip(RECENT, generator.normal(1, 0.1, 8), strict=True)) for uid in range(1, 6)
    }
    shares = chain_weights(gains, WINDOW, RULES)
    renamed = chain_weights({uid + 50: h for uid, h in gains.items()}, WINDOW, RULES)
    assert [renamed[uid + 50] for uid in gains] == pytest.approx([shares[uid] for uid in gains])


def _sampled(there: dict[int, float], drawn: float, windows: int, seed: int) -> dict:
    """Histories of miners of gain 1 who are there in a share of the windows; in each, a share of
    those who are there is drawn.
    """
    rng = np.random.default_rng(seed)
    histories: dict[int, dict[int, float | None]] = {uid: {} for uid in there}
    for window in range(windows):
        present = [uid for uid, share in there.items() if rng.random() < share]
        scored = set(rng.permutation(present)[: round(drawn * len(present))].tolist())
        for uid in present:
            histories[uid][window] = 1.0 if uid in scored else None
    return histories


def test_more_windows_count_where_fewer_payloads_are_drawn() -> None:
    everybody = dict.fromkeys(range(1, 41), 1.0)
    for drawn, first in ((1.0, 93), (0.5, 85), (0.25, 69)):
        assert first_window(worked(_sampled(everybody, drawn, 101, 0)), 100, RULES) == first
    assert first_window(worked(_sampled(everybody, 0.1, 101, 0)), 100, RULES) == 69
    assert first_window(worked(_sampled(everybody, 0.25, 11, 0)), 10, RULES) == 0
    assert first_window({}, 100, RULES) == 93
    absent = {1: dict.fromkeys(range(96, 101), 1.0)}
    assert first_window(worked(absent), 100, RULES) == 93, "a window without payloads is a window"


@pytest.mark.parametrize(
    "drawn", [0.5, *(pytest.param(d, marks=pytest.mark.slow) for d in (1.0, 0.25))]
)
def test_who_is_not_drawn_is_neither_paid_nor_blamed_for_it(drawn: float) -> None:
    """40 miners over 50 windows: whatever share of them is drawn, equal pay for equal work, and
    three quarters of it for who is there in three quarters of the windows.
    """
    there = {uid: 0.75 if uid > 30 else 1.0 for uid in range(1, 41)}
    histories = _sampled(there, drawn, 110, 0)
    paid = dict.fromkeys(there, 0.0)
    for window in range(60, 110):
        past = {uid: {w: g for w, g in h.items() if w <= window} for uid, h in histories.items()}
        for uid, share in chain_weights(past, window, RULES).items():
            paid[uid] = paid.get(uid, 0.0) + share
    full = np.array([paid[uid] for uid in range(1, 31)])
    part = np.array([paid[uid] for uid in range(31, 41)])
    assert full.std() < 0.1 * full.mean()
    assert 0.65 < part.mean() / full.mean() < 0.8


def test_windows_in_which_nothing_was_drawn_of_a_miner_say_nothing_of_it() -> None:
    often = {1: {w: 1.0 if w % 2 else None for w in range(21)}}
    never: dict[int, Mapping[int, float | None]] = {2: dict.fromkeys(range(21)), 3: steady(1.0)}
    assert chain_weights(often, WINDOW, RULES) == {1: 1.0}
    assert chain_weights(never, WINDOW, RULES) == {3: 1.0}
    failed = {w: -1.0 if w == 19 else g for w, g in often[1].items()}
    gains = {**often, 2: failed, 3: often[1]}
    shares = gated_weights(worked(gains, dict.fromkeys(gains, 8)), gains, WINDOW, RULES, 0)
    assert shares == pytest.approx({1: 8 / 23, 2: 7 / 23, 3: 8 / 23}), "one failure of eight"


def paid_share(mean: float, deviation: float, seed: int) -> float:
    """How many of 1,000 miners with such relative gains over 8 windows are paid at all."""
    gains = np.random.default_rng(seed).normal(mean, deviation, (1000, len(RECENT)))
    histories = {
        uid: dict(zip(RECENT, row.tolist(), strict=True)) for uid, row in enumerate(gains, start=1)
    }
    return (len(chain_weights(histories, WINDOW, RULES).keys() - {0})) / 1000


@pytest.mark.parametrize("seed", [0, 1])
def test_a_random_direction_is_paid_by_chance_in_one_case_of_a_hundred(seed: int) -> None:
    assert paid_share(0.0, 0.08, seed) <= 0.01


@pytest.mark.parametrize("seed", [0, 1])
def test_honest_work_is_paid_in_99_of_a_hundred(seed: int) -> None:
    assert paid_share(1.0, 0.2, seed) >= 0.99


def test_chance_earns_next_to_nothing_beside_honest_work() -> None:
    generator = np.random.default_rng(6)
    honest = {
        uid: dict(zip(RECENT, generator.normal(1, 0.2, 8), strict=True)) for uid in range(1, 6)
    }
    lucky = {
        uid: dict(zip(RECENT, generator.normal(0, 0.08, 8), strict=True)) for uid in range(6, 106)
    }
    shares = chain_weights(honest | lucky, WINDOW, RULES)
    assert sum(shares.get(uid, 0.0) for uid in lucky) < 0.01
    assert all(shares[uid] > 0.1 for uid in honest)


def test_a_few_wide_claims_do_not_set_what_is_usual() -> None:
    """Two of eight hotkeys claim eight times the pages, more than all others together, and train
    on one of eight: by claimed pages their own level would be the usual one, and paid whole.
    """
    rng = np.random.default_rng(0)
    histories = {uid: _shown(rng, 1, np.array([1.0])) for uid in range(1, 7)}
    padded = np.array([1.0] + [0.0] * 7)
    histories |= {uid: _shown(rng, 8, padded) for uid in (7, 8)}
    shares = gated_weights(histories, histories.keys(), WINDOW, RULES, 0)
    honest = [shares[uid] for uid in range(1, 7)]
    assert max(honest) < 1.3 * min(honest)
    assert max(shares[7], shares[8]) < 1.3 * statistics.fmean(honest)
    found = accounts(histories, histories.keys(), WINDOW, RULES, 0)
    assert found[7].pages == 8 * found[1].pages


def _shown(rng, width: int, effects: np.ndarray) -> dict[int, Entry]:
    """The last windows of a miner that shows such effects on its pages, one drawn for each."""
    held, history = np.arange(64 + 48 * width) < 64, {}
    for window in RECENT:
        gains = 2.0 * rng.normal(size=(held.size, QUARTERS))
        gains[64:] += effects[rng.integers(effects.size, size=(48 * width, 1))]
        work = work_sample(gains, held)
        history[window] = Entry(relative_gain=1.0, pages=240 * width, width=width, work=work)
    return history
