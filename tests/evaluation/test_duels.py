"""Duels: sums and means stay, no share passes its limit, and who did not measure cannot tell."""

import math
import statistics
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.duels import SURE, drawn_pairs, duelled
from evaluation.gain import half_gap

MAX_SHARE = 0.5
EQUAL = dict.fromkeys(range(8), 1 / 8)


def _gaps(seed: int, uids: range = range(8)) -> dict[int, float]:
    rng = np.random.default_rng(seed)
    return {uid: float(gap) for uid, gap in zip(uids, rng.normal(size=len(uids)), strict=True)}


def test_the_winner_of_a_pair_gets_the_part_that_the_loser_gives() -> None:
    after = duelled({4: 0.2, 7: 0.3}, {4: 1e-4, 7: -1e-4}, 0, 0.5, MAX_SHARE)
    assert after == pytest.approx({4: 0.3, 7: 0.2})
    back = duelled({4: 0.2, 7: 0.3}, {4: -1e-4, 7: 1e-4}, 0, 0.5, MAX_SHARE)
    assert back == pytest.approx({4: 0.1, 7: 0.4})


@pytest.mark.parametrize(
    ("shares", "gaps", "duel_share"),
    [
        ({}, {}, 0.5),
        ({3: 0.4}, {3: 1.0}, 0.5),
        ({3: 0.4, 5: 0.1}, {3: 0.0, 5: 0.0}, 0.5),
        ({3: 0.4, 5: 0.1}, {3: 0.7, 5: 0.7}, 0.5),
        ({3: 0.4, 5: 0.1}, {3: math.inf, 5: 0.7}, 0.5),
        ({3: 0.4, 5: 0.1}, {3: 1.0, 5: 0.0}, 0.0),
        ({3: MAX_SHARE, 5: 0.1}, {3: 1.0, 5: 0.0}, 0.5),
    ],
)
def test_nothing_moves_without_a_pair_a_difference_a_stake_or_room(
    shares: dict[int, float], gaps: dict[int, float], duel_share: float
) -> None:
    assert duelled(shares, gaps, 7, duel_share, MAX_SHARE) == shares


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.integers(0, 255),
        st.tuples(st.floats(1e-9, 1.0), st.floats(-1e3, 1e3)),
        min_size=1,
        max_size=24,
    ),
    st.floats(0.0, 0.999),
    st.integers(0, 10_000),
)
def test_the_sum_stays_and_no_share_falls_to_zero_or_passes_the_limit(
    drawn: dict[int, tuple[float, float]], duel_share: float, window: int
) -> None:
    total = math.fsum(weight for weight, _ in drawn.values())
    shares = {uid: min(weight / total, MAX_SHARE) for uid, (weight, _) in drawn.items()}
    after = duelled(
        shares, {u: gap for u, (_, gap) in drawn.items()}, window, duel_share, MAX_SHARE
    )
    assert list(after) == list(shares)
    assert math.fsum(after.values()) == pytest.approx(math.fsum(shares.values()))
    assert all(0 < share <= MAX_SHARE * (1 + 1e-12) for share in after.values())
    assert all(after[uid] >= shares[uid] * (1 - duel_share) * (1 - 1e-9) for uid in after)


def test_turned_gaps_turn_every_move() -> None:
    """So gaps that are as often above zero as below change nobody's mean pay."""
    shares = {uid: (uid + 1) / 36 for uid in range(8)}
    for seed in range(20):
        gaps = _gaps(seed)
        one = duelled(shares, gaps, seed, 0.5, MAX_SHARE)
        other = duelled(shares, {uid: -gap for uid, gap in gaps.items()}, seed, 0.5, MAX_SHARE)
        assert one != shares
        assert {u: (one[u] + other[u]) / 2 for u in shares} == pytest.approx(shares)


def test_the_mean_over_periods_is_the_share() -> None:
    rows = [duelled(EQUAL, _gaps(w), w, 0.5, MAX_SHARE) for w in range(2000)]
    for uid in EQUAL:
        paid = [row[uid] for row in rows]
        error = statistics.stdev(paid) / math.sqrt(len(paid))
        assert abs(statistics.fmean(paid) - 1 / 8) < 4 * error
        assert statistics.stdev(paid) == pytest.approx(0.5 / 8, rel=0.05)


def test_two_who_measured_alike_agree_but_for_a_pair_that_is_all_but_even() -> None:
    differing = 0
    for window in range(300):
        gaps = _gaps(window)
        rng = np.random.default_rng(window)
        seen = {uid: gap + 1e-5 * float(rng.normal()) for uid, gap in gaps.items()}
        mine = duelled(EQUAL, gaps, window, 0.5, MAX_SHARE)
        theirs = duelled(EQUAL, seen, window, 0.5, MAX_SHARE)
        worst = max(abs(mine[uid] - theirs[uid]) for uid in EQUAL)
        assert worst < 1e-3
        differing += worst > 1e-6
    assert differing < 300 * 8 * SURE


def test_a_miner_with_an_enormous_gap_leaves_the_other_pairs_their_duels() -> None:
    gaps = _gaps(1)
    loud = {**gaps, drawn_pairs(EQUAL, 1)[0][0]: 1e9}
    usual, after = (duelled(EQUAL, each, 1, 0.5, MAX_SHARE) for each in (gaps, loud))
    for pair in drawn_pairs(EQUAL, 1)[1:]:
        for uid in pair:
            assert after[uid] == pytest.approx(usual[uid])


def test_every_miner_duels_with_every_other() -> None:
    met = Counter(frozenset(pair) for w in range(2000) for pair in drawn_pairs(range(6), w))
    assert len(met) == 15
    assert all(300 < times < 500 for times in met.values())
    assert len(drawn_pairs(range(7), 3)) == 3
    assert drawn_pairs(reversed(range(6)), 5) == drawn_pairs(range(6), 5)


def test_a_gap_is_the_difference_of_the_halves() -> None:
    before, after = np.array([3.0, 2.0, 4.0, 5.0, 1.0]), np.array([2.0, 1.5, 4.0, 4.0, 2.0])
    assert half_gap(before, after) == pytest.approx((1 + 0.5) / 2 - (0 + 1 - 1) / 3)
    assert half_gap(before, before) == 0.0
    for bad in (math.inf, math.nan):
        assert half_gap(before, np.array([2.0, bad, 4.0, 4.0, 2.0])) is None
