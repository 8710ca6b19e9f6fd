"""Objects are spread evenly over holders, and few objects move when a holder comes or goes."""

from collections import Counter

from template.protocol.holders import HOLDERS, holders_of

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
