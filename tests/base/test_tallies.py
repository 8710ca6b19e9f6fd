"""A scored window in numbers: every payload counts once, under its outcome."""

import math

from evaluation.conclusion import Reputation
from evaluation.evidence import Evidence
from evaluation.rating import Rating
from evaluation.verdict import NAMED, Verdict
from template.base.tallies import tallies


def verdict(uid: int, status: str, gain: float | None = None) -> Verdict:
    return Verdict(window=3, uid=uid, hotkey=f"h{uid}", digest="ab", status=status, gain=gain)


VERDICTS = [
    verdict(1, NAMED, 0.5),
    verdict(2, "no_gain", -0.25),
    verdict(3, "no_gain", -math.inf),
    verdict(4, "not_delivered"),
    verdict(5, NAMED, 0.25),
]


def test_counts_refusals_gains_and_scores() -> None:
    rating = Rating(mu=30.0, sigma=2.0)
    found = tallies(VERDICTS, {"h1": Reputation(evidence=Evidence(), rating=rating)})
    assert found == {
        "payloads": 5,
        "named": 2,
        "refused/no_gain": 2,
        "refused/not_delivered": 1,
        "gain_mean": (0.5 - 0.25 + 0.25) / 3,
        "gain/1": 0.5,
        "gain/2": -0.25,
        "gain/5": 0.25,
        "score/1": 24.0,
    }


def test_a_window_without_payloads() -> None:
    assert tallies([], {}) == {"payloads": 0, "named": 0}
