"""Page draws: golden vectors, random access, uniformity, exclusion, boundaries."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from template.data.assignment import (
    CLAIM_SEGMENTS,
    HELD_OUT_SEGMENTS,
    Paging,
    assigned_page,
    assigned_pages,
    assigned_segments,
    assignment_seed,
    barred_segments,
    claimed_pages,
    held_out_pages,
    max_barred_segments,
    shuffled_blocks,
)
from template.data.manifest import MAX_SEGMENTS

SEED = hashlib.sha256(b"seed of the tests").digest()
GOLDEN_PAGES = [36225, 98529, 54757, 54280, 33682, 55781, 28859, 127304, 148958]


def single(num_pages: int) -> Paging:
    """Segments of one page."""
    return Paging(num_segments=num_pages, segment_pages=1)


def _naive_words(seed: bytes, count: int) -> list[int]:
    """The definition, in plain integers."""
    words = []
    for index in range(count):
        digest = hashlib.sha256(seed + (index // 4).to_bytes(8, "little")).digest()
        start = 8 * (index % 4)
        words.append(int.from_bytes(digest[start : start + 8], "little"))
    return words


def _chi_square(pages: np.ndarray, num_pages: int) -> float:
    """Distance from uniform, in standard deviations of the chi-square of num_pages - 1."""
    counts = np.bincount(pages, minlength=num_pages)
    expected = pages.size / num_pages
    chi_square = ((counts - expected) ** 2 / expected).sum()
    return (chi_square - (num_pages - 1)) / (2 * (num_pages - 1)) ** 0.5


def test_golden_pages() -> None:
    """A change of these vectors changes every node's training data."""
    assert assigned_pages(SEED, 9, single(153_284)).tolist() == GOLDEN_PAGES
    assert held_out_pages(SEED, 5, single(153_284), GOLDEN_PAGES[:3]).tolist() == GOLDEN_PAGES[3:8]


def test_golden_seed() -> None:
    seed = assignment_seed(bytes(range(32)), "5GrwvaEF", 7)
    assert seed.hex() == "098f3a640ce31e5b3285416b18696783eee49ad6ed0a320879f141e40d51e227"


@pytest.mark.parametrize("block", [1, 7, 60, 240, 1000])
def test_whole_blocks_stay_a_front_of_the_list(block: int) -> None:
    pages = np.arange(240) * 3
    one, other = (shuffled_blocks(pages, bytes([n]) * 32, block) for n in (1, 2))
    for shuffled in (one, other):
        for start in range(0, 240, block):
            front = slice(start, start + block)
            assert sorted(shuffled[front]) == pages[front].tolist()
    assert (one == other).all() == (block == 1)
    if block >= 60:
        assert (one == pages).mean() < 0.1
        assert (one == other).mean() < 0.1


def test_shuffled_blocks_at_their_bounds() -> None:
    assert shuffled_blocks(np.arange(0), bytes(32), 1).size == 0
    assert shuffled_blocks(np.arange(1), bytes(32), 9).tolist() == [0]
    for secret, block in ((bytes(31), 1), (bytes(32), 0)):
        with pytest.raises(ValueError, match="32 bytes|at least 1"):
            shuffled_blocks(np.arange(4), secret, block)


def test_seed_depends_on_every_part() -> None:
    block_hash = bytes(32)
    seeds = {
        assignment_seed(block_hash, "a", 1),
        assignment_seed(block_hash, "b", 1),
        assignment_seed(block_hash, "a", 2),
        assignment_seed(b"\1" + bytes(31), "a", 1),
    }
    assert len(seeds) == 4


@pytest.mark.parametrize("num_pages", [1, 2, 1000, MAX_SEGMENTS])
def test_assigned_pages_match_the_definition(num_pages: int) -> None:
    expected = [word % num_pages for word in _naive_words(SEED, 37)]
    assert assigned_pages(SEED, 37, single(num_pages)).tolist() == expected
    assert [assigned_page(SEED, index, single(num_pages)) for index in range(37)] == expected


