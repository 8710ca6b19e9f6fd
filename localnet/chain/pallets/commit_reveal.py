"""Weights protected from copying: committed first, revealed an epoch or more later.

Two schemes: rows encrypted to a pulse of the drand beacon, opened by the chain, and older
salted hashes, revealed by the hotkey's second call. Source: subtensor, subnets/weights.rs,
coinbase/reveal_commits.rs and guards/check_weights.rs. Departures: the batch calls of the older
scheme are left out; only mechanism 0 exists.
"""

from collections.abc import Callable
from typing import Any

import bittensor_core

from localnet.chain import drand, schedule
from localnet.chain.blocks import blake2_256, hex_of
from localnet.chain.metadata import bytes_of, read_compact
from localnet.chain.pallets import neurons, weight_commits, weights
from localnet.chain.pallets.weight_commits import HashCommit, TimelockedCommit
from localnet.chain.pallets.weights import WeightRow
from localnet.chain.state import DispatchFailed, State

MAX_COMMIT_BYTES = 5_000
# Clients encrypt to the pulse that is due this many blocks into the epoch of the reveal.
OPENING_DELAY_BLOCKS = 3
_CRV3_VERSION = 4
_KEY_BYTES = 32
_PALLET = "SubtensorModule"
_HASHED = "(AccountId32,u16,Vec<u16>,Vec<u16>,Vec<u16>,u64)"


def fits(commit: str) -> bool:
    """Whether a commit fits the runtime's type; the runtime cannot decode longer commits."""
    return len(bytes_of(commit)) <= MAX_COMMIT_BYTES


def commit_timelocked_weights(
    state: State,
    origin: str,
    *,
    netuid: int,
    commit: str,
    reveal_round: int,
    commit_reveal_version: int,
) -> None:
    """SubtensorModule.commit_timelocked_weights: the row opens with the pulse of a round."""
    data = bytes_of(commit)
    weights.check_stake(state, netuid, origin)
    if reveal_round < state.drand.get("LastStoredRound"):
        raise state.fail(_PALLET, "InvalidRevealRound")
    weights.check_rate(state, netuid, origin, "CommittingWeightsTooFast")
    _check_enabled(state, netuid, "MechanismDoesNotExist")
    if commit_reveal_version != state.subtensor.get("CommitRevealWeightsVersion"):
        raise state.fail(_PALLET, "IncorrectCommitRevealVersion")
    uid = _registered_uid(state, netuid, origin)
    weight_commits.add_timelocked(
        state, netuid, hotkey=origin, data=data, round_number=reveal_round
    )
    neurons.set_last_update(state, netuid, uid)


def commit_timelocked_mechanism_weights(
    state: State, origin: str, *, mecid: int, **commit: Any
) -> None:
    """SubtensorModule.commit_timelocked_mechanism_weights: the SDK's call."""
    weights.check_mechanism(state, mecid)
    commit_timelocked_weights(state, origin, **commit)


def commit_crv3_mechanism_weights(
    state: State, origin: str, *, netuid: int, mecid: int, commit: str, reveal_round: int
) -> None:
    """SubtensorModule.commit_crv3_mechanism_weights: the same without a version."""
    commit_timelocked_mechanism_weights(
        state,
        origin,
        netuid=netuid,
        mecid=mecid,
        commit=commit,
        reveal_round=reveal_round,
        commit_reveal_version=_CRV3_VERSION,
    )


def commit_weights(state: State, origin: str, *, netuid: int, commit_hash: str) -> None:
    """SubtensorModule.commit_weights: a hash whose row and salt the hotkey reveals later."""
    weights.check_stake(state, netuid, origin)
    weights.check_rate(state, netuid, origin, "CommittingWeightsTooFast")
    _check_enabled(state, netuid, "MechanismDoesNotExist")
    uid = _registered_uid(state, netuid, origin)
    queue = weight_commits.hashes(state, netuid, origin) or []
    live = weight_commits.without_expired(state, netuid, queue)
    if len(live) >= weight_commits.MAX_UNREVEALED:
        raise state.fail(_PALLET, "TooManyUnrevealedCommits")
    epoch = schedule.current_epoch(state, netuid)
    commit = HashCommit(hash=commit_hash, epoch=epoch, block=state.block_number)
    weight_commits.put_hashes(state, netuid, origin, [*live, commit])
    state.emit(_PALLET, "WeightsCommitted", (origin, netuid, commit_hash))
    neurons.set_last_update(state, netuid, uid)


def commit_mechanism_weights(
    state: State, origin: str, *, netuid: int, mecid: int, commit_hash: str
) -> None:
    """SubtensorModule.commit_mechanism_weights."""
    weights.check_mechanism(state, mecid)
    commit_weights(state, origin, netuid=netuid, commit_hash=commit_hash)


def reveal_weights(
    state: State, origin: str, *, netuid: int, version_key: int, **revealed: list[int]
) -> None:
    """SubtensorModule.reveal_weights(uids, values, salt): sets the row; older commits are spent.

    An expired commit is refused as RevealTooEarly and an unknown one as NoWeightsCommitFound:
    the runtime's guards come before the more precise errors of the call.
    """
    uids, values, salt = (revealed[name] for name in ("uids", "values", "salt"))
    weights.check_stake(state, netuid, origin)
    row = WeightRow(netuid=netuid, dests=uids, weights=values, version_key=version_key)
    digest = commit_hash_of(state, origin, row, salt)
    queue = weight_commits.hashes(state, netuid, origin) or []
    index = next((at for at, commit in enumerate(queue) if commit.hash == digest), None)
    if index is None:
        raise state.fail(_PALLET, "NoWeightsCommitFound")
    if not weight_commits.is_open(state, netuid, queue[index].epoch):
        raise state.fail(_PALLET, "RevealTooEarly")
    _check_enabled(state, netuid, "SubnetNotExists")
    weight_commits.put_hashes(state, netuid, origin, queue[index + 1 :])
    weights.set_revealed(state, origin, row)
    state.emit(_PALLET, "WeightsRevealed", (origin, netuid, digest))


