"""Setting weights on chain: once per pay period, from the validator's memory.

All validators set the weights of the same windows: a validator whose weights differ from those of
the others loses dividends. `weight_timing` says when; the SDK sends a row in the clear, or sealed
to a pulse of the drand beacon on a subnet with commit-reveal.
"""

import logging
from collections.abc import Mapping

from template.base.memory import ValidatorMemory
from template.base.policy import ValidatorPolicy
from template.base.standing import unregistered_owner
from template.base.weight_timing import Choice, choose, look_every_blocks
from template.chain import Neuron, WeightTimes
from template.context import NodeContext
from template.errors import ChainError
from template.scoring.rules import pay_rules

log = logging.getLogger(__name__)


class WeightSetter:
    """Sets a validator's weights once per pay period, which is no shorter than a tempo.

    Sets the same weights again where they would age out before the next pay period. Without `is_on`
    it sets none.
    """

    def __init__(
        self, context: NodeContext, policy: ValidatorPolicy, *, is_on: bool = True
    ) -> None:
        self._context = context
        self._policy = policy
        self._is_on = is_on
        self._set_window: int | None = None
        self._set_block = 0
        self._is_unknown_told = False

    def until_finalized(self, block: int, what: str, window: int, memory: ValidatorMemory) -> None:
        """Return once `block` is finalised; `set_if_due` meanwhile, where windows are long.

        `what`: the wait's words, as for the waiter.
        """
        waiter = self._context.waiter
        for look in self._looks_before(block):
            waiter.until_head(look, what, by_block=block)
            self.set_if_due(window, memory)
        waiter.until_finalized(block, what)

    def set_if_due(self, window: int, memory: ValidatorMemory) -> None:
        """Set the weights of the newest pay window up to `window`: new ones, or ageing ones again.

        A refusal is logged, and the next look tries again.
        """
        pay_window = self._context.run.at(window).schedule.pay_window(window)
        if pay_window < 0 or not self._is_on:
            return
        if self._set_window is not None:
            # A run that goes on at its planned end had paid for its last window out of turn.
            pay_window = max(pay_window, self._set_window)
        chain = self._context.chain
        graph = chain.metagraph(chain.finalized())
        me = graph.by_hotkey(self._context.hotkey)
        if me is None or not me.validator_permit:
            return
        known_block = self._context.schedule.held_out_block(pay_window)
        if self._set_window is None and me.last_update >= known_block:
            # Set before a restart: nobody can score the pay window before this block.
            self._set_window = pay_window
        is_new = pay_window != self._set_window
        if is_new and window > memory.last_voted:
            return
        if not self._is_time(window, me, is_new=is_new):
            return
        if not self._policy.may_set_weights(memory, pay_window):
            log.info(
                "window %d: no weights set: scored %d of the %d windows needed",
                window,
                memory.num_scored(pay_window),
                memory.num_needed(pay_window),
            )
            return
        if graph.owner_uid is None:
            log.warning(
                "window %d: no weights set, the last ones stand: %s",
                window,
                unregistered_owner(graph),
            )
            return
        rules = pay_rules(self._context.run.at(pay_window))
        shares = self._policy.weights(graph, memory.under(rules), pay_window)
        self._set(window, pay_window, shares)

    def _set(self, window: int, pay_window: int, shares: Mapping[int, float]) -> None:
        """Put the shares (uid -> share) of the pay window on chain; a refusal is logged."""
        try:
            self._context.chain.set_weights(shares)
        except ChainError as error:
            log.warning(
                "window %d: the chain refused the weights (%s); retrying in the next window",
                window,
                f"{error.name}: {error}" if error.name else error,
            )
            return
        self._set_block = self._context.chain.head()
        again = " again, before they age out" if pay_window == self._set_window else ""
        self._set_window = pay_window
        weights = {f"weight/{uid}": share for uid, share in shares.items()}
        self._context.metrics.log(window, weights)
        rounded = {uid: round(share, 4) for uid, share in shares.items()}
        log.info(
            "window %d: set the weights of window %d%s: %s", window, pay_window, again, rounded
        )

    def _is_time(self, window: int, me: Neuron, *, is_new: bool) -> bool:
        """Whether to set weights now, by the times that the chain names."""
        times, block = self._read_times(), self._context.chain.head()
        # Final blocks may not show yet what this process set a moment ago.
        last_update = max(me.last_update, self._set_block)
        if times is None:
            return is_new
        choice = choose(
            times,
            block=block,
            last_update=last_update,
            is_new=is_new,
            every_blocks=look_every_blocks(times, self._blocks_per_window),
        )
        if choice is Choice.WAIT:
            log.info(
                "window %d: weights wait: the chain takes a row from block %d on, %d blocks after "
                "the last one (weights_rate_limit)",
                window,
                last_update + times.rate_limit_blocks,
                times.rate_limit_blocks,
            )
        return choice in (Choice.NEW, Choice.AGAIN)

    def _looks_before(self, block: int) -> range:
        """Blocks at which to look before `block`; none where a look in each window is enough."""
        times = self._read_times() if self._is_on else None
        if times is None:
            return range(0)
        every_blocks = look_every_blocks(times, self._blocks_per_window)
        if every_blocks == self._blocks_per_window:
            return range(0)
        return range(self._context.chain.head() + every_blocks, block, every_blocks)

    @property
    def _blocks_per_window(self) -> int:
        return self._context.schedule.blocks_of(self._set_window or 0)

    def _read_times(self) -> WeightTimes | None:
        """The subnet's times now; None, told once, where the chain does not name them."""
        chain = self._context.chain
        try:
            return chain.weight_times(chain.finalized())
        except ChainError as error:
            if not self._is_unknown_told:
                self._is_unknown_told = True
                log.warning(
                    "weights are set once in a pay period and never again in between, because the "
                    "chain does not say when they age out: %s",
                    error,
                )
            return None
