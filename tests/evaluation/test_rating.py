"""Ratings: better gains rate higher, draws are equal, nothing else moves."""

import itertools

import pytest

from evaluation.rating import Rating, update_ratings


def test_better_gains_rate_higher() -> None:
    after = update_ratings({}, {"b": 0.5, "a": 2.0, "c": -1.0})
    assert after["a"].mu > after["b"].mu > after["c"].mu
    assert after["a"].mu > Rating().mu > after["c"].mu
    assert all(rating.sigma < Rating().sigma for rating in after.values())
    assert after["a"].ordinal == after["a"].mu - 3 * after["a"].sigma


def test_only_the_order_counts() -> None:
    assert update_ratings({}, {"a": 2.0, "b": 1.0}) == update_ratings({}, {"a": 900.0, "b": -7.0})


def test_equal_gains_are_a_draw() -> None:
    after = update_ratings({}, {"a": 1.0, "b": 1.0, "c": 0.0})
    assert after["a"].mu == pytest.approx(after["b"].mu)
    assert after["a"].sigma == pytest.approx(after["b"].sigma)
    assert after["a"].mu > after["c"].mu
    drawn = update_ratings({}, {"a": 1.0, "b": 1.0})
    assert drawn["a"].mu == pytest.approx(Rating().mu)


def test_order_of_the_mapping_does_not_matter() -> None:
    gains = {"a": 0.3, "b": 0.1, "c": 0.3, "d": 0.2}
    results = [update_ratings({}, dict(order)) for order in itertools.permutations(gains.items())]
    assert all(result == results[0] for result in results)


def test_those_who_took_no_part_keep_their_rating() -> None:
    before = {"away": Rating(mu=31.0, sigma=4.0), "a": Rating(mu=20.0, sigma=5.0)}
    after = update_ratings(before, {"a": 1.0, "new": 0.5})
    assert after["away"] == before["away"]
    assert after["a"].mu > 20.0
    assert after["new"].mu < Rating().mu
    assert after.keys() == {"away", "a", "new"}


@pytest.mark.parametrize("gains", [{}, {"a": 1.0}, {"new": 1.0}])
def test_fewer_than_two_change_nothing(gains: dict[str, float]) -> None:
    before = {"a": Rating(mu=20.0, sigma=5.0)}
    after = update_ratings(before, gains)
    assert after == before
    assert after is not before


def test_the_input_is_left_alone_and_the_result_repeats() -> None:
    before = {"a": Rating(mu=20.0, sigma=5.0), "b": Rating()}
    copy = dict(before)
    gains = {"a": 1.0, "b": 0.0}
    assert update_ratings(before, gains) == update_ratings(before, gains)
    assert before == copy
    assert gains == {"a": 1.0, "b": 0.0}


def test_ratings_find_the_order_of_skills() -> None:
    """Ten windows with noise-free gains: ordinals in the order of skill."""
    skills = {f"miner-{i}": float(i) for i in range(8)}
    ratings: dict[str, Rating] = {}
    for _ in range(10):
        ratings = update_ratings(ratings, skills)
    assert sorted(ratings, key=lambda hotkey: ratings[hotkey].ordinal) == list(skills)
