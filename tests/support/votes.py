"""Chains on which votes change on their way: lost votes of sleepers, and lies."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from simulation.world import World
from template.context import NodeContext
from template.protocol.record import Record, Vote, decode_record, encode_record

Change = Callable[[Vote], Vote | None]
"""A vote as it gets on chain; None for a vote that does not."""


class ChangedVotes:
    """A node's chain. `sent` changes the node's own votes, `seen` the votes of all others."""

    def __init__(
        self, chain: Any, hotkey: str, sent: Change | None = None, seen: Change | None = None
    ) -> None:
        self._chain, self._hotkey, self._sent, self._seen = chain, hotkey, sent, seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)

    def publish(self, record: bytes) -> None:
        self._chain.publish(_changed(record, self._sent))

    def commitments(self, block: int) -> Mapping[str, bytes]:
        return {
            hotkey: data if hotkey == self._hotkey else _changed(data, self._seen)
            for hotkey, data in self._chain.commitments(block).items()
        }


def _changed(data: bytes, change: Change | None) -> bytes:
    record = decode_record(data)
    if change is None or record.vote is None:
        return data
    changed = Record.of(record.run, access=record.access, vote=change(record.vote))
    return encode_record(changed)


def with_votes(context: NodeContext, **changes: Change) -> NodeContext:
    """The context of a node whose votes, or whose sight of votes, are changed."""
    return replace(context, chain=ChangedVotes(context.chain, context.hotkey, **changes))


def asleep_in(*windows: int) -> Change:
    """The votes on these windows do not get on chain."""
    return lambda vote: None if vote.window in windows else vote


def lying_in(world: World, *windows: int, **lie: Any) -> Change:
    """In these windows the vote has other fields, and names every uid."""
    uids = frozenset(neuron.uid for neuron in world.ledger.neurons)
    return lambda vote: (
        replace(vote, uids=uids, missing=frozenset(), **lie) if vote.window in windows else vote
    )
