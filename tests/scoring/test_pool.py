"""The pool of a window: the same draw for every validator, held-out pages assigned to no hotkey."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.work import HELD_OUT
from template.errors import ConfigError
from template.protocol.payload import PayloadHeader
from template.protocol.root import Member
from template.protocol.schedule import Schedule
from template.protocol.spec import RunSpec, parse_spec
from template.scoring.pool import PoolDrawer
from template.scoring.rules import claims_of_each
from tests.support.scoring import SPEC_FILE

NUM_PAGES = 20_000
SCHEDULE = Schedule(start_block=100, blocks_per_window=20, upload_blocks=4, vote_margin_blocks=3)
SPEC = parse_spec(SPEC_FILE.read_text(encoding="ascii"))


def hash_of_block(salt: int):
    return lambda block: hashlib.sha256(f"{salt} {block}".encode()).digest()


def make_drawer(salt: int = 0, spec: RunSpec = SPEC, num_pages: int = NUM_PAGES) -> PoolDrawer:
    return PoolDrawer(
        spec=spec, schedule=SCHEDULE, block_hash=hash_of_block(salt), num_pages=num_pages
    )


def with_held_out(count: int) -> RunSpec:
    return replace(SPEC, evaluation=replace(SPEC.evaluation, held_out_pages=count))


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


@given(salt=st.integers(0, 2**32), window=st.integers(0, 50), num_hotkeys=st.integers(0, 6))
def test_held_out_pages_are_distinct_and_assigned_to_no_hotkey(salt, window, num_hotkeys) -> None:
    drawer, hotkeys = make_drawer(salt), [f"hotkey{uid}" for uid in range(num_hotkeys)]
    held_out = drawer.draw_held_out(window, hotkeys)
    assert held_out.size == np.unique(held_out).size == SPEC.evaluation.held_out_pages
    assert 0 <= held_out.min() <= held_out.max() < NUM_PAGES
    first = max(0, window + 1 - SPEC.evaluation.assignment_windows)
    for past in range(first, window + 1):
        for hotkey in hotkeys:
            assert not np.isin(held_out, drawer.list_assigned(hotkey, past)).any()


@given(
    salt=st.integers(0, 2**32),
    window=st.integers(2, 50),
    claims=st.lists(
        st.tuples(st.integers(0, SPEC.training.pages_per_window), st.integers(0, 2)), max_size=5
    ),
)
def test_two_validators_draw_the_same_pool(salt, window, claims) -> None:
    hotkeys = [f"hotkey{uid}" for uid in range(6)]
    headers = {
        make_member(uid): make_header(window, pages, staleness)
        for uid, (pages, staleness) in enumerate(claims)
    }
    pool = make_drawer(salt).draw_pool(window, hotkeys, headers)
    # The draw excludes the union of assigned pages, whatever the order of the hotkeys.
    again = make_drawer(salt).draw_pool(window, hotkeys[::-1], headers)
    assert pool.ids_S.tolist() == again.ids_S.tolist()
    assert pool.owners_S.tolist() == again.owners_S.tolist()
    count = claims_of_each(SPEC.evaluation, len(headers))
    for member, header in headers.items():
        claimed = pool.ids_S[pool.owners_S == member.uid]
        assert claimed.size <= min(count, header.pages_consumed)
        listed = make_drawer(salt).list_assigned(member.hotkey, header.base_window)
        assert np.isin(claimed, listed[: header.pages_consumed]).all()
    num_held_out = SPEC.evaluation.held_out_pages
    assert (pool.owners_S[:num_held_out] == HELD_OUT).all()
    assert (pool.owners_S[num_held_out:] != HELD_OUT).all()


def test_another_block_hash_or_window_draws_another_pool() -> None:
    pools = [
        make_drawer(salt).draw_held_out(window, []) for salt, window in ((0, 3), (1, 3), (0, 4))
    ]
    assert len({pool.tobytes() for pool in pools}) == 3


def test_the_pool_depends_on_the_held_out_block_only_through_its_hash() -> None:
    assert make_drawer().pool_seed(3) == hash_of_block(0)(SCHEDULE.held_out_block(3))


@pytest.mark.parametrize("count", [2, 500])
def test_the_fewest_and_all_pages_can_be_held_out(count: int) -> None:
    held_out = make_drawer(spec=with_held_out(count), num_pages=500).draw_held_out(5, [])
    assert held_out.size == np.unique(held_out).size == count


def test_more_held_out_pages_than_are_unassigned_raise_an_error() -> None:
    drawer = make_drawer(spec=with_held_out(NUM_PAGES))
    with pytest.raises(ConfigError, match="dataset is too small"):
        drawer.draw_held_out(5, ["hotkey0"])


@pytest.mark.parametrize("pages_consumed", [0, 1, SPEC.training.pages_per_window])
def test_boundary_counts_of_claimed_pages(pages_consumed: int) -> None:
    drawer, header = make_drawer(), make_header(5, pages_consumed)
    listed = drawer.list_assigned("hotkey1", 5)[:pages_consumed]
    assert drawer.draw_claimed(5, "hotkey1", header, 0).size == 0
    every = drawer.draw_claimed(5, "hotkey1", header, 4 * SPEC.training.pages_per_window)
    assert sorted(every) == sorted(listed)


def test_a_window_without_payloads_has_held_out_pages_alone() -> None:
    pool = make_drawer().draw_pool(0, [], {})
    assert pool.owners_S.tolist() == [HELD_OUT] * SPEC.evaluation.held_out_pages
