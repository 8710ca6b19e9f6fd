"""A hotkey's public commitment on a subnet, and its byte quota.

Source: subtensor, pallets/commitments/src/lib.rs. Raw and hash fields only: timelocked
fields need a drand beacon and bond resets are not modelled, so both are refused.
"""

from typing import Any

from template.localnet.chain.pallets import neurons
from template.localnet.chain.state import DispatchFailed, State

MAX_FIELDS = 3
MIN_CHARGE_BYTES = 100
_PALLET = "Commitments"
_UNSUPPORTED = ("TimelockEncrypted", "TimelockRevealFailed", "ResetBondsFlag")


def set_commitment(state: State, origin: str, *, netuid: int, info: dict[str, Any]) -> None:
    """Commitments.set_commitment: replaces the hotkey's commitment, charges its quota."""
    if neurons.uid_of(state, netuid, origin) is None:
        raise state.fail(_PALLET, "AccountNotAllowedCommit")
    fields = info["fields"]
    if len(fields) > MAX_FIELDS:
        raise state.fail(_PALLET, "TooManyFieldsInCommitmentInfo")
    if any(_variant(field) in _UNSUPPORTED for field in fields):
        raise DispatchFailed("Unavailable")
    _charge(state, netuid, origin, sum(_size_bytes(field) for field in fields))
    record = {"deposit": 0, "block": state.block_number, "info": info}
    state.commitments.put("CommitmentOf", netuid, origin, value=record)
    state.commitments.put("LastCommitment", netuid, origin, value=state.block_number)
    state.emit(_PALLET, "Commitment", {"netuid": netuid, "who": origin})


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


def _variant(field: dict[str, Any] | str) -> str:
    return field if isinstance(field, str) else next(iter(field))


def _size_bytes(field: dict[str, Any] | str) -> int:
    """Bytes that a field is charged for; payloads decode as 0x-hex, Raw0 and None as nothing."""
    if isinstance(field, str):
        return 0
    payload = next(iter(field.values()))
    return len(payload.removeprefix("0x")) // 2 if isinstance(payload, str) else 0
