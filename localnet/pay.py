"""What hotkeys were paid in a run, and how much that is against what honest ones were."""

from collections.abc import Mapping, Sequence

from template.chain import Chain
from template.protocol.spec import ScheduleSpec

LATE_TEMPOS = 2
"""Weights are set once a tempo and paid at the end of the next: so long after the vote on a
window an epoch may still pay for what was known before it."""


class Pay:
    """Alpha gained up to the last finalised block, from reads of the chain alone.

    `initial_alpha_rao`: hotkey -> alpha staked to it before the first window.
    """

    def __init__(
        self, chain: Chain, schedule: ScheduleSpec, initial_alpha_rao: Mapping[str, int]
    ) -> None:
        self._chain, self._schedule = chain, schedule
        self._initial_rao = initial_alpha_rao
        self._last_block = chain.finalized()
        self._now_rao = self._alpha_rao(self._last_block)

    def gained_rao(self, hotkey: str, first_window: int = 0) -> int:
        """By the epochs that know of a window: all of them for window 0. A hotkey that is not
        registered has gained nothing.
        """
        if hotkey not in self._now_rao:
            return 0
        return self._now_rao[hotkey] - self._before(first_window).get(hotkey, 0)

    def against(
        self, hotkey: str, others: Sequence[str], first_window: int, *, by_stake: bool
    ) -> float | None:
        """What it gained over the mean of what the others did, or over the mean for as much
        stake; None if they gained nothing.
        """
        theirs_rao = sum(self.gained_rao(other, first_window) for other in others)
        if theirs_rao <= 0:
            return None
        share = 1.0 / len(others)
        if by_stake:
            stakes_rao = sum(self._initial_rao.get(other, 0) for other in others)
            share = self._initial_rao.get(hotkey, 0) / stakes_rao if stakes_rao else 0.0
        return self.gained_rao(hotkey, first_window) / (theirs_rao * share) if share else None

    def _before(self, window: int) -> Mapping[str, int]:
        """Alpha before the first epoch that knows of a window; that of now if none has yet."""
        if window == 0:
            return self._initial_rao
        schedule = self._schedule
        block = schedule.schedule().vote_block(window) + LATE_TEMPOS * schedule.tempo_blocks
        return self._now_rao if block >= self._last_block else self._alpha_rao(block)

    def _alpha_rao(self, block: int) -> dict[str, int]:
        neurons = self._chain.metagraph(block).neurons
        return {neuron.hotkey: neuron.alpha_stake_rao for neuron in neurons}
