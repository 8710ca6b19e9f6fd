"""Overlap of kept places: against sets, and who repeats whom."""

import tracemalloc
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import overlap
from evaluation.overlap import (
    MAX_ELEMENTS,
    Earlier,
    Overlaps,
    Places,
    TimeSpentError,
    find_overlaps,
    kept_positions,
    shared_counts,
)

NUM = 5000
place_sets = st.sets(st.integers(0, NUM - 1), max_size=60)


def _places(places) -> np.ndarray:
    return kept_positions([(0, np.array(sorted(places), dtype=np.int64))], NUM)


def _naive(
    places: dict[int, set[int]], authors: dict[int, str], earlier: list[Earlier], limit: float
) -> Overlaps:
    """The rule read out: pair after pair, as sets."""

    def share(one: set[int], other: set[int]) -> float:
        smaller = min(len(one), len(other))
        return len(one & other) / smaller if smaller else 0.0

    def is_excused(uid: int, other: Earlier) -> bool:
        return any(
            mine.author == authors[uid]
            and not mine.applied
            and mine.window <= other.window
            and share(set(mine.places.tolist()), places[uid]) > limit
            for mine in earlier
        )

    repeats: dict[int, str] = {}
    for uid in sorted(places):
        for each in earlier:
            found = share(places[uid], set(each.places.tolist()))
            is_own = each.author == authors[uid]
            is_free = not each.applied if is_own else is_excused(uid, each)
            if found > limit and not is_free:
                name = f"{each.author} in window {each.window}"
                repeats[uid] = f"shares {found:.0%} of its kept positions with {name}"
                break
    left = sorted(places.keys() - repeats.keys())
    alike = {
        uid: tuple(o for o in left if o != uid and share(places[uid], places[o]) > limit)
        for uid in left
    }
    return Overlaps(repeats=repeats, alike={uid: others for uid, others in alike.items() if others})


@given(st.lists(place_sets, min_size=1, max_size=6), st.integers(1, 6))
def test_shared_counts_are_those_of_sets(sets: list[set[int]], num_first: int) -> None:
    num_first = min(num_first, len(sets))
    found = shared_counts([_places(each) for each in sets], num_first)
    assert found.tolist() == [[len(one & other) for other in sets] for one in sets[:num_first]]


def _sorted_counts(rows: Sequence[Places], num_first: int) -> np.ndarray:
    """The definition: all positions sorted together, and each two rows at each of them."""
    owners = np.repeat(np.arange(len(rows)), [row.size for row in rows])
    places, counts = np.concatenate(rows), np.zeros((num_first, len(rows)), dtype=np.int64)
    for place in np.unique(places):
        here = owners[places == place]
        counts[np.ix_(here[here < num_first], here)] += 1
    return counts


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_rows=st.integers(1, 24),
    num_first=st.integers(1, 24),
    crowded=st.booleans(),
    table_bytes=st.sampled_from([1, 300, 700, 1500, 1 << 27]),
    part_places=st.sampled_from([1, 7, 1 << 18]),
)
def test_counts_of_any_passes_and_parts_are_the_same(
    seed: int, num_rows: int, num_first: int, crowded: bool, table_bytes: int, part_places: int
) -> None:
    """Words of one to eight bytes, several passes, rows in parts, and rows beyond the firsts."""
    rng = np.random.default_rng(seed)
    num_first = min(num_first, num_rows)
    universe = 40 if crowded else 300
    rows = [
        np.sort(rng.choice(universe, rng.integers(0, 40), replace=False)).astype(np.int32)
        for _ in range(num_rows)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "TABLE_BYTES", table_bytes)
        patch.setattr(overlap, "PART_PLACES", part_places)
        found = shared_counts(rows, num_first)
    assert found.dtype == np.int64
    assert found.tolist() == _sorted_counts(rows, num_first).tolist()


@pytest.mark.parametrize("num_first", [1, 8, 9, 16, 17, 32, 33, 64, 65])
@pytest.mark.parametrize("kept", [0, 1, 254, 255, 256, 2040, 2041])
def test_counts_at_the_edges_of_words_and_of_sums_without_a_carry(num_first, kept) -> None:
    """All rows keep the same positions: every bit of every byte is added as often as can be."""
    row = np.arange(kept, dtype=np.int32)
    assert (shared_counts([row] * (num_first + 1), num_first) == kept).all()
    alone = shared_counts([row, *[row[:0]] * num_first], num_first)
    assert alone[0, 0] == alone.sum() == kept


def test_an_earlier_payload_is_looked_at_when_it_is_compared_and_not_kept() -> None:
    rng = np.random.default_rng(9)
    rows = [set(rng.choice(NUM, 60, replace=False).tolist()) for _ in range(4)]
    looked: list[int] = []

    def look(each: Earlier) -> Places:
        looked.append(each.window)
        return _places(rows[each.window])

    before = [_earlier("owner", [], window=window) for window in (1, 2, 3)]
    found = find_overlaps({5: _places(rows[2])}, {5: "thief"}, before, 0.5, look=look)
    assert looked == [1, 2, 3]
    assert found.repeats == {5: "shares 100% of its kept positions with owner in window 2"}
    assert find_overlaps({}, {}, before, 0.5, look=look) == Overlaps(repeats={}, alike={})
    assert looked == [1, 2, 3], "without payloads there is nothing to compare"


