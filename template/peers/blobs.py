"""Bytes by SHA-256 from any bucket that has them: dataset, theta_0, parts of checkpoints.

Owns the order in which buckets are asked. The digest verifies the bytes, so the order matters for
speed alone, and any bucket can replace another.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from template.context import ReadContext
from template.errors import ChainError
from template.peers.client import Peers
from template.protocol.holders import payload_line

log = logging.getLogger(__name__)


def fetch_from_any(
    context: ReadContext,
    peers: Peers,
    digest: bytes,
    max_bytes: int,
    *,
    exact: bool = False,
    first: Sequence[str] = (),
) -> bytes:
    """Bytes with a SHA-256 from `first`, the spec's mirrors or a validator, most stake first.

    `exact`: the blob has `max_bytes` bytes; each bucket is asked for the length before the
    download. Raises as `Peers.fetch_blob`, and ChainError while looking up validators.
    """
    return peers.fetch_blob(_order_holders(context, peers, first), digest, max_bytes, exact=exact)


def fetch_into_from_any(
    context: ReadContext,
    peers: Peers,
    digest: bytes,
    num_bytes: int,
    path: Path,
    *,
    first: Sequence[str] = (),
) -> None:
    """As `fetch_from_any` with `exact`, into a file, as `Peers.fetch_blob_into`."""
    peers.fetch_blob_into(_order_holders(context, peers, first), digest, num_bytes, path)


def fetch_range_from_any(  # noqa: PLR0913  where, and what
    context: ReadContext,
    peers: Peers,
    key: str,
    start: int,
    length: int,
    is_right: Callable[[bytes], bool],
    *,
    first: Sequence[str] = (),
) -> bytes:
    """Right bytes [start, start + length) under a key, in the order of `fetch_from_any`."""
    holders = _order_holders(context, peers, first)
    return peers.fetch_range(holders, key, start, length, is_right)


def _order_holders(context: ReadContext, peers: Peers, first: Sequence[str]) -> Iterator[str]:
    """Hotkeys whose bucket may have a blob, each once; troubled buckets last.

    A slow bucket costs a minute once instead of a minute for every blob.
    """
    asked: set[str] = set()
    mirrors = [hotkey for spec in reversed(context.run.specs) for hotkey in spec.data.mirrors]
    for hotkey in (*first, *mirrors):
        if hotkey not in asked and not peers.is_troubled(hotkey):
            asked.add(hotkey)
            yield hotkey
    peers.refresh()
    candidates = dict.fromkeys((*first, *mirrors, *validators_by_stake(context)))
    rest = [hotkey for hotkey in candidates if hotkey not in asked]
    yield from sorted(rest, key=peers.is_troubled)


def validators_by_stake(context: ReadContext) -> list[str]:
    """Hotkeys with a permit at the last final block, most stake first."""
    graph = context.chain.metagraph(context.chain.finalized())
    ordered = sorted(graph.neurons, key=lambda n: (-n.total_stake_rao, n.uid))
    return [neuron.hotkey for neuron in ordered if neuron.validator_permit]


def validators_for_payloads(context: ReadContext, window: int) -> Callable[[bytes], list[str]]:
    """Digest of a payload of `window` -> the validators of today, the holders of then first.

    By stake where the chain endpoint does not tell the window's stake block any more.
    """
    graph = context.chain.metagraph(context.chain.finalized())
    stakes = {n.hotkey: n.total_stake_rao for n in graph.neurons if n.validator_permit}
    try:
        seed = context.chain.block_hash(context.schedule.stake_block(window))
    except ChainError as error:
        log.debug("window %d: validators are asked for payloads by stake: %s", window, error)
        by_stake = sorted(stakes, key=lambda hotkey: (-stakes[hotkey], hotkey))
        return lambda _digest: by_stake
    return lambda digest: payload_line(seed, digest, stakes)
