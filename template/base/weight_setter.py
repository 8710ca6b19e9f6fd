"""Setting weights on chain: once per tempo, from the validator's memory."""

import logging

from template.base.memory import ValidatorMemory
from template.base.policy import ValidatorPolicy
from template.base.standing import unregistered_owner
from template.context import NodeContext
from template.errors import ChainError

log = logging.getLogger(__name__)


class WeightSetter:
    """Sets a validator's weights once per tempo."""

    def __init__(self, context: NodeContext, policy: ValidatorPolicy) -> None:
        self._context = context
        self._policy = policy

    def set_if_due(self, window: int, memory: ValidatorMemory) -> None:
        """Set weights once per tempo. A refusal is logged, and the next window tries again."""
        chain = self._context.chain
        graph = chain.metagraph(chain.finalized())
        me = graph.by_hotkey(self._context.hotkey)
        if me is None or not me.validator_permit or window > memory.last_voted:
            return
        if not self._policy.may_set_weights(memory, window):
            log.info(
                "window %d: no weights set: scored %d of the %d windows needed",
                window,
                memory.num_scored(window),
                memory.num_needed(window),
            )
            return
        if chain.head() - me.last_update < graph.tempo_blocks:
            return
        if graph.owner_uid is None:
            log.warning(
                "window %d: no weights set, the last ones stand: %s",
                window,
                unregistered_owner(graph),
            )
            return
        shares = self._policy.weights(graph, memory, window)
        try:
            chain.set_weights(shares)
        except ChainError as error:
            log.warning(
                "window %d: the chain refused the weights (%s); retrying in the next window",
                window,
                f"{error.name}: {error}" if error.name else error,
            )
            return
        weights = {f"weight/{uid}": share for uid, share in shares.items()}
        self._context.metrics.log(window, weights)
        log.info("window %d: set weights %s", window, {u: round(s, 4) for u, s in shares.items()})
