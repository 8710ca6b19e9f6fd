"""Overlap of kept places: against sets, and who repeats whom."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.overlap import MAX_ELEMENTS, Earlier, overlap, place_bits, repeats

NUM = 5000
place_sets = st.sets(st.integers(0, NUM - 1), max_size=60)


def _bits(places) -> np.ndarray:
    return place_bits([(0, np.array(sorted(places), dtype=np.int64))], NUM)


@given(place_sets, place_sets)
def test_overlap_is_that_of_sets(one: set[int], other: set[int]) -> None:
    smaller = min(len(one), len(other))
    expected = len(one & other) / smaller if smaller else 0.0
    assert overlap(_bits(one), _bits(other)) == pytest.approx(expected)


def test_tensors_lie_one_after_another_and_the_tail_is_left_out() -> None:
    two = place_bits([(0, np.array([1, 4])), (10, np.array([0]))], 20)
    assert (two == place_bits([(0, np.array([1, 4, 10]))], 20)).all()
    long = place_bits([(0, np.array([3])), (MAX_ELEMENTS, np.array([0, 5]))], MAX_ELEMENTS + 10)
    assert long.size == MAX_ELEMENTS // 8
    assert int(np.bitwise_count(long).sum()) == 1


def _earlier(author: str, places, *, named: bool = True) -> Earlier:
    return Earlier(window=7, author=author, bits=_bits(places), named=named)


def test_of_one_author_the_lowest_uid_counts() -> None:
    rng = np.random.default_rng(0)
    work = {uid: set(rng.choice(NUM, 80, replace=False).tolist()) for uid in (1, 4, 9)}
    twin = {*list(work[4])[:60], *range(20)}
    bits = {uid: _bits(places) for uid, places in {**work, 7: twin, 8: twin}.items()}
    authors = {uid: f"hk{uid}" for uid in bits}
    found = repeats(bits, authors, [], 0.5)
    assert set(found) == {7, 8}
    assert all("uid 4" in what for what in found.values())
    assert repeats(bits, authors, [], 0.9).keys() == {8}, "the two copies are the same"


def test_a_copy_of_an_earlier_payload_is_named_after_it() -> None:
    rng = np.random.default_rng(1)
    places, fresh = rng.choice(NUM, 80, replace=False), rng.choice(NUM, 80, replace=False)
    before = [_earlier("rival", places[:50])]
    assert repeats({2: _bits(places)}, {2: "me"}, before, 0.5) == {
        2: "100% of its places are those of rival in window 7"
    }
    assert repeats({2: _bits(fresh)}, {2: "me"}, before, 0.5) == {}
    assert repeats({}, {}, before, 0.5) == {}


@pytest.mark.parametrize("named", [True, False])
def test_own_work_that_was_not_applied_may_come_again(named: bool) -> None:
    """It went back into error feedback; what was applied and comes again is a replay."""
    places = np.arange(50)
    before = [_earlier("me", places, named=named)]
    assert (2 in repeats({2: _bits(places)}, {2: "me"}, before, 0.5)) == named
    assert 2 in repeats({2: _bits(places)}, {2: "copier"}, before, 0.5)


def test_empty_payloads_repeat_nobody() -> None:
    assert repeats({1: _bits([]), 2: _bits([])}, {1: "a", 2: "b"}, [], 0.1) == {}