def reveal_mechanism_weights(state: State, origin: str, *, mecid: int, **revealed: Any) -> None:
    """SubtensorModule.reveal_mechanism_weights."""
    weights.check_mechanism(state, mecid)
    reveal_weights(state, origin, **revealed)


def commit_hash_of(state: State, hotkey: str, row: WeightRow, salt: list[int]) -> str:
    """The argument of `commit_weights`: blake2b-256 of hotkey, netuid, row, salt, version key."""
    hashed = (hotkey, row.netuid, row.dests, row.weights, salt, row.version_key)
    return hex_of(blake2_256(bytes(state.metadata.codec.encode(_HASHED, hashed))))


def reveal_due(state: State, netuid: int) -> None:
    """Open the commits with a reveal in this epoch.

    A commit waits for a missing pulse until the epoch ends. As on the real chain, a commit is
    dropped silently if opening fails, the payload names another hotkey, or the row is refused.
    """
    epoch, queue = weight_commits.take_due(state, netuid)
    waiting = [commit for commit in queue if not _may_open(state, netuid, commit)]
    if len(waiting) == len(queue):
        return
    weight_commits.put_timelocked(state, netuid, epoch, waiting)
    for commit in queue:
        if commit not in waiting:
            _reveal(state, netuid, commit)


def _may_open(state: State, netuid: int, commit: TimelockedCommit) -> bool:
    if not _is_modelled(state, commit):
        return drand.signature_of(state, commit.round_number) is not None
    delay_blocks = min(OPENING_DELAY_BLOCKS, state.subtensor.get("Tempo", netuid) - 1)
    return schedule.blocks_into_epoch(state, netuid) >= delay_blocks


def _reveal(state: State, netuid: int, commit: TimelockedCommit) -> None:
    payload: bytes | None = commit.data
    if not _is_modelled(state, commit):
        signature_hex = drand.signature_of(state, commit.round_number)
        assert signature_hex is not None, "the commit waits for its pulse"
        payload = drand.open_timelock(commit.data, signature_hex)
    row = None if payload is None else decode_row(payload, netuid, commit.hotkey)
    if row is None:
        return
    try:
        with state.transaction():
            weights.set_revealed(state, commit.hotkey, row)
    except DispatchFailed:
        return
    state.emit(_PALLET, "TimelockedWeightsRevealed", (netuid, commit.hotkey))


def decode_row(payload: bytes, netuid: int, hotkey: str) -> WeightRow | None:
    """The row of a decrypted payload; None if malformed, or with another hotkey.

    A payload is a hotkey, uids, weights and a version key. The first client's form without a
    hotkey is still valid. Bytes after the version key are ignored.
    """
    try:
        length, start = read_compact(payload, 0)
        named = payload[start : start + length]
        row = _decode_values(payload, start + length, netuid)
        if len(named) >= _KEY_BYTES:
            own = bytes(bittensor_core.ss58_decode(hotkey))
            return row if named[:_KEY_BYTES] == own else None
    except (ValueError, IndexError):
        pass
    try:
        return _decode_values(payload, 0, netuid)
    except (ValueError, IndexError):
        return None


def _decode_values(data: bytes, at: int, netuid: int) -> WeightRow:
    dests, at = _decode_u16s(data, at)
    values, at = _decode_u16s(data, at)
    version_key = int.from_bytes(_slice(data, at, 8), "little")
    return WeightRow(netuid=netuid, dests=dests, weights=values, version_key=version_key)


def _decode_u16s(data: bytes, at: int) -> tuple[list[int], int]:
    count, start = read_compact(data, at)
    raw = _slice(data, start, 2 * count)
    pairs = range(0, len(raw), 2)
    return [int.from_bytes(raw[i : i + 2], "little") for i in pairs], start + 2 * count


def _slice(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise ValueError(f"{size} bytes at {at} lie beyond the end, {len(data)}")
    return data[at : at + size]


def _is_modelled(state: State, commit: TimelockedCommit) -> bool:
    modelled = state.defaults.commit_reveal == "modelled"
    return modelled and commit.round_number == weight_commits.MODELLED_ROUND


def _check_enabled(state: State, netuid: int, missing: str) -> None:
    if not state.subtensor.get("NetworksAdded", netuid):
        raise state.fail(_PALLET, missing)
    if not state.subtensor.get("CommitRevealWeightsEnabled", netuid):
        raise state.fail(_PALLET, "CommitRevealDisabled")


def _registered_uid(state: State, netuid: int, hotkey: str) -> int:
    uid = neurons.uid_of(state, netuid, hotkey)
    if uid is None:
        raise state.fail(_PALLET, "HotKeyNotRegisteredInSubNet")
    return uid


CALLS: tuple[Callable[..., None], ...] = (
    commit_crv3_mechanism_weights,
    commit_mechanism_weights,
    commit_timelocked_mechanism_weights,
    commit_timelocked_weights,
    commit_weights,
    reveal_mechanism_weights,
    reveal_weights,
)
