"""A hotkey's registration, permit and commitments on chain.

Owns the messages to the operator about a missing registration, a missing validator permit, and a
used-up quota of commitments.
"""

import logging
from typing import Final

from template.chain import Metagraph, Neuron
from template.chain.commands import Commands
from template.context import NodeContext
from template.errors import ChainError, ConfigError
from template.protocol.record import Record, encode_record

log = logging.getLogger(__name__)

QUOTA_ERROR: Final = "SpaceLimitExceeded"
RAO_PER_TAO: Final = 10**9


class Standing:
    """This hotkey's place in the metagraph, watched window after window."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._has_permit: bool | None = None

    def demand_registration(self) -> Neuron:
        """This hotkey's current row; ConfigError if the hotkey is not registered."""
        context = self._context
        graph = context.chain.metagraph(context.chain.finalized())
        return registered(graph, context.hotkey, context.commands)

    def watch_permit(self) -> None:
        """Log a missing or changed validator permit, at the start and at each change."""
        me = self.demand_registration()
        before, self._has_permit = self._has_permit, me.validator_permit
        if me.validator_permit:
            if before is False:
                log.info("this validator has a permit now: its votes and weights count")
        elif before is not False:
            log.warning(
                "this validator has no permit on --netuid %d: its votes and weights do not count; "
                "its stake is %.3f TAO, and permits go to those with the most, anew at each epoch; "
                "if the next one gives it none, add some with %s",
                self._context.commands.netuid,
                me.total_stake_rao / RAO_PER_TAO,
                self._context.commands.stake,
            )


def registered(graph: Metagraph, hotkey: str, commands: Commands) -> Neuron:
    """The hotkey's row of the metagraph; ConfigError names the registration command."""
    row = graph.by_hotkey(hotkey)
    if row is None:
        raise ConfigError(
            f"--wallet.hotkey: {hotkey} is not registered on --netuid {commands.netuid} as of "
            f"block {graph.block}; register it with {commands.register}"
        )
    return row


def publish(context: NodeContext, record: Record) -> bool:
    """Put this hotkey's record on chain; False, and a warning, if the quota is used up."""
    try:
        context.chain.publish(encode_record(record))
    except ChainError as error:
        if error.name != QUOTA_ERROR:
            raise
        log.warning(
            "not committed: the chain's quota of commitments of --wallet.hotkey %s is used up for "
            "this epoch (%s). It is free again with the next; until then start this node less "
            "often, and let nothing else commit with this hotkey",
            context.hotkey,
            QUOTA_ERROR,
        )
        return False
    return True


def publish_if_new(context: NodeContext, record: Record) -> None:
    """Put the record on chain, unless an equal record is there: restarts save quota."""
    chain = context.chain
    if chain.commitments(chain.head()).get(context.hotkey) != encode_record(record):
        publish(context, record)
