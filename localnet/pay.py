"""The pay of hotkeys in a run, and the ratio to the pay of honest hotkeys."""

from collections.abc import Mapping, Sequence

from template.chain import Chain
from template.protocol.spec import ScheduleSpec

LATE_TEMPOS = 2
"""Validators set weights once a tempo, and an epoch pays at the end of the next tempo: for two
tempos after the vote on a window, an epoch may pay for weights from before the vote. Commit-reveal
adds its reveal period."""


class Pay:
    """Alpha gained up to the last finalised block, read from the chain alone.

    `initial_alpha_rao`: hotkey -> alpha staked before the first window. `late_tempos`: tempos
    after the vote on a window in which an epoch may not know the vote.
    """

    def __init__(
        self,
        chain: Chain,
        schedule: ScheduleSpec,
        initial_alpha_rao: Mapping[str, int],
        late_tempos: int = LATE_TEMPOS,
    ) -> None:
        self._late_tempos = late_tempos
        self._chain, self._schedule = chain, schedule
        self._initial_rao = initial_alpha_rao
        self._last_block = chain.finalized()
        self._now_rao = self._alpha_rao(self._last_block)

    def gained_rao(self, hotkey: str, first_window: int = 0) -> int:
        """Gain by the epochs with knowledge of `first_window`; by all epochs for window 0.

        A deregistered hotkey has gained 0.
        """
        if hotkey not in self._now_rao:
            return 0
        return self._now_rao[hotkey] - self._before(first_window).get(hotkey, 0)

    def against(
        self, hotkey: str, others: Sequence[str], first_window: int, *, by_stake: bool
    ) -> float | None:
        """The hotkey's gain over the mean gain of `others`, or with `by_stake` over the gain of
        `others` for equal stake; None if `others` gained 0 or a stake is 0.
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
        """Alpha before the first epoch with knowledge of the window; else alpha now."""
        if window == 0:
            return self._initial_rao
        schedule = self._schedule
        block = schedule.schedule().vote_block(window) + self._late_tempos * schedule.tempo_blocks
        return self._now_rao if block >= self._last_block else self._alpha_rao(block)

    def _alpha_rao(self, block: int) -> dict[str, int]:
        neurons = self._chain.metagraph(block).neurons
        return {neuron.hotkey: neuron.alpha_stake_rao for neuron in neurons}
