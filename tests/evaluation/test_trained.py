"""The trained share of a claim: honest paces alike, padded claims found, whatever their length."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evaluation.history import Entry
from evaluation.trained import LEVEL_SHARE, Shown, shown_by, trained_shares, weighted_median
from evaluation.work import QUARTERS, WINSOR, work_sample

NUM_HELD, NUM_OWN, NUM_WINDOWS = 64, 48, 32


def _entries(
    seed: int, effects: np.ndarray, *, width: int = 1, model_share: float = 1.0
) -> list[Entry]:
    """Windows of a miner; `effects`: one of them for each own sequence, in its deviations; of two
    dimensions: one row for each window in turn.
    """
    rng, entries = np.random.default_rng(seed), []
    held = np.arange(NUM_HELD + NUM_OWN) < NUM_HELD
    for window in range(NUM_WINDOWS):
        gains = 2.0 * rng.normal(size=(held.size, QUARTERS))
        row = effects[window % len(effects)] if effects.ndim == 2 else effects
        gains[NUM_HELD:] += row[rng.integers(row.size, size=(NUM_OWN, 1))]
        entries.append(
            Entry(
                relative_gain=1.0,
                pages=240,
                work=work_sample(gains, held),
                width=width,
                model_share=model_share,
            )
        )
    return entries


def _shares(miners: Mapping[int, list[Entry]], pages: Mapping[int, float] | None = None) -> dict:
    shown = {uid: shown_by(entries) for uid, entries in miners.items()}
    return trained_shares(shown, pages or dict.fromkeys(miners, 240.0))


def _honest(count: int = 5) -> dict[int, list[Entry]]:
    return {uid: _entries(uid, np.array([1.0])) for uid in range(count)}


def test_honest_miners_show_that_all_was_trained() -> None:
    shares = _shares(_honest(8))
    assert all(0.75 < share <= 1.0 for share in shares.values())
    assert np.mean(list(shares.values())) > 0.87


@pytest.mark.parametrize("effect", [1.25, 1.5, 2.0])
def test_fewer_steps_with_more_effect_on_each_page_are_trained_in_full(effect: float) -> None:
    assert _shares({**_honest(), 9: _entries(9, np.array([effect]))})[9] > 0.93


@pytest.mark.parametrize("part", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("effect", [1.0, 1.3])
def test_a_padded_claim_is_paid_for_no_more_than_what_was_trained(
    part: float, effect: float
) -> None:
    """`effect`: on the trained pages, above the usual one where fewer steps were made, or where
    the payload carries no error feedback.
    """
    own = effect * (np.arange(20) < round(20 * part))
    share = _shares({**_honest(), 9: _entries(9, own)})[9]
    assert 0 < share < min(1.0, 1.4 * part) + 1e-9


def test_a_part_of_each_page_shows_less_than_the_usual_level() -> None:
    share = _shares({**_honest(), 9: _entries(9, np.array([0.5]))})[9]
    assert share == pytest.approx(0.25 / LEVEL_SHARE, abs=0.09)


def test_who_trains_on_two_quarters_of_each_page_and_sends_them_louder_is_uneven() -> None:
    """Half of each page, with the usual level on the page: without error feedback, say."""
    rng, entries = np.random.default_rng(9), []
    held = np.arange(NUM_HELD + NUM_OWN) < NUM_HELD
    for _ in range(NUM_WINDOWS):
        gains = 2.0 * rng.normal(size=(held.size, QUARTERS))
        gains[NUM_HELD:, :2] += 2.0
        work = work_sample(gains, held)
        entries.append(Entry(relative_gain=1.0, pages=240, work=work))
    assert _shares({**_honest(), 9: entries})[9] < 0.75


def test_work_in_every_second_window_is_half_of_the_work_at_most() -> None:
    share = _shares({**_honest(), 9: _entries(9, np.array([[1.0], [0.0]]))})[9]
    assert 0.05 < share < 0.5


@pytest.mark.parametrize("effects", [np.array([0.0]), np.array([-1.0])])
def test_no_work_is_no_share(effects: np.ndarray) -> None:
    assert _shares({**_honest(), 9: _entries(9, effects)})[9] < 0.02


@pytest.mark.parametrize(("width", "model_share"), [(4, 1.0), (1, 0.25)])
def test_a_wide_payload_and_a_part_may_show_less_by_the_root(
    width: int, model_share: float
) -> None:
    scale = width / model_share
    usual = np.array([width**-0.75 * math.sqrt(model_share)])
    honest = _entries(9, usual, width=width, model_share=model_share)
    assert _shares({**_honest(), 9: honest})[9] > 0.65
    one_of_scale = np.array([1.0] + [0.0] * (round(scale) - 1))
    padded = _entries(9, one_of_scale, width=width, model_share=model_share)
    share = _shares({**_honest(), 9: padded})[9]
    assert share < 1.1 / scale, "who claims four and trains on one is paid for one at most"


def test_pages_of_unequal_effect_excuse_no_uneven_wide_claim() -> None:
    """Honest pages differ much in what they show; after wide steps they differ less."""
    rng = np.random.default_rng(0)
    pages = np.clip(rng.normal(1.0, 0.6, size=400), 0.0, None)
    honest = {uid: _entries(uid, pages) for uid in range(5)}
    wide = 8**-0.75 * pages
    padded = np.concatenate([8**0.75 * wide, np.zeros(7 * wide.size)])
    shares = _shares({**honest, 8: _entries(8, wide, width=8), 9: _entries(9, padded, width=8)})
    assert all(shares[uid] > 0.8 for uid in honest)
    assert shares[9] < 1.3 / 8 < shares[8]


def test_a_profile_without_a_mean_has_no_shape() -> None:
    """From a forged log: nobody may divide by the mean of its quarters, next to nothing."""
    forged = replace(_entries(9, np.array([1.0]))[0], pages=10**9)
    assert forged.work is not None
    work = replace(forged.work, quarter_profile=(5.0, -5.0, 1e-323, 0.0))
    shares = _shares({**_honest(), 9: [replace(forged, work=work)]}, dict.fromkeys(range(10), 1.0))
    assert all(0.0 <= share <= 1.0 for share in shares.values())


def test_windows_of_small_claims_say_nothing_of_large_ones() -> None:
    """Four honest windows, then eight times the pages with one of them trained, or with none."""
    honest = _entries(9, np.array([1.0]))[:4]
    for own, most in (([1.0] + [0.0] * 7, 2 / 8), ([0.0], 0.02)):
        wide = [
            replace(entry, pages=8 * 240) for entry in _entries(10, np.array(own), width=8)[:20]
        ]
        share = _shares({**_honest(), 9: [*honest, *wide]})[9]
        assert share < most
        alone = _shares({**_honest(), 9: wide})[9]
        assert share == pytest.approx(alone, abs=0.05), "they hardly count"


def test_means_are_by_claimed_pages() -> None:
    """Against the mean of windows that say the same so often as they have pages."""
    few, many = _entries(9, np.array([1.0]))[:2]
    weighed = shown_by([replace(few, pages=1), replace(many, pages=3)])
    repeated = shown_by([replace(entry, pages=1) for entry in (few, many, many, many)])
    assert weighed is not None
    assert repeated is not None
    assert weighed.scale == repeated.scale == 1.0
    assert weighed.profile == pytest.approx(repeated.profile)
    variances = [entry.work.variance for entry in (few, many) if entry.work is not None]
    chance = (variances[0] + 9 * variances[1]) / 16
    assert weighed.profile_variance == pytest.approx(chance)
    assert weighed.excess_error == pytest.approx(math.sqrt(2 * chance))


def test_hotkeys_of_few_pages_do_not_move_what_is_usual() -> None:
    """A machine in twenty hotkeys of a few steps each, which show more on each page."""
    few = {uid: _entries(uid, np.array([1.6])) for uid in range(10, 30)}
    miners = {**_honest(), **few}
    pages = {uid: 240.0 if uid < 10 else 12.0 for uid in miners}
    assert all(share > 0.75 for uid, share in _shares(miners, pages).items() if uid < 10)
    alike = _shares(miners)
    assert max(share for uid, share in alike.items() if uid < 10) < 0.6, "by heads it would"


def test_without_samples_all_is_taken_as_trained() -> None:
    assert shown_by([Entry(relative_gain=1.0, pages=9)]) is None
    assert trained_shares({1: None, 2: None}, {1: 5.0, 2: 5.0}) == {1: 1.0, 2: 1.0}
    assert trained_shares({}, {}) == {}


@settings(max_examples=200)
@given(
    st.dictionaries(
        st.integers(0, 9),
        st.builds(
            Shown,
            level_square=st.floats(0, 1e6),
            page_square=st.floats(0, 1e6),
            excess=st.floats(-1e6, 1e6),
            excess_error=st.floats(0, 1e6),
            scale=st.floats(1, 1e12),
        ),
        max_size=6,
    ),
    st.floats(0, 1e9),
)
def test_any_figures_give_shares_within_bounds(shown: dict[int, Shown], pages: float) -> None:
    shares = trained_shares(shown, dict.fromkeys(shown, pages))
    assert shares.keys() == shown.keys()
    assert all(0.0 <= share <= 1.0 for share in shares.values())


@settings(max_examples=200)
@given(st.lists(st.tuples(st.floats(-9, 9), st.integers(0, 9)), max_size=9))
def test_the_weighted_median_is_that_of_a_list_with_repeats(pairs: list) -> None:
    repeated = sorted(value for value, count in pairs for _ in range(count))
    expected = repeated[(len(repeated) - 1) // 2] if repeated else 0.0
    assert weighted_median(pairs) == expected


VALUES = st.floats(-9, 9)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(VALUES, st.integers(1, 9)), min_size=1, max_size=9),
    st.lists(st.tuples(VALUES, st.integers(1, 9)), max_size=9),
)
def test_less_than_half_of_the_pages_keeps_the_usual_among_what_others_show(
    honest: list, liars: list
) -> None:
    assume(sum(pages for _, pages in liars) < sum(pages for _, pages in honest))
    values = [value for value, _ in honest]
    assert min(values) <= weighted_median([*honest, *liars]) <= max(values)


def test_half_of_the_pages_can_lower_what_is_usual_and_more_can_raise_it() -> None:
    assert weighted_median([(1.0, 5), (0.0, 4.9)]) == 1.0
    assert weighted_median([(1.0, 5), (0.0, 5)]) == 0.0
    assert weighted_median([(1.0, 5), (2.0, 5)]) == 1.0
    assert weighted_median([(1.0, 5), (2.0, 5.1)]) == 2.0


@pytest.mark.parametrize(("effect", "liars_pages"), [(0.5, 40), (2.0, 40), (0.5, 60), (2.0, 60)])
def test_more_than_half_of_the_claimed_pages_set_what_is_usual(
    effect: float, liars_pages: int
) -> None:
    """Claims that are trained in part on every page, or that show twice the effect of others."""
    liars = {10 + i: _entries(10 + i, np.array([effect])) for i in range(5)}
    honest = _honest()
    pages = {uid: (100.0 - liars_pages if uid in honest else liars_pages) for uid in honest | liars}
    shares = _shares({**honest, **liars}, pages)
    of_honest = np.mean([shares[uid] for uid in honest])
    of_liars = np.mean([shares[uid] for uid in liars])
    if liars_pages < 50:
        assert of_honest > 0.8
        assert of_liars < 0.4 or effect > 1
    elif effect > 1:
        assert of_honest < 0.4, "they take the pay of honest work"
    else:
        assert of_liars > 0.7, "half of the work is taken for the whole"


def test_the_winsor_bounds_what_a_sample_can_show() -> None:
    wild = _entries(1, np.array([1e9]))
    shown = shown_by(wild)
    assert shown is not None
    assert 0 < shown.level_square <= WINSOR**2


def _profiled(seed: int, profile: np.ndarray, windows: int = 4) -> list[Entry]:
    """Windows of a miner whose effect differs between the quarters of each page."""
    rng, entries = np.random.default_rng(seed), []
    held = np.arange(NUM_HELD + NUM_OWN) < NUM_HELD
    for _ in range(windows):
        gains = 2.0 * rng.normal(size=(held.size, QUARTERS))
        gains[NUM_HELD:] += profile
        entries.append(Entry(relative_gain=1.0, pages=240, work=work_sample(gains, held)))
    return entries


def test_the_same_part_of_every_page_is_found_within_four_windows() -> None:
    """Half of the mean square lies between the quarters; pages alone need many windows for it."""
    flat = {uid: _profiled(uid, np.full(QUARTERS, 1.0)) for uid in range(5)}
    front = _profiled(9, np.array([1.0, 1.0, 0.0, 0.0]))
    shares = _shares({**flat, 9: front})
    assert all(shares[uid] > 0.85 for uid in flat)
    assert shares[9] < 0.65
    alone = [replace(e, work=replace(e.work, quarter_profile=())) for e in front if e.work]
    assert _shares({**flat, 9: alone})[9] > shares[9]


def test_a_shape_that_all_miners_show_costs_nobody() -> None:
    shape = np.array([0.4, 0.8, 1.2, 1.6])
    shares = _shares({uid: _profiled(uid, shape) for uid in range(6)})
    assert all(share > 0.8 for share in shares.values()), "chance, in four windows"


@pytest.mark.parametrize(("miners", "windows", "least"), [(2, 3, 0.75), (8, 3, 0.7), (8, 16, 0.9)])
def test_the_profile_costs_honest_miners_little_with_few_windows(
    miners: int, windows: int, least: float
) -> None:
    with_profile: list[float] = []
    without: list[float] = []
    for seed in range(12):
        even = np.full(QUARTERS, 0.7)
        entries = {uid: _profiled(100 * seed + uid, even, windows) for uid in range(miners)}
        with_profile += _shares(entries).values()
        flat = {
            uid: [replace(e, work=replace(e.work, quarter_profile=())) for e in each if e.work]
            for uid, each in entries.items()
        }
        without += _shares(flat).values()
    assert np.mean(with_profile) > least
    assert np.mean(with_profile) > np.mean(without) - 0.03
