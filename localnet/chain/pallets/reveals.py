"""Opening timelocked commitments once the chain knows the pulse of their round.

Source: subtensor, pallets/commitments/src/lib.rs `reveal_timelocked_commitments`. Departure:
every field that a known pulse cannot open fails with `Decrypt`, even a malformed ciphertext.
"""

from typing import Any

from localnet.chain import drand
from localnet.chain.metadata import bytes_of, read_compact
from localnet.chain.pallets import published
from localnet.chain.pallets.commitments import FAILED, TIMELOCKED, Field, storable
from localnet.chain.state import State

MAX_REVEALS = 10
"""How many opened fields of a hotkey are kept, the newest."""
_PALLET = "Commitments"
_ROUND_BYTES = 8


class _RevealFailed(Exception):
    """A field will never open; `reason` is the runtime's `RevealFailure`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def reveal_due(state: State) -> None:
    """Open the fields with a known pulse; mark undecryptable fields; keep the others waiting."""
    for netuid, hotkey in published.timelocked(state):
        _reveal(state, netuid, hotkey)


def _reveal(state: State, netuid: int, hotkey: str) -> None:
    record = state.commitments.get("CommitmentOf", netuid, hotkey)
    before = [storable(field) for field in record["info"]["fields"]]
    opened: list[bytes] = []
    after: list[Field] = []
    for field in before:
        plain = _opened(state, netuid, hotkey, field)
        opened += [plain] if isinstance(plain, bytes) else []
        after += [] if isinstance(plain, bytes) else [plain]
    if after == before:
        return
    _publish(state, netuid, hotkey, opened)
    if after:
        kept = {**record, "info": {"fields": after}}
        state.commitments.put("CommitmentOf", netuid, hotkey, value=kept)
    else:
        state.commitments.remove("CommitmentOf", netuid, hotkey)
    is_locked = any(isinstance(field, dict) and TIMELOCKED in field for field in after)
    published.index(state, netuid, hotkey, is_locked=is_locked)


def _opened(state: State, netuid: int, hotkey: str, field: Field) -> bytes | Field:
    """The plain bytes of an opened field; else the field to keep."""
    if not isinstance(field, dict) or TIMELOCKED not in field:
        return field
    payload = field[TIMELOCKED]
    try:
        plain = _open(state, payload)
    except _RevealFailed as failed:
        who = {"netuid": netuid, "who": hotkey, "reveal_round": payload["reveal_round"]}
        state.emit(_PALLET, "CommitmentRevealFailed", {**who, "error": failed.reason})
        return {FAILED: payload}
    return field if plain is None else plain


def _open(state: State, payload: dict[str, Any]) -> bytes | None:
    """Open a field; None before the pulse; raises _RevealFailed if the pulse cannot open it."""
    encrypted, reveal_round = payload["encrypted"], payload["reveal_round"]
    signature = drand.signature_of(state, reveal_round)
    if signature is None:
        if reveal_round < state.drand.get("OldestStoredRound"):
            raise _RevealFailed("PulseExpired")
        return None
    plain = drand.open_timelock(encrypted, signature)
    if plain is None:
        plain = drand.open_timelock(_inner(encrypted, reveal_round), signature)
    if plain is None:
        raise _RevealFailed("Decrypt")
    if not plain:
        raise _RevealFailed("EmptyPlaintext")
    return plain


def _inner(encrypted: bytes, reveal_round: int) -> bytes:
    """The ciphertext in the SDK's envelope; raises _RevealFailed on another round or length."""
    try:
        length, start = read_compact(encrypted, 0)
    except (IndexError, ValueError):
        raise _RevealFailed("Decrypt") from None
    end = start + length
    if len(encrypted) != end + _ROUND_BYTES:
        raise _RevealFailed("Decrypt")
    if int.from_bytes(encrypted[end:], "little") != reveal_round:
        raise _RevealFailed("RoundMismatch")
    return encrypted[start:end]


def _publish(state: State, netuid: int, hotkey: str, opened: list[bytes]) -> None:
    if not opened:
        return
    earlier = state.commitments.get("RevealedCommitments", netuid, hotkey) or []
    reveals = [(bytes_of(data), block) for data, block in earlier]
    reveals += [(data, state.block_number) for data in opened]
    newest = reveals[-MAX_REVEALS:]
    state.commitments.put("RevealedCommitments", netuid, hotkey, value=newest)
    for _ in opened:
        state.emit(_PALLET, "CommitmentRevealed", {"netuid": netuid, "who": hotkey})
