"""Committed weights before the reveal: two queues and the deadlines.

Owns `TimelockedWeightCommits` (per subnet and epoch) and `WeightCommits` (per subnet and
hotkey). The calls are in `commit_reveal.py`. Source: subtensor, subnets/weights.rs and
epoch/run_epoch/epoch_mechanism.rs.
"""

from dataclasses import dataclass
from typing import Any

import bittensor_core

from localnet.chain import schedule
from localnet.chain.blocks import blake2_256, hex_of
from localnet.chain.metadata import bytes_of
from localnet.chain.state import State

MAX_UNREVEALED = 10
# No pulse has this number, so no real commit opens by it.
MODELLED_ROUND = 0
_PALLET = "SubtensorModule"
_TIMELOCKED = "TimelockedWeightCommits"
_HASHES = "WeightCommits"
# Hotkey, uids, weights, version key: what a client encrypts.
_PAYLOAD = "(Vec<u8>,Vec<u16>,Vec<u16>,u64)"


@dataclass(frozen=True, kw_only=True, slots=True)
class TimelockedCommit:
    """A committed row; ``data` is encrypted to a round, in the clear if modelled."""

    hotkey: str
    block: int
    data: bytes
    round_number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class HashCommit:
    """The hash of a row and its salt, committed in an epoch and block."""

    hash: str
    epoch: int
    block: int


def is_open(state: State, netuid: int, commit_epoch: int) -> bool:
    """Whether the current epoch reveals the commits of `commit_epoch`."""
    return schedule.current_epoch(state, netuid) == commit_epoch + _period(state, netuid)


def is_expired(state: State, netuid: int, commit_epoch: int) -> bool:
    return schedule.current_epoch(state, netuid) > commit_epoch + _period(state, netuid)


def add_timelocked(
    state: State, netuid: int, *, hotkey: str, data: bytes, round_number: int
) -> None:
    """Queue a row for an epoch; raises TooManyUnrevealedCommits at a hotkey's eleventh row."""
    epoch = schedule.current_epoch(state, netuid)
    queue = timelocked(state, netuid, epoch)
    if sum(commit.hotkey == hotkey for commit in queue) >= MAX_UNREVEALED:
        raise state.fail(_PALLET, "TooManyUnrevealedCommits")
    commit = TimelockedCommit(
        hotkey=hotkey, block=state.block_number, data=data, round_number=round_number
    )
    put_timelocked(state, netuid, epoch, [*queue, commit])
    digest = hex_of(blake2_256(data))
    state.emit(_PALLET, "TimelockedWeightsCommitted", (hotkey, netuid, digest, round_number))


def add_modelled(
    state: State, netuid: int, *, hotkey: str, row: tuple[list[int], list[int], int]
) -> None:
    """Queue a row (uids, u16 weights, version key) until the reveal time of an equal commit."""
    public_key = bittensor_core.ss58_decode(hotkey)
    data = bytes(state.metadata.codec.encode(_PAYLOAD, (public_key, *row)))
    add_timelocked(state, netuid, hotkey=hotkey, data=data, round_number=MODELLED_ROUND)


def timelocked(state: State, netuid: int, epoch: int) -> list[TimelockedCommit]:
    """The commits of an epoch, in order."""
    return [_timelocked(row) for row in state.subtensor.get(_TIMELOCKED, netuid, epoch)]


def put_timelocked(state: State, netuid: int, epoch: int, queue: list[TimelockedCommit]) -> None:
    """Replace an epoch's queue; an empty queue removes the entry."""
    rows = [(each.hotkey, each.block, each.data, each.round_number) for each in queue]
    if rows:
        state.subtensor.put(_TIMELOCKED, netuid, epoch, value=rows)
    else:
        state.subtensor.remove(_TIMELOCKED, netuid, epoch)


def take_due(state: State, netuid: int) -> tuple[int, list[TimelockedCommit]]:
    """(commit epoch of the present reveals, the commits); deletes older epochs."""
    due = schedule.current_epoch(state, netuid) - _period(state, netuid)
    for epoch, _ in state.subtensor.entries(_TIMELOCKED, netuid):
        if epoch < due:
            state.subtensor.remove(_TIMELOCKED, netuid, epoch)
    return due, timelocked(state, netuid, due) if due >= 0 else []


def hashes(state: State, netuid: int, hotkey: str) -> list[HashCommit] | None:
    """A hotkey's committed hashes, oldest first; None without an entry."""
    rows = state.subtensor.get(_HASHES, netuid, hotkey)
    return None if rows is None else [_hash(row) for row in rows]


def put_hashes(state: State, netuid: int, hotkey: str, queue: list[HashCommit]) -> None:
    """Replace a hotkey's queue; an empty queue removes the entry."""
    rows = [(each.hash, each.epoch, each.block, 0) for each in queue]
    if rows:
        state.subtensor.put(_HASHES, netuid, hotkey, value=rows)
    else:
        state.subtensor.remove(_HASHES, netuid, hotkey)


def without_expired(state: State, netuid: int, queue: list[HashCommit]) -> list[HashCommit]:
    """The queue from the first unexpired commit on."""
    for index, commit in enumerate(queue):
        if not is_expired(state, netuid, commit.epoch):
            return queue[index:]
    return []


def earliest_blocks(state: State, netuid: int) -> dict[str, int]:
    """Hotkey -> block of the earliest unexpired commit.

    A committed weight on a uid registered after this block meant the uid's earlier holder.
    """
    found: list[tuple[str, int]] = []
    for hotkey, rows in state.subtensor.entries(_HASHES, netuid):
        live = without_expired(state, netuid, [_hash(row) for row in rows])
        found += [(hotkey, live[0].block)] if live else []
    for epoch, rows in state.subtensor.entries(_TIMELOCKED, netuid):
        if not is_expired(state, netuid, epoch):
            found += [(str(hotkey), int(block)) for hotkey, block, *_ in rows]
    return {hotkey: min(b for who, b in found if who == hotkey) for hotkey, _ in found}


def _period(state: State, netuid: int) -> int:
    return int(state.subtensor.get("RevealPeriodEpochs", netuid))


def _timelocked(row: tuple[Any, ...]) -> TimelockedCommit:
    hotkey, block, data, round_number = row
    return TimelockedCommit(
        hotkey=hotkey, block=block, data=bytes_of(data), round_number=round_number
    )


def _hash(row: tuple[Any, ...]) -> HashCommit:
    digest, epoch, block, _ = row
    return HashCommit(hash=digest, epoch=epoch, block=block)
