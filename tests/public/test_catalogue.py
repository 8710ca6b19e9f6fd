"""Every misbehaviour of the catalogue, played, and the cause that its payslips name.

What a world of random words can show is shown here. The work test, and with it miners who claim
more than they train, needs pages with something of their own to learn: those rows say so, and
`test_pay_causes` has them by figures.
"""

import pytest

from localnet.adversaries.catalogue import BEHAVIOURS
from tests.support.public import WINDOWS, play

NO_FRAME = {"length", "magic", "version", "scale", "indices", "codes", "too_large", "digest"}
COPIES = {"overlap"}
USELESS = {"no_gain", "no_work", "overlap"}
HONEST = {"accepted", "no_gain", "not_author"}
"""Of honest work in a run of a few windows from random parameters."""

MINERS: dict[str, tuple[set[str], set[str]]] = {
    # name: (a cause that some window has, causes that every window has one of)
    "garbage": ({"no_gain"}, USELESS | HONEST),
    "malformed": (NO_FRAME, NO_FRAME | {"base"}),
    "oversized": ({"too_large"}, {"too_large"}),
    "idle": ({"not_committed"}, {"not_committed"}),
    "zero": ({"no_gain"}, {"no_gain", "not_author"}),
    "flipped": ({"no_gain"}, {"no_gain", "not_author"}),
    "magnified": ({"accepted"}, HONEST),
    "magnified-1000": ({"accepted"}, HONEST),
    "hijacker": ({"no_gain", "overlap"}, USELESS | HONEST),
    "inner-product": ({"no_gain", "overlap"}, USELESS | HONEST),
    "little-enough": ({"no_gain", "overlap"}, USELESS | HONEST),
    "loner": ({"no_gain"}, USELESS | HONEST),
    "copier": (COPIES, COPIES | HONEST),
    "noisy-copier": (COPIES, COPIES | HONEST),
    "partial-copier": ({"no_gain", "overlap"}, USELESS | HONEST),
    "averager": (COPIES, COPIES | HONEST),
    "replayer": (COPIES, COPIES | HONEST),
    "repeater": ({"overlap", "not_author", "no_gain"}, USELESS | HONEST),
    "momentum-rider": ({"overlap", "no_gain"}, USELESS | HONEST),
    "sleeper": ({"accepted"}, USELESS | HONEST),
    "undelivered": ({"not_delivered"}, {"not_delivered"}),
    "one-reader": ({"accepted", "not_delivered"}, HONEST | {"not_delivered", "too_few_votes"}),
    "good-draws": ({"not_delivered"}, HONEST | {"not_delivered"}),
    "good-commits": (HONEST, HONEST | {"not_committed"}),
    "fewer-steps": (HONEST, HONEST),
    "overclaimer": (HONEST, HONEST),
    "overfitter": (HONEST, HONEST),
    "stale": (HONEST, HONEST | {"stale", "claimed"}),
    "poisoner": (HONEST, HONEST),
    "split": (HONEST, HONEST),
    "small-batches": (HONEST | {"not_committed"}, HONEST | {"not_committed"}),
    "bitflip": (HONEST, HONEST | {"not_committed"}),
}
VALIDATORS = {
    "liar": {"missing_alone"},
    "weight-copier": {"no_vote", "no_log"},
    "absent-namer": {"names_alone"},
    "false-root": {"other_root"},
    "false-sample": {"other_sample"},
    "silent": {"no_vote"},
    "pace-up": {"pace_alone"},
}
GROUPS = (
    ("garbage", "zero", "flipped", "magnified", "magnified-1000", "loner"),
    ("hijacker", "inner-product", "little-enough", "averager", "noisy-copier", "partial-copier"),
    ("replayer", "repeater", "momentum-rider", "sleeper", "stale", "copier"),
    ("one-reader", "good-draws", "good-commits", "undelivered", "malformed", "oversized", "idle"),
    ("fewer-steps", "overclaimer", "small-batches", "overfitter", "poisoner", "split", "bitflip"),
    tuple(VALIDATORS),
)


def test_every_misbehaviour_of_the_catalogue_has_a_row() -> None:
    assert MINERS.keys() | VALIDATORS.keys() == BEHAVIOURS.keys()
    assert sorted(name for group in GROUPS for name in group) == sorted(BEHAVIOURS)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group[0])
def test_the_cause_is_the_true_one(group, tmp_path) -> None:
    played = play(group, tmp_path)
    facts = played.gatherer().read(0)
    for name in group:
        slips = played.slips(facts, name)
        if name in VALIDATORS:
            found = set().union(*(slip.causes for slip in slips.values()))
            assert found >= VALIDATORS[name], (name, found)
            continue
        some, every = MINERS[name]
        causes = [slips[window].cause for window in range(WINDOWS)]
        assert set(causes) & some, (name, causes)
        assert set(causes) <= every, (name, causes)
