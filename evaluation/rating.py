"""A Plackett-Luce rating per hotkey, from the order of gains in each window.

An ordinal rating never sets an amount of pay: ratings order miners for the vote and for display.
Source: Weng and Lin (JMLR 2011), in the implementation of the `openskill` package.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from openskill.models import PlackettLuce

from evaluation.history import Histories

_MODEL = PlackettLuce()


@dataclass(frozen=True, kw_only=True, slots=True)
class Rating:
    """Belief about a hotkey's skill: mean and standard deviation."""

    mu: float = _MODEL.mu
    sigma: float = _MODEL.sigma

    @property
    def ordinal(self) -> float:
        """A conservative skill: mu - 3 sigma."""
        return self.mu - 3 * self.sigma


def update_ratings(ratings: Mapping[str, Rating], gains: Mapping[str, float]) -> dict[str, Rating]:
    """New ratings after a window. `gains`: hotkey -> relative gain; equal gains are a draw.

    Absent hotkeys keep the old rating. Pure; fewer than two gains change nothing.
    """
    after = dict(ratings)
    if len(gains) < 2:
        return after
    hotkeys = sorted(gains)
    teams = [[_load(after.get(hotkey, Rating()))] for hotkey in hotkeys]
    rated = _MODEL.rate(teams, ranks=_ranks([gains[hotkey] for hotkey in hotkeys]))
    for hotkey, (new,) in zip(hotkeys, rated, strict=True):
        after[hotkey] = Rating(mu=new.mu, sigma=new.sigma)
    return after


def ratings_of(histories: Histories, first_window: int) -> dict[str, Rating]:
    """Ratings after the windows from `first_window` on, starting without ratings."""
    windows = sorted({w for history in histories.values() for w in history if w >= first_window})
    ratings: dict[str, Rating] = {}
    for window in windows:
        entries = {h: history[window] for h, history in histories.items() if window in history}
        gains = {h: e.relative_gain for h, e in entries.items() if e.relative_gain is not None}
        ratings = update_ratings(ratings, gains)
    return ratings


def _ranks(gains: list[float]) -> list[float]:
    order = sorted(set(gains), reverse=True)
    return [float(order.index(gain)) for gain in gains]


def _load(rating: Rating):  # type: ignore[no-untyped-def]  # openskill's class is private
    return _MODEL.rating(mu=rating.mu, sigma=rating.sigma)