def test_no_first_row_and_no_row() -> None:
    row = np.arange(3, dtype=np.int32)
    assert shared_counts([], 0).shape == (0, 0)
    assert shared_counts([row, row], 0).shape == (0, 2)


def test_tensors_lie_one_after_another_and_the_tail_is_left_out() -> None:
    found = kept_positions([(10, np.array([7, 0])), (0, np.array([4, 1]))], 20)
    assert found.tolist() == [1, 4, 10, 17]
    long = kept_positions([(0, np.array([3])), (MAX_ELEMENTS - 1, np.array([0, 5]))], 1 << 40)
    assert long.tolist() == [3, MAX_ELEMENTS - 1]
    assert kept_positions([], 20).size == 0


def _earlier(author: str, places, *, applied: bool = True, window: int = 7) -> Earlier:
    return Earlier(window=window, author=author, places=_places(places), applied=applied)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95))
def test_overlaps_are_those_of_the_rule_read_out(seed: int, limit: float) -> None:
    """Payloads that share much or little, in this window and before, of few authors."""
    rng = np.random.default_rng(seed)
    base = [rng.choice(NUM, 40, replace=False) for _ in range(3)]

    def drawn() -> set[int]:
        of_base = base[rng.integers(3)][: rng.integers(0, 41)]
        return {*of_base.tolist(), *rng.integers(0, NUM, rng.integers(0, 20)).tolist()}

    sets = {uid: drawn() for uid in rng.choice(256, 8, replace=False).tolist()}
    authors = {uid: f"hk{uid % 3}" for uid in sets}
    earlier = [
        _earlier(f"hk{i % 3}", drawn(), applied=bool(i % 2), window=4 + i // 3) for i in range(9)
    ]
    places = {uid: _places(each) for uid, each in sets.items()}
    assert find_overlaps(places, authors, earlier, limit) == _naive(sets, authors, earlier, limit)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_distinct=st.integers(1, 4),
    noise=st.sampled_from([0, 1, 30]),
    table_bytes=st.sampled_from([1, 2 * NUM, 1 << 27]),
)
def test_identical_near_and_disjoint_sets_are_judged_by_the_rule(
    seed: int, num_distinct: int, noise: int, table_bytes: int
) -> None:
    """Many payloads of few kinds, in one pass and in several."""
    rng = np.random.default_rng(seed)
    kinds = np.split(rng.permutation(NUM)[: 40 * num_distinct], num_distinct)
    sets = {
        uid: {*kinds[rng.integers(num_distinct)].tolist(), *rng.integers(0, NUM, noise).tolist()}
        for uid in range(24)
    }
    authors = {uid: f"hk{uid % 5}" for uid in sets}
    earlier = [_earlier(f"hk{i % 5}", sets[i], applied=bool(i % 2)) for i in range(12)]
    places = {uid: _places(each) for uid, each in sets.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "TABLE_BYTES", table_bytes)
        patch.setattr(overlap, "PART_PLACES", 50)
        found = find_overlaps(places, authors, earlier, 0.5)
    assert found == _naive(sets, authors, earlier, 0.5)


MANY, KEPT, ELEMENTS = 256, 1000, 1 << 18


def _noise(rng: np.random.Generator) -> list[Places]:
    return [_drawn(rng, np.arange(ELEMENTS)) for _ in range(MANY)]


def _identical(rng: np.random.Generator) -> list[Places]:
    return [_drawn(rng, np.arange(ELEMENTS))] * MANY


def _near(rng: np.random.Generator) -> list[Places]:
    """Every two share half of their positions, and no two positions have the same owners."""
    universe = rng.choice(ELEMENTS, 2 * KEPT, replace=False)
    return [_drawn(rng, universe) for _ in range(MANY)]


def _close(rng: np.random.Generator) -> list[Places]:
    """Few positions in common, all in one corner of the model."""
    return [_drawn(rng, np.arange(20 * KEPT)) for _ in range(MANY)]


def _drawn(rng: np.random.Generator, universe: np.ndarray) -> Places:
    return np.sort(rng.choice(universe, KEPT, replace=False)).astype(np.int32)


@pytest.mark.parametrize("make", [_identical, _near, _close])
def test_no_contents_cost_much_more_than_noise(
    make: Callable[[np.random.Generator], list[Places]],
) -> None:
    """Bytes at the peak, and parts of bounded work: a list of all pairs takes 40 times as much."""
    rng = np.random.default_rng(5)
    noise_bytes, noise_looks = _cost_of(_noise(rng))
    peak_bytes, looks = _cost_of(make(rng))
    assert peak_bytes < 1.1 * noise_bytes
    assert looks <= noise_looks


