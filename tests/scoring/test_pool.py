"""The pool of a window: the same draw for every validator, held-out pages assigned to no hotkey."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.work import HELD_OUT
from template.data.assignment import Paging
from template.protocol.payload import PayloadHeader
from template.protocol.root import Member
from template.protocol.run import Run
from template.protocol.spec import RunSpec, parse_spec
from template.scoring.pool import PoolDrawer, halved
from tests.support.scoring import SPEC_FILE

NUM_PAGES, SEGMENT_PAGES = 20_000, 4
SPEC = parse_spec(SPEC_FILE.read_text(encoding="ascii"))
PAGES = SPEC.training.pages_per_window


def hash_of_block(salt: int):
    return lambda block: hashlib.sha256(f"{salt} {block}".encode()).digest()


def make_drawer(salt: int = 0, spec: RunSpec = SPEC, num_pages: int = NUM_PAGES) -> PoolDrawer:
    paging = Paging(num_segments=num_pages // SEGMENT_PAGES, segment_pages=SEGMENT_PAGES)
    return PoolDrawer(
        run=Run(spec),
        block_hash=hash_of_block(salt),
        paging_at=lambda _: paging,
    )


def with_held_out(count: int) -> RunSpec:
    return replace(SPEC, evaluation=replace(SPEC.evaluation, held_out_pages=count))


def with_claimed(count: int) -> RunSpec:
    return replace(SPEC, evaluation=replace(SPEC.evaluation, claimed_pages=count))


def make_member(uid: int) -> Member:
    return Member(
        uid=uid, hotkey=f"hotkey{uid}", public_key=bytes(32), coldkey=bytes(32), digest=bytes(32)
    )


def make_header(window: int, pages_consumed: int, staleness: int = 0) -> PayloadHeader:
    return PayloadHeader(
        window=window,
        base_window=window - staleness,
        pages_consumed=pages_consumed,
        public_key=bytes(32),
    )


def all_committed(num_hotkeys: int, window: int) -> dict[str, int]:
    return {f"hotkey{uid}": window for uid in range(num_hotkeys)}


@settings(max_examples=40, deadline=None)
@given(
    salt=st.integers(0, 2**32),
    window=st.integers(0, 50),
    behind=st.lists(st.integers(0, 9), max_size=6),
)
def test_held_out_pages_are_distinct_and_assigned_to_no_committed_hotkey(
    salt, window, behind
) -> None:
    """`behind`: windows between each hotkey's last payload and the scored window."""
    drawer = make_drawer(salt)
    last_commits = {f"hotkey{uid}": window - lag for uid, lag in enumerate(behind)}
    held_out = drawer.draw_held_out(window, last_commits)
    assert held_out.size == np.unique(held_out).size == SPEC.evaluation.held_out_pages
    assert 0 <= held_out.min() <= held_out.max() < NUM_PAGES
    first = max(0, window + 1 - SPEC.evaluation.assignment_windows)
    for past in range(first, window + 1):
        for hotkey, last in last_commits.items():
            if past <= last:
                assert not np.isin(held_out, drawer.list_assigned(hotkey, past, PAGES)).any()


def test_a_hotkey_bars_the_pages_up_to_its_last_payload_alone() -> None:
    """Without a payload in the windows looked back on, a hotkey bars nothing at all."""
    drawer, window = make_drawer(), 20
    empty = drawer.draw_held_out(window, {})
    names = (f"hotkey{uid}" for uid in range(1000))
    hotkey = next(h for h in names if np.isin(drawer.list_assigned(h, window, PAGES), empty).any())
    assigned = drawer.list_assigned(hotkey, window, PAGES)
    assert not np.isin(assigned, drawer.draw_held_out(window, {hotkey: window})).any()
    assert np.isin(assigned, drawer.draw_held_out(window, {hotkey: window - 1})).any()
    too_long_ago = window - SPEC.evaluation.assignment_windows
    assert drawer.draw_held_out(window, {hotkey: too_long_ago}).tolist() == empty.tolist()


@pytest.mark.parametrize("num_pages", [64, 68, 500, 20_000, 200_000])
def test_a_crowd_of_hotkeys_leaves_a_draw_from_half_of_the_text(num_pages: int) -> None:
    drawer, crowd = make_drawer(num_pages=num_pages), all_committed(256, 20)
    held_out = drawer.draw_held_out(20, crowd)
    assert np.unique(held_out).size == SPEC.evaluation.held_out_pages
    # An attacker cannot tell the pages in advance: other blocks draw other pages.
    others = [make_drawer(salt, num_pages=num_pages).draw_held_out(20, crowd) for salt in (1, 2)]
    if num_pages > 100:
        assert len({frozenset(pages.tolist()) for pages in (held_out, *others)}) == 3
    newest = np.unique(np.concatenate([drawer.list_assigned(h, 20, PAGES) for h in crowd]))
    if newest.size <= num_pages // 2:
        assert not np.isin(held_out, newest).any(), "the newest window is given up last"


