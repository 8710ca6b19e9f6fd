"""Setting weights on chain: once per pay period, from the validator's memory.

All validators set the weights of the same windows: a validator whose weights differ from those of
the others loses dividends.
"""

import logging

from template.base.memory import ValidatorMemory
from template.base.policy import ValidatorPolicy
from template.base.standing import unregistered_owner
from template.context import NodeContext
from template.errors import ChainError
from template.scoring.rules import pay_rules

log = logging.getLogger(__name__)


class WeightSetter:
    """Sets a validator's weights once per pay period, which is no shorter than a tempo."""

    def __init__(self, context: NodeContext, policy: ValidatorPolicy) -> None:
        self._context = context
        self._policy = policy
        self._set_window: int | None = None

    def set_if_due(self, window: int, memory: ValidatorMemory) -> None:
        """Set the weights of the newest pay window up to `window`, unless they are set.

        A refusal is logged, and the next window tries again.
        """
        pay_window = self._context.run.at(window).schedule.pay_window(window)
        if pay_window < 0 or pay_window == self._set_window:
            return
        chain = self._context.chain
        graph = chain.metagraph(chain.finalized())
        me = graph.by_hotkey(self._context.hotkey)
        if me is None or not me.validator_permit or window > memory.last_voted:
            return
        if not self._policy.may_set_weights(memory, pay_window):
            log.info(
                "window %d: no weights set: scored %d of the %d windows needed",
                window,
                memory.num_scored(pay_window),
                memory.num_needed(pay_window),
            )
            return
        known_block = self._context.schedule.held_out_block(pay_window)
        if self._set_window is None and me.last_update >= known_block:
            # Set before a restart: nobody can score the pay window before this block.
            self._set_window = pay_window
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
        try:
            chain.set_weights(shares)
        except ChainError as error:
            log.warning(
                "window %d: the chain refused the weights (%s); retrying in the next window",
                window,
                f"{error.name}: {error}" if error.name else error,
            )
            return
        self._set_window = pay_window
        weights = {f"weight/{uid}": share for uid, share in shares.items()}
        self._context.metrics.log(window, weights)
        rounded = {uid: round(share, 4) for uid, share in shares.items()}
        log.info("window %d: set the weights of window %d: %s", window, pay_window, rounded)