def _cost_of(rows: Sequence[Places]) -> tuple[int, int]:
    """Peak of allocated bytes, and how often the deadline was looked at."""
    looks = 0

    def is_late() -> bool:
        nonlocal looks
        looks += 1
        return False

    tracemalloc.start()
    try:
        shared_counts(rows, len(rows), is_late)
        return tracemalloc.get_traced_memory()[1], looks
    finally:
        tracemalloc.stop()


def test_the_comparison_ends_at_the_first_look_after_the_deadline() -> None:
    places = dict(enumerate(_identical(np.random.default_rng(6))))
    authors, looks = {uid: str(uid) for uid in places}, []

    def is_late() -> bool:
        looks.append(1)
        return len(looks) == 2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "PART_PLACES", 100)
        with pytest.raises(TimeSpentError):
            find_overlaps(places, authors, [], 0.5, is_late)
    assert len(looks) == 2


def test_payloads_of_one_training_in_a_window_are_alike_and_none_is_refused() -> None:
    rng = np.random.default_rng(0)
    work = {uid: set(rng.choice(NUM, 80, replace=False).tolist()) for uid in (1, 4, 9)}
    twin = {*list(work[4])[:60], *range(20)}
    places = {uid: _places(each) for uid, each in {**work, 7: twin, 8: twin}.items()}
    authors = {uid: f"hk{uid}" for uid in places}
    found = find_overlaps(places, authors, [], 0.5)
    assert found == Overlaps(repeats={}, alike={4: (7, 8), 7: (4, 8), 8: (4, 7)})
    few = find_overlaps(places, authors, [], 0.9)
    assert few.alike == {7: (8,), 8: (7,)}, "the two copies are the same"


def test_a_repeat_is_alike_to_nobody() -> None:
    """Who is refused shadows nobody."""
    places = np.arange(50)
    before = [_earlier("owner", places, applied=False)]
    both = {1: _places(places), 2: _places(places)}
    found = find_overlaps(both, {1: "thief", 2: "owner"}, before, 0.5)
    assert found.repeats.keys() == {1}
    assert found.alike == {}


@pytest.mark.parametrize(
    ("window", "applied", "share", "is_refused"),
    [
        (6, False, 1.0, False),
        (7, False, 1.0, False),
        (8, False, 1.0, True),
        (6, True, 1.0, True),
        (6, False, 0.4, True),
    ],
    ids=["before", "same window", "later", "applied", "other work"],
)
def test_what_was_committed_belongs_first_to_its_committer(
    window: int, applied: bool, share: float, is_refused: bool
) -> None:
    """A stranger sent in window 7 what "me" had committed; then it comes from error feedback."""
    rng = np.random.default_rng(4)
    drawn, num_shared = rng.choice(NUM, 160, replace=False), round(80 * share)
    places, mine = drawn[:80], [*drawn[:num_shared], *drawn[80 : 160 - num_shared]]
    before = [_earlier("me", mine, applied=applied, window=window), _earlier("thief", places)]
    found = find_overlaps({2: _places(places)}, {2: "me"}, before, 0.5)
    assert (2 in found.repeats) == is_refused
    assert 2 in find_overlaps({2: _places(places)}, {2: "third"}, before, 0.5).repeats


def test_a_copy_of_an_earlier_payload_is_named_after_it() -> None:
    rng = np.random.default_rng(1)
    places, fresh = rng.choice(NUM, 80, replace=False), rng.choice(NUM, 80, replace=False)
    before = [_earlier("rival", places[:50])]
    assert find_overlaps({2: _places(places)}, {2: "me"}, before, 0.5).repeats == {
        2: "shares 100% of its kept positions with rival in window 7"
    }
    assert find_overlaps({2: _places(fresh)}, {2: "me"}, before, 0.5).repeats == {}
    assert find_overlaps({}, {}, before, 0.5).repeats == {}


@pytest.mark.parametrize("applied", [True, False])
def test_own_work_that_was_not_applied_may_come_again(applied: bool) -> None:
    """It went back into error feedback; what was applied and comes again is a replay."""
    places = np.arange(50)
    before = [_earlier("me", places, applied=applied)]
    assert (2 in find_overlaps({2: _places(places)}, {2: "me"}, before, 0.5).repeats) == applied
    assert 2 in find_overlaps({2: _places(places)}, {2: "copier"}, before, 0.5).repeats


def test_empty_payloads_repeat_nobody() -> None:
    assert find_overlaps({1: _places([]), 2: _places([])}, {1: "a", 2: "b"}, [], 0.1).repeats == {}


def test_only_what_was_applied_may_not_come_again() -> None:
    places = np.random.default_rng(2).choice(NUM, 80, replace=False)
    before = [_earlier("me", places, applied=False), _earlier("other", np.arange(0), applied=False)]
    again = {2: _places(places)}

    def is_refused(author: str, earlier: Sequence[Earlier]) -> bool:
        return 2 in find_overlaps(again, {2: author}, earlier, 0.5).repeats

    assert not is_refused("me", before)
    assert not is_refused("me", overlap.mark_applied(before, 6, {"me"}))
    assert not is_refused("me", overlap.mark_applied(before, 7, {"other"}))
    assert is_refused("me", overlap.mark_applied(before, 7, {"me"}))
    assert is_refused("rival", before)