@settings(max_examples=40, deadline=None)
@given(
    salt=st.integers(0, 2**32),
    window=st.integers(2, 50),
    claims=st.lists(
        st.tuples(st.integers(0, SPEC.training.pages_per_window), st.integers(0, 2)), max_size=5
    ),
)
def test_two_validators_draw_the_same_pool(salt, window, claims) -> None:
    hotkeys = all_committed(6, window)
    headers = {
        make_member(uid): make_header(window, pages, staleness)
        for uid, (pages, staleness) in enumerate(claims)
    }
    pool = make_drawer(salt).draw_pool(window, hotkeys, headers)
    # The draw excludes the union of assigned pages, whatever the order of the hotkeys.
    reordered = dict(reversed(hotkeys.items()))
    again = make_drawer(salt).draw_pool(window, reordered, headers)
    assert pool.ids_S.tolist() == again.ids_S.tolist()
    assert pool.owners_S.tolist() == again.owners_S.tolist()
    count = SPEC.evaluation.claimed_pages
    for member, header in headers.items():
        claimed = pool.ids_S[pool.owners_S == member.uid]
        assert claimed.size <= min(count, header.pages_consumed)
        listed = make_drawer(salt).list_assigned(
            member.hotkey, header.base_window, header.pages_consumed
        )
        assert np.isin(claimed, listed).all()
    num_held_out = SPEC.evaluation.held_out_pages
    assert (pool.owners_S[:num_held_out] == HELD_OUT).all()
    assert (pool.owners_S[num_held_out:] != HELD_OUT).all()


def test_another_block_hash_or_window_draws_another_pool() -> None:
    pools = [
        make_drawer(salt).draw_held_out(window, {}) for salt, window in ((0, 3), (1, 3), (0, 4))
    ]
    assert len({pool.tobytes() for pool in pools}) == 3


def test_the_pool_depends_on_the_held_out_block_only_through_its_hash() -> None:
    assert make_drawer().pool_seed(3) == hash_of_block(0)(Run(SPEC).schedule.held_out_block(3))


@pytest.mark.parametrize("count", [2, 500])
def test_the_fewest_and_all_pages_can_be_held_out(count: int) -> None:
    held_out = make_drawer(spec=with_held_out(count), num_pages=500).draw_held_out(5, {})
    assert held_out.size == np.unique(held_out).size == count


@pytest.mark.parametrize("pages_consumed", [0, 1, SPEC.training.pages_per_window])
def test_boundary_counts_of_claimed_pages(pages_consumed: int) -> None:
    header = make_header(5, pages_consumed)
    none, all_of_them = (make_drawer(spec=with_claimed(count)) for count in (0, 4 * PAGES))
    listed = none.list_assigned("hotkey1", 5, PAGES)[:pages_consumed]
    assert none.draw_claimed(5, "hotkey1", header).size == 0
    assert sorted(all_of_them.draw_claimed(5, "hotkey1", header)) == sorted(listed)


def test_the_pages_of_the_widest_payload_are_barred_and_lists_are_prefixes() -> None:
    """Nobody knows how wide a payload will be when the held-out pages are drawn."""
    wide = replace(with_claimed(8 * PAGES), training=replace(SPEC.training, max_width=3))
    drawer, window = make_drawer(spec=wide), 20
    empty = drawer.draw_held_out(window, {})
    hotkey = next(
        name
        for name in (f"hotkey{uid}" for uid in range(1000))
        if np.isin(drawer.list_assigned(name, window, 3 * PAGES)[PAGES:], empty).any()
    )
    listed = drawer.list_assigned(hotkey, window, 3 * PAGES)
    assert listed[:PAGES].tolist() == make_drawer().list_assigned(hotkey, window, PAGES).tolist()
    assert not np.isin(listed, drawer.draw_held_out(window, {hotkey: window})).any()
    header = make_header(window, 2 * PAGES)
    every = drawer.draw_claimed(window, hotkey, header)
    assert sorted(every) == sorted(listed[: 2 * PAGES])


@pytest.mark.parametrize(("width", "looked_at"), [(1, 8), (2, 11), (3, 13)])
def test_a_wide_payload_is_looked_at_on_more_pages(width: int, looked_at: int) -> None:
    wide = replace(with_claimed(8), training=replace(SPEC.training, max_width=3))
    header = replace(make_header(5, 3 * PAGES), width=width)
    drawn = make_drawer(spec=wide).draw_claimed(5, "hotkey1", header)
    assert drawn.size == looked_at


def test_a_crowd_of_wide_lists_frees_no_page_that_a_narrow_payload_trains() -> None:
    """The widest lists of 12 hotkeys are too many for the text, and those of width 1 are not."""
    wide = replace(SPEC, training=replace(SPEC.training, max_width=5))
    hotkeys = [f"hotkey{uid}" for uid in range(12)]
    drawer, window = make_drawer(spec=wide, num_pages=24 * PAGES), 20
    last_commits = dict.fromkeys(hotkeys, window)
    lists = [drawer.list_assigned(hotkey, window, 5 * PAGES) for hotkey in hotkeys]
    widest, narrow = np.concatenate(lists), np.concatenate([one[:PAGES] for one in lists])
    assert np.unique(widest).size > 12 * PAGES >= np.unique(narrow).size
    held_out = drawer.draw_held_out(window, last_commits)
    assert np.isin(held_out, widest).any(), "of the widest lists not all can be barred"
    assert not np.isin(narrow, held_out).any()


@pytest.mark.parametrize(("most", "widths"), [(1, []), (2, [1]), (5, [2, 1]), (8, [4, 2, 1])])
def test_lists_are_cut_to_half_the_width_and_so_on(most: int, widths: list[int]) -> None:
    assert halved(most) == widths


def test_a_window_without_payloads_has_held_out_pages_alone() -> None:
    pool = make_drawer().draw_pool(0, {}, {})
    assert pool.owners_S.tolist() == [HELD_OUT] * SPEC.evaluation.held_out_pages