def test_random_access_far_into_the_list() -> None:
    index = 10**12 + 3
    digest = hashlib.sha256(SEED + (index // 4).to_bytes(8, "little")).digest()
    assert assigned_page(SEED, index, single(977)) == int.from_bytes(digest[24:], "little") % 977


def test_a_longer_list_starts_with_the_shorter_one() -> None:
    long = assigned_pages(SEED, 50, single(1000))
    for count in (0, 1, 3, 4, 5, 49):
        assert assigned_pages(SEED, count, single(1000)).tolist() == long[:count].tolist()


def test_assigned_pages_are_uniform() -> None:
    pages = assigned_pages(SEED, 50_000, single(500))
    assert pages.dtype == np.int64
    assert abs(_chi_square(pages, 500)) < 4


def test_lists_of_two_hotkeys_overlap_only_by_chance() -> None:
    first = assigned_pages(assignment_seed(SEED, "a", 1), 1000, single(100_000))
    second = assigned_pages(assignment_seed(SEED, "b", 1), 1000, single(100_000))
    assert np.isin(first, second).sum() < 30


@pytest.mark.parametrize(
    ("seed", "count", "num_pages"),
    [
        (SEED[:31], 1, 5),
        (SEED + b"x", 1, 5),
        (SEED, -1, 5),
        (SEED, 1, 0),
        (SEED, 1, MAX_SEGMENTS + 1),
    ],
    ids=["short seed", "long seed", "negative count", "no pages", "too many pages"],
)
def test_bad_arguments(seed: bytes, count: int, num_pages: int) -> None:
    with pytest.raises(ValueError, match="seed|negative|num_segments"):
        assigned_pages(seed, count, single(num_pages))
    with pytest.raises(ValueError, match="seed|negative|num_segments"):
        held_out_pages(seed, count, single(num_pages), [])


def test_negative_index() -> None:
    with pytest.raises(ValueError, match="negative"):
        assigned_page(SEED, -1, single(5))


@pytest.mark.parametrize(("count", "num_pages"), [(300, 1000), (900, 1000), (40, 50), (700, 10**7)])
def test_held_out_pages_match_the_definition(count: int, num_pages: int) -> None:
    excluded = set(range(0, min(num_pages, 100), 10))
    expected: list[int] = []
    for word in _naive_words(SEED, 20_000):
        page = word % num_pages
        if page not in excluded and page not in expected and len(expected) < count:
            expected.append(page)
    assert len(expected) == count
    assert held_out_pages(SEED, count, single(num_pages), excluded).tolist() == expected


def test_held_out_pages_are_distinct_and_not_excluded() -> None:
    excluded = np.concatenate(
        [assigned_pages(bytes(32), 500, single(2000)), assigned_pages(SEED, 9, single(2000))]
    )
    pages = held_out_pages(SEED, 1000, single(2000), excluded)
    assert pages.dtype == np.int64
    assert np.unique(pages).size == 1000
    assert not np.isin(pages, excluded).any()


def test_held_out_pages_are_uniform_over_what_is_left() -> None:
    excluded = range(0, 100, 2)
    draws = [
        held_out_pages(hashlib.sha256(bytes([i, j])).digest(), 10, single(100), excluded)
        for i in range(50)
        for j in range(20)
    ]
    pages = np.concatenate(draws)
    assert (pages % 2 == 1).all()
    # Drawn without replacement, counts vary less than chi-square says: only the top is tested.
    assert _chi_square(pages // 2, 50) < 4


def test_held_out_boundaries() -> None:
    assert held_out_pages(SEED, 0, single(10), []).shape == (0,)
    assert held_out_pages(SEED, 0, single(10), range(10)).shape == (0,)
    assert held_out_pages(SEED, 1, single(1), []).tolist() == [0]
    assert held_out_pages(SEED, 1, single(3000), set(range(3000)) - {1234}).tolist() == [1234]
    everything = held_out_pages(SEED, 3000, single(3000), [])
    assert sorted(everything.tolist()) == list(range(3000))


def test_one_more_excluded_page_changes_only_that_page() -> None:
    pages = held_out_pages(SEED, 200, single(5000), [1, 2, 3])
    others = held_out_pages(SEED, 200, single(5000), [1, 2, 3, int(pages[50])])
    assert np.delete(pages, 50).tolist() == others[:199].tolist()


def test_a_draw_of_more_pages_than_are_left_is_refused() -> None:
    with pytest.raises(ValueError, match="3 of 10 pages are left"):
        held_out_pages(SEED, 4, single(10), [0, 1, 2, 3, 4, 5, 6, 6, 6])


page_lists = st.lists(st.lists(st.integers(0, 19), max_size=30), max_size=5)


@given(windows=page_lists, count=st.integers(0, 20))
def test_barred_segments_match_the_rule_read_out(windows: list[list[int]], count: int) -> None:
    """Windows newest first while half of the pages and `count` stay open; else by frequency."""
    expected: set[int] = set()
    for pages in windows:
        wider = expected | set(pages)
        if min(20 - len(wider) - count, 10 - len(wider)) >= 0:
            expected = wider
            continue
        if not expected:
            levels = [{p for p in pages if pages.count(p) > least} for least in range(31)]
            expected = next(p for p in levels if len(p) <= min(10, 20 - count))
        break
    given_windows = [np.array(pages, dtype=np.int64) for pages in windows]
    found = barred_segments(given_windows, count, single(20))
    assert found.tolist() == sorted(expected)
    assert held_out_pages(SEED, count, single(20), found).size == count, "a draw is always possible"


@given(
    lists=st.lists(st.lists(st.integers(0, 19), min_size=8, max_size=8), min_size=1, max_size=12),
    count=st.integers(0, 20),
    fronts=st.sampled_from([(), (4,), (4, 2, 1), (5, 3)]),
)
def test_lists_too_many_for_the_text_are_cut_to_their_fronts(
    lists: list[list[int]], count: int, fronts: tuple[int, ...]
) -> None:
    """The longest front that leaves half of the segments open; else the last one by frequency."""
    most = min(10, 20 - count)
    cuts = [[one[:length] for one in lists] for length in (8, *fronts)]
    fitting = [cut for cut in cuts if len({s for one in cut for s in one}) <= most]
    if fitting:
        expected = {segment for one in fitting[0] for segment in one}
    else:
        last = [segment for one in cuts[-1] for segment in one]
        levels = [{s for s in last if last.count(s) > least} for least in range(100)]
        expected = next(level for level in levels if len(level) <= most)
    found = barred_segments([np.array(lists, dtype=np.int64)], count, single(20), fronts)
    assert found.tolist() == sorted(expected)


def test_a_flood_costs_no_more_windows_than_it_takes_to_fill_half() -> None:
    def windows() -> Iterator[np.ndarray]:
        yield np.arange(40)
        yield np.arange(30, 70)
        raise AssertionError("older windows are not drawn")

    assert barred_segments(windows(), 5, single(100)).tolist() == list(range(40))
    with pytest.raises(ValueError, match="count is 101"):
        barred_segments([], 101, single(100))


@pytest.mark.parametrize("excluded", [[10], [-1], np.ones(10, dtype=bool)])
def test_excluded_must_be_segment_ids(excluded: Any) -> None:
    with pytest.raises(ValueError, match="excluded segment"):
        held_out_pages(SEED, 1, single(10), excluded)


@pytest.mark.parametrize(("num_consumed", "count"), [(240, 8), (240, 6), (9, 8), (3, 8), (1, 1)])
def test_claims_are_sampled_in_every_quarter(num_consumed: int, count: int) -> None:
    consumed = np.arange(1000, 1000 + num_consumed)
    drawn = claimed_pages(SEED, consumed, count, 1)
    assert drawn.dtype == np.int64
    assert len(set(drawn.tolist())) == drawn.size
    bounds = [num_consumed * q // 4 for q in range(5)]
    for quarter in range(4):
        part = set(consumed[bounds[quarter] : bounds[quarter + 1]].tolist())
        wanted = count * (quarter + 1) // 4 - count * quarter // 4
        assert len(part & set(drawn.tolist())) == min(wanted, len(part))


def test_claims_follow_the_seed_and_every_page_can_be_drawn() -> None:
    consumed = np.arange(40)
    draws = [claimed_pages(bytes([i]) * 32, consumed, 8, 1) for i in range(60)]
    assert (draws[3] == claimed_pages(bytes([3]) * 32, consumed, 8, 1)).all()
    assert {page for drawn in draws for page in drawn.tolist()} == set(range(40))
    assert claimed_pages(SEED, consumed[:0], 8, 1).size == 0


PAGINGS = st.builds(Paging, num_segments=st.integers(1, 400), segment_pages=st.integers(1, 24))
GOLDEN = Paging(num_segments=9_580, segment_pages=16)


def test_golden_pages_of_segments() -> None:
    """A change of these vectors changes every node's training data."""
    pages = assigned_pages(SEED, 40, GOLDEN)
    assert assigned_segments(SEED, 40, GOLDEN).tolist() == [5517, 5933, 4157]
    assert (
        hashlib.sha256(pages.astype("<i8").tobytes()).hexdigest()
        == "3a030c8b8dc3b6d67f00498000bf88352ff89b5a0733ab72e2611654ceddb6cb"
    )
    held_out = held_out_pages(SEED, 40, GOLDEN, [5517, 5933, 4157][:2])
    assert (
        hashlib.sha256(held_out.astype("<i8").tobytes()).hexdigest()
        == "8d9a42157c18630630fa4ea0d9aa4b922a455c0a05f9347ba77f6d7b7b1d32a0"
    )
    claimed = claimed_pages(SEED, assigned_pages(SEED, 240, GOLDEN), 16, 16)
    assert (
        hashlib.sha256(claimed.astype("<i8").tobytes()).hexdigest()
        == "608e7e0b79a734b245b5401f211989a097cc8aec6995285992fef9349c547efc"
    )


@given(paging=PAGINGS, count=st.integers(0, 100), index=st.integers(0, 99))
def test_any_entry_is_drawn_without_the_earlier_ones(
    paging: Paging, count: int, index: int
) -> None:
    pages = assigned_pages(SEED, count, paging)
    assert pages.shape == (count,)
    assert (pages // paging.segment_pages).tolist() == [
        assigned_segments(SEED, count, paging)[i // paging.segment_pages] for i in range(count)
    ]
    if index < count:
        assert assigned_page(SEED, index, paging) == pages[index]
        assert assigned_pages(SEED, index, paging).tolist() == pages[:index].tolist()


@given(paging=PAGINGS)
def test_whole_segments_are_assigned_each_in_an_order_of_its_own(paging: Paging) -> None:
    pages = assigned_pages(SEED, 3 * paging.segment_pages, paging).reshape(3, -1)
    for row, segment in zip(pages, assigned_segments(SEED, pages.size, paging), strict=True):
        first = segment * paging.segment_pages
        assert sorted(row.tolist()) == list(range(first, first + paging.segment_pages))


def test_pages_of_a_segment_come_in_every_order() -> None:
    """An order is drawn for each entry of the list, also of the same segment, and is uniform."""
    paging = Paging(num_segments=1, segment_pages=3)
    pages = assigned_pages(SEED, 3 * 3_000, paging).reshape(-1, 3)
    numbers = pages[:, 0] * 9 + pages[:, 1] * 3 + pages[:, 2]
    counts = np.bincount(numbers)[[5, 7, 11, 15, 19, 21]]
    assert counts.sum() == 3_000
    assert abs(((counts - 500) ** 2 / 500).sum() - 5) / 10**0.5 < 4


@given(
    paging=PAGINGS,
    count=st.integers(0, 200),
    excluded=st.sets(st.integers(0, 399), max_size=60),
)
def test_held_out_pages_of_segments(paging: Paging, count: int, excluded: set[int]) -> None:
    barred = {segment for segment in excluded if segment < paging.num_segments}
    num_open = paging.num_segments - len(barred)
    if count > num_open * paging.segment_pages:
        with pytest.raises(ValueError, match="are left"):
            held_out_pages(SEED, count, paging, barred)
        return
    pages = held_out_pages(SEED, count, paging, barred)
    segments = set((pages // paging.segment_pages).tolist())
    assert len(set(pages.tolist())) == pages.size == count
    assert not segments & barred
    if count:
        assert pages.min() >= 0
        assert pages.max() < paging.num_pages
        fewest = min(HELD_OUT_SEGMENTS, num_open, count)
        assert len(segments) >= min(fewest, -(-count // -(-count // fewest)))
        assert len(segments) <= max(fewest, -(-count // paging.segment_pages))


def test_one_more_barred_segment_changes_only_its_pages() -> None:
    paging = Paging(num_segments=5_000, segment_pages=16)
    pages = held_out_pages(SEED, 64, paging, [1, 2])
    lost = int(pages[20]) // 16
    others = held_out_pages(SEED, 64, paging, [1, 2, lost])
    kept = pages[pages // 16 != lost].tolist()
    assert others[: len(kept)].tolist() == kept


@given(paging=PAGINGS, count=st.integers(0, 300))
def test_barring_leaves_half_of_the_segments_and_room_for_the_draw(
    paging: Paging, count: int
) -> None:
    most = max_barred_segments(count, paging)
    if count > paging.num_pages:
        assert most < 0
        return
    newest = assigned_segments(SEED, 200 * paging.segment_pages, paging)
    barred = barred_segments([newest], count, paging)
    assert barred.size <= most <= paging.num_segments // 2
    assert held_out_pages(SEED, count, paging, barred).size == count


@pytest.mark.parametrize(("num_segments", "segment_pages"), [(0, 1), (1, 0), (-1, 1), (1, 2**17)])
def test_a_paging_has_pages(num_segments: int, segment_pages: int) -> None:
    with pytest.raises(ValueError, match="num_segments|segment_pages"):
        Paging(num_segments=num_segments, segment_pages=segment_pages)


@given(
    num_consumed=st.integers(0, 300),
    count=st.integers(0, 40),
    segment_pages=st.integers(1, 40),
    salt=st.binary(min_size=32, max_size=32),
)
def test_claims_of_segments_come_from_every_quarter_and_few_segments(
    num_consumed: int, count: int, segment_pages: int, salt: bytes
) -> None:
    consumed = np.arange(num_consumed)
    drawn = claimed_pages(salt, consumed, count, segment_pages)
    assert len(set(drawn.tolist())) == drawn.size
    bounds = [num_consumed * q // 4 for q in range(5)]
    for quarter in range(4):
        part = set(range(bounds[quarter], bounds[quarter + 1]))
        mine = part & set(drawn.tolist())
        wanted = count * (quarter + 1) // 4 - count * quarter // 4
        assert len(mine) == min(wanted, len(part))
        segments = {page // segment_pages for page in mine}
        # The segments at both ends of a quarter may be cut by it.
        assert len(segments) <= CLAIM_SEGMENTS * -(-len(mine) // max(1, segment_pages)) + 4


def test_a_claim_costs_few_segments_and_an_exaggeration_shows_as_often_as_ever() -> None:
    """A fifth of the claim is untrained: as many sampled pages are, on average."""
    consumed, found, used = np.arange(960), [], []
    for number in range(400):
        seed = hashlib.sha256(number.to_bytes(4, "big")).digest()
        drawn = claimed_pages(seed, consumed, 16, 32)
        used.append(np.unique(drawn // 32).size)
        found.append((drawn >= 768).mean())
    assert max(used) <= 4 * CLAIM_SEGMENTS
    assert np.mean(found) == pytest.approx(0.2, abs=4 * np.std(found) / 20)
    assert np.mean(np.array(found) > 0) > 0.9, "one window in ten at most hides the lie"


def test_no_draw_asks_numpy_for_distinct_values_of_all_assignments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`np.unique` hashes, many times slower than a sort: half a minute for 256 hotkeys."""
    sizes: list[int] = []
    unique = np.unique

    def watched(values: np.ndarray, **how: Any) -> Any:
        sizes.append(values.size)
        return unique(values, **how)

    monkeypatch.setattr(np, "unique", watched)
    paging = Paging(num_segments=100_000, segment_pages=16)
    windows = [assigned_segments(bytes([n]) * 32, 16 * 2_000, paging) for n in range(8)]
    barred = barred_segments(windows, 64, paging)
    held_out_pages(SEED, 64, paging, barred)
    assert max(sizes, default=0) <= 1_000
