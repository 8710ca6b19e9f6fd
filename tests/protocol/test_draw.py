"""The sample of a window's payloads: one draw for all validators, and fair to everybody."""

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from template.protocol.draw import drawn_order

HOTKEYS = [f"5Hotkey{i:03d}" for i in range(40)]


def _block_hash(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "little")).digest()


@given(st.permutations(HOTKEYS), st.integers(0, 2**31))
def test_the_order_depends_on_block_and_hotkeys_alone(shuffled: list[str], window: int) -> None:
    order = drawn_order(_block_hash(1), window, shuffled)
    assert order == drawn_order(_block_hash(1), window, HOTKEYS)
    assert sorted(order) == HOTKEYS
    few = shuffled[:7]
    assert drawn_order(_block_hash(1), window, few) == [h for h in order if h in few]


def test_every_hotkey_is_as_likely_at_every_place() -> None:
    """2,000 blocks, 10 of 40 drawn: a quarter of the windows each, and of the pairs 0.0577."""
    drawn = np.zeros((2000, len(HOTKEYS)), dtype=bool)
    places = np.zeros(len(HOTKEYS))
    for block in range(len(drawn)):
        order = drawn_order(_block_hash(block), 5, HOTKEYS)
        drawn[block, [HOTKEYS.index(hotkey) for hotkey in order[:10]]] = True
        places += [order.index(hotkey) for hotkey in HOTKEYS]
    counts = drawn.sum(axis=0)
    assert abs(counts - 500).max() < 4 * np.sqrt(2000 * 0.25 * 0.75)
    assert abs(places / 2000 - 19.5).max() < 4 * 11.5 / np.sqrt(2000)
    pairs = (drawn.T.astype(float) @ drawn.astype(float))[np.triu_indices(len(HOTKEYS), 1)]
    assert abs(pairs / 2000 - 10 * 9 / (40 * 39)).max() < 5 * np.sqrt(0.058 / 2000)


def test_another_block_or_window_draws_anew() -> None:
    orders = {
        tuple(drawn_order(_block_hash(block), window, HOTKEYS))
        for block in range(3)
        for window in range(3)
    }
    assert len(orders) == 9
    assert drawn_order(_block_hash(0), 0, []) == []
