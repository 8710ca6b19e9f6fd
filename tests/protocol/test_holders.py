"""Objects are spread evenly over holders, and few objects move when a holder comes or goes."""

from collections import Counter

import pytest

from template.protocol.holders import (
    HOLDERS,
    Holding,
    core_of,
    holders_of,
    payload_line,
    turn_of,
)

HOTKEYS = [f"5hotkey{number}" for number in range(8)]
DIGESTS = [bytes([number]) * 32 for number in range(256)]


def test_few_hold_everything() -> None:
    for count in range(HOLDERS + 1):
        assert sorted(holders_of(DIGESTS[0], HOTKEYS[:count])) == HOTKEYS[:count]


def test_each_object_has_three_holders_and_each_hotkey_a_fair_share() -> None:
    held = Counter(h for digest in DIGESTS for h in holders_of(digest, HOTKEYS))
    assert sum(held.values()) == HOLDERS * len(DIGESTS)
    fair = HOLDERS * len(DIGESTS) / len(HOTKEYS)
    assert all(0.6 * fair < held[hotkey] < 1.4 * fair for hotkey in HOTKEYS)


def test_the_order_of_the_hotkeys_does_not_matter() -> None:
    for digest in DIGESTS[:16]:
        assert holders_of(digest, HOTKEYS) == holders_of(digest, HOTKEYS[::-1])


def test_a_hotkey_that_goes_moves_only_its_own_objects() -> None:
    gone = HOTKEYS[3]
    left = [hotkey for hotkey in HOTKEYS if hotkey != gone]
    for digest in DIGESTS:
        before, after = holders_of(digest, HOTKEYS), holders_of(digest, left)
        assert [h for h in before if h != gone] == after[: len([h for h in before if h != gone])]


SEED = bytes(32)
EQUAL = dict.fromkeys(HOTKEYS, 100)


def test_of_payloads_each_validator_of_equal_stake_has_a_fair_share() -> None:
    held = Counter(h for d in DIGESTS for h in payload_line(SEED, d, EQUAL)[:HOLDERS])
    fair = HOLDERS * len(DIGESTS) / len(HOTKEYS)
    assert set(held) == set(HOTKEYS)
    assert all(0.6 * fair < held[hotkey] < 1.4 * fair for hotkey in HOTKEYS)
    holding = Holding(seed=SEED, stakes=EQUAL)
    assert {h: len(holding.held_by(h, DIGESTS)) for h in HOTKEYS} == held


def test_a_line_is_of_everybody_once_whatever_their_order() -> None:
    turned = dict.fromkeys(HOTKEYS[::-1], 100)
    for digest in DIGESTS[:16]:
        line = payload_line(SEED, digest, EQUAL)
        assert sorted(line) == sorted(HOTKEYS)
        assert line == payload_line(SEED, digest, turned)
    assert payload_line(SEED, DIGESTS[0], {}) == []


def test_with_three_validators_or_fewer_everybody_holds_everything() -> None:
    for count in range(HOLDERS + 1):
        stakes = {hotkey: 10**number for number, hotkey in enumerate(HOTKEYS[:count])}
        holding = Holding(seed=SEED, stakes=stakes)
        for hotkey in stakes:
            assert holding.held_by(hotkey, DIGESTS) == set(DIGESTS)


def test_the_next_block_draws_other_holders() -> None:
    """A miner that knows its digest and no block hash cannot choose who holds its payload."""
    wanted = set(HOTKEYS[:HOLDERS])
    found = [
        digest for digest in DIGESTS if set(payload_line(SEED, digest, EQUAL)[:HOLDERS]) == wanted
    ]
    assert found, "a search finds one for a seed known beforehand"
    again = [d for d in found if set(payload_line(b"hash", d, EQUAL)[:HOLDERS]) == wanted]
    assert len(again) < len(found)


def test_any_number_of_hotkeys_without_stake_holds_nothing() -> None:
    dust = {f"5dust{number}": 1 for number in range(50)}
    stakes = {**dict.fromkeys(HOTKEYS, 1000), **dust}
    assert core_of(stakes) == set(HOTKEYS)
    for digest in DIGESTS:
        line = payload_line(SEED, digest, stakes)
        assert set(line[: len(HOTKEYS)]) == set(HOTKEYS)


@pytest.mark.parametrize(
    ("stakes", "size"),
    [
        ([], 0),
        ([5], 1),
        ([0, 0, 0, 0], 4),
        ([970, 10, 10, 5, 5], 3),
        ([40, 20, 10, 10, 10, 5, 5], 5),
        ([40, 20, 10, 10, 9, 6, 5], 6),
        ([1] * 20, 20),
        ([2**64, 2**64, 2**64, 1], 3),
    ],
)
def test_the_core_has_nine_tenths_of_the_stake_and_three_at_least(stakes, size) -> None:
    named = {f"5v{number}": stake for number, stake in enumerate(stakes)}
    core = core_of(named)
    assert len(core) == size
    assert 10 * sum(named[h] for h in core) >= 9 * sum(stakes)


def test_turns_double_behind_the_holders() -> None:
    turns = [turn_of(place) for place in range(HOLDERS, 64)]
    assert turns[:7] == [0, 1, 1, 2, 2, 2, 2]
    assert turns == sorted(turns)
    assert max(turns) == 5
    with pytest.raises(ValueError, match="is a holder's"):
        turn_of(HOLDERS - 1)
