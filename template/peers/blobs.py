"""Bytes by SHA-256 from any bucket that has them: dataset, theta_0, parts of checkpoints.

Owns who is asked and in which order. The digest decides what is right, so that it matters for
speed alone who is asked first, and no bucket is needed that another can stand in for.
"""

from collections.abc import Iterator, Sequence

from template.context import ReadContext
from template.peers.client import Peers


def fetch_from_any(
    context: ReadContext,
    peers: Peers,
    digest: bytes,
    max_bytes: int,
    *,
    exact: bool = False,
    first: Sequence[str] = (),
) -> bytes:
    """Bytes of a SHA-256 from `first`, the spec's mirrors, or else any validator, most stake first.

    `exact`: they are `max_bytes` long, which each bucket is asked before it is read. Raises as
    `Peers.fetch_blob`, and ChainError where validators have to be looked up.
    """
    return peers.fetch_blob(_holders(context, peers, first), digest, max_bytes, exact=exact)


def _holders(context: ReadContext, peers: Peers, first: Sequence[str]) -> Iterator[str]:
    """Who may have a blob, each once. Those that were of no use when asked last come last: a bucket
    that drips costs a minute once, and not for every blob.
    """
    asked: set[str] = set()
    for hotkey in (*first, *context.spec.data.mirrors):
        if hotkey not in asked and not peers.is_troubled(hotkey):
            asked.add(hotkey)
            yield hotkey
    peers.refresh()
    everybody = dict.fromkeys((*first, *context.spec.data.mirrors, *validators_by_stake(context)))
    rest = [hotkey for hotkey in everybody if hotkey not in asked]
    yield from sorted(rest, key=peers.is_troubled)


def validators_by_stake(context: ReadContext) -> list[str]:
    """Hotkeys with a permit at the last final block, most stake first."""
    graph = context.chain.metagraph(context.chain.finalized())
    ordered = sorted(graph.neurons, key=lambda n: (-n.total_stake_rao, n.uid))
    return [neuron.hotkey for neuron in ordered if neuron.validator_permit]
