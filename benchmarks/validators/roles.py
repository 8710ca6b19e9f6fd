"""What the watched validator knows and sets: honest, out of step, copying, constant, lazy.

With commit-reveal of a period of n epochs a reader of the chain sees rows n epochs late. In the
clear it sees the rows of the open epoch, and sets its own last.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.validators.chain import Watched
from benchmarks.validators.crowd import (
    WINDOWS_PER_EPOCH,
    Crowd,
    Flags,
    Floats,
    Rule,
    guessed_weights,
    last_window,
    weights,
)

AVERAGED_EPOCHS: Final = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What is there to know: the crowd, the rule, and an honest validator's weights by epoch."""

    crowd: Crowd
    rule: Rule
    honest: list[Floats]

    def known(self, newest: int) -> Flags:
        """The windows up to `newest`."""
        return np.arange(self.crowd.num_windows) <= newest

    @property
    def alike(self) -> Floats:
        return np.full(self.crowd.num_miners, 1.0 / self.crowd.num_miners)


Role = Callable[[Scene], Watched]


def honest_rows(crowd: Crowd, rule: Rule) -> list[Floats]:
    """Weights of an honest validator by epoch."""
    everything_W = np.ones(crowd.num_windows, dtype=np.bool_)
    return [weights(crowd, rule, last_window(e), everything_W) for e in range(crowd.num_epochs)]


def honest(scene: Scene) -> Watched:
    rows = honest_rows(scene.crowd.measured_by(0), scene.rule)
    return lambda epoch, _seen: rows[epoch]


def out_of_step(num_windows: int) -> Role:
    """Honest, and sets its weights so many windows before the last one of an epoch."""

    def role(scene: Scene) -> Watched:
        mine = scene.crowd.measured_by(0)

        def row(epoch: int, _seen: list[Floats]) -> Floats:
            newest = last_window(epoch) - num_windows
            return weights(mine, scene.rule, newest, scene.known(newest))

        return row

    return role


def copies_chain(lag: int) -> Role:
    """Sets what the chain settled on `lag` epochs ago; with lag 0 another's row of this epoch."""

    def role(scene: Scene) -> Watched:
        def row(epoch: int, seen: list[Floats]) -> Floats:
            if lag == 0:
                return scene.honest[epoch]
            return seen[epoch - lag] if epoch >= lag else scene.alike

        return row

    return role


def averages_chain(lag: int) -> Role:
    """Sets the mean of what the chain settled on in the epochs until `lag` epochs ago."""

    def role(scene: Scene) -> Watched:
        def row(epoch: int, seen: list[Floats]) -> Floats:
            past = seen[: max(0, epoch + 1 - lag)][-AVERAGED_EPOCHS:]
            mean_M: Floats = np.mean(past, axis=0) if past else scene.alike
            return mean_M

        return row

    return role


def copies_log(lag: int) -> Role:
    """Recomputes from another's logs, which it has up to the last window `lag` epochs ago; the
    mean of known windows stands for unknown ones.
    """

    def role(scene: Scene) -> Watched:
        theirs = scene.crowd.measured_by(1)

        def row(epoch: int, _seen: list[Floats]) -> Floats:
            known_W = scene.known(last_window(epoch - lag))
            return guessed_weights(theirs, scene.rule, last_window(epoch), known_W)

        return row

    return role


def constant(scene: Scene) -> Watched:
    """The same weight for every miner."""
    return lambda _epoch, _seen: scene.alike


def scores_a_quarter(scene: Scene) -> Watched:
    """Scores the last window of every epoch, and is honest otherwise."""
    mine = scene.crowd.measured_by(0)
    scored_W = np.arange(mine.num_windows) % WINDOWS_PER_EPOCH == WINDOWS_PER_EPOCH - 1
    return lambda epoch, _seen: weights(mine, scene.rule, last_window(epoch), scored_W)


ROLES: Final[dict[str, Role]] = {
    "honest": honest,
    "honest, 1 window early": out_of_step(1),
    "honest, 3 windows early": out_of_step(3),
    "chain, in the clear": copies_chain(0),
    "chain, 1 epoch late": copies_chain(1),
    "chain, 2 epochs late": copies_chain(2),
    "mean of the chain, 1 epoch late": averages_chain(1),
    "mean of the chain, 2 epochs late": averages_chain(2),
    "log at once": copies_log(0),
    "log at the next epoch": copies_log(1),
    "constant row": constant,
    "a quarter of the windows": scores_a_quarter,
}
