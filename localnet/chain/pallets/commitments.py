"""A hotkey's public commitment on a subnet, and its byte quota.

Source: subtensor, pallets/commitments/src/lib.rs and types.rs. Timelocked
fields are stored here and opened by `reveals.py`.
"""

from typing import Any

from localnet.chain.metadata import bytes_of
from localnet.chain.pallets import neurons, published
from localnet.chain.state import DispatchFailed, State

MAX_FIELDS = 3
MAX_BIG_RAW_BYTES = 512
MAXTIMELOCKED_BYTES = 1024
MIN_CHARGE_BYTES = 100
_PALLET = "Commitments"
TIMELOCKED, FAILED = "TimelockEncrypted", "TimelockRevealFailed"
_RESET_BONDS = "ResetBondsFlag"

Field = dict[str, Any] | str
"""A field in the codec's form: {tag: payload}, or the tag alone."""


def fits(info: dict[str, Any]) -> bool:
    """Whether a commitment fits the real runtime's bounded types; else the runtime cannot decode.

    `RawN` is never longer than 128 bytes, since the tag holds the length.
    """
    return all(_fits(field) for field in info["fields"])


def set_commitment(state: State, origin: str, *, netuid: int, info: dict[str, Any]) -> None:
    """Commitments.set_commitment: replaces the hotkey's commitment, charges its quota."""
    if neurons.uid_of(state, netuid, origin) is None:
        raise state.fail(_PALLET, "AccountNotAllowedCommit")
    fields = [storable(field) for field in info["fields"]]
    if len(fields) > MAX_FIELDS:
        raise state.fail(_PALLET, "TooManyFieldsInCommitmentInfo")
    if any(_tag(field) == FAILED for field in fields):
        raise state.fail(_PALLET, "TimelockRevealFailedNotAllowed")
    if _RESET_BONDS in fields:
        _reset_bonds(state, netuid, origin)
    _charge(state, netuid, origin, sum(_size_bytes(field) for field in fields))
    record = {"deposit": 0, "block": state.block_number, "info": {"fields": fields}}
    state.commitments.put("CommitmentOf", netuid, origin, value=record)
    state.commitments.put("LastCommitment", netuid, origin, value=state.block_number)
    _index(state, netuid, origin, fields)


def set_max_space(state: State, origin: str, *, new_limit: int) -> None:
    """Commitments.set_max_space: only for root, and no root account exists here."""
    del state, origin, new_limit
    raise DispatchFailed("BadOrigin")


def storable(field: Field) -> Field:
    """The field with byte vectors as bytes: their text may not be given back to the codec."""
    if isinstance(field, str):
        return field
    [(tag, payload)] = field.items()
    if tag in (TIMELOCKED, FAILED):
        return {tag: {**payload, "encrypted": bytes_of(payload["encrypted"])}}
    return {tag: bytes_of(payload)} if tag == "BigRaw" else field


def _index(state: State, netuid: int, hotkey: str, fields: list[Field]) -> None:
    locked = [f[TIMELOCKED] for f in fields if isinstance(f, dict) and TIMELOCKED in f]
    published.index(state, netuid, hotkey, is_locked=bool(locked))
    who = {"netuid": netuid, "who": hotkey}
    if locked:
        first_round = locked[0]["reveal_round"]
        state.emit(_PALLET, "TimelockCommitment", {**who, "reveal_round": first_round})
    else:
        state.emit(_PALLET, "Commitment", who)


def _reset_bonds(state: State, netuid: int, hotkey: str) -> None:
    """Drop all bonds to the hotkey, if the subnet allows the reset. The attempt is dated."""
    state.commitments.put("LastBondsReset", netuid, hotkey, value=state.block_number)
    if not state.subtensor.get("BondsResetOn", netuid):
        return
    uid = neurons.uid_of(state, netuid, hotkey)
    for holder, row in state.subtensor.entries("Bonds", netuid):
        kept = [(dest, bond) for dest, bond in row if dest != uid]
        state.subtensor.put("Bonds", netuid, holder, value=kept)


def _charge(state: State, netuid: int, hotkey: str, size_bytes: int) -> None:
    """Count against `MaxSpace` bytes (3,100) per hotkey, subnet and epoch; at least 100 a call."""
    epoch = state.subtensor.get("SubnetEpochIndex", netuid)
    usage = state.commitments.get("UsedSpaceOf", netuid, hotkey)
    used = usage["used_space"] if usage and usage["last_epoch"] == epoch else 0
    used += max(size_bytes, MIN_CHARGE_BYTES)
    if used > state.commitments.get("MaxSpace"):
        raise state.fail(_PALLET, "SpaceLimitExceeded")
    tracker = {"last_epoch": epoch, "used_space": used}
    state.commitments.put("UsedSpaceOf", netuid, hotkey, value=tracker)


def _tag(field: Field) -> str:
    return field if isinstance(field, str) else next(iter(field))


def _fits(field: Field) -> bool:
    limit = {TIMELOCKED: MAXTIMELOCKED_BYTES, FAILED: MAXTIMELOCKED_BYTES}
    most_bytes = limit.get(_tag(field), MAX_BIG_RAW_BYTES)
    return _size_bytes(storable(field)) <= most_bytes


def _size_bytes(field: Field) -> int:
    """Bytes charged for a storable field; flags and None are free."""
    if isinstance(field, str):
        return 0
    [(tag, payload)] = field.items()
    if tag in (TIMELOCKED, FAILED):
        return len(payload["encrypted"])
    # Fixed arrays decode as 0x-hex, an empty one as anything that is empty.
    return len(payload.removeprefix("0x")) // 2 if isinstance(payload, str) else len(payload)
