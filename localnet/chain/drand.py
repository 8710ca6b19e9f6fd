"""Recorded pulses of the drand beacon, and the opening of timelocked ciphertexts.

A local chain cannot reach the beacon. The configuration may hold recorded pulses of the public
beacon (quicknet); the chain learns a pulse in the first block at or after the pulse's time.
Without recorded pulses, timelocked ciphertexts never open.

Source: drand's quicknet parameters; subtensor, pallets/drand. Departures: pulses come from the
configuration instead of unsigned extrinsics of an off-chain worker, rounds may have gaps, and
every pulse is kept for ever.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import bittensor_core

from localnet.chain.metadata import compact
from localnet.chain.state import State
from template.errors import ConfigError

QUICKNET_GENESIS_S = 1_692_803_367
QUICKNET_PERIOD_S = 3
# A timelocked ciphertext begins with a curve point and two byte strings, each behind a length.
_POINT_BYTES = 96
_SECRET_BYTES = 32
_LENGTH_BYTES = 8
_SECRETS_AT = (_POINT_BYTES, _POINT_BYTES + _LENGTH_BYTES + _SECRET_BYTES)
_PROBE = b"pulse"


def round_time_s(round_number: int) -> int:
    """When a round is published, in seconds since 1970."""
    return QUICKNET_GENESIS_S + (round_number - 1) * QUICKNET_PERIOD_S


def read_pulses(path: Path) -> dict[int, str]:
    """Verified rounds and signatures from a JSON object {"round": "signature hex"}.

    Raises ConfigError on an unreadable or malformed file, or on a signature different from
    quicknet's signature of the round.
    """
    try:
        loaded = json.loads(path.read_text(encoding="ascii"))
        pulses = {int(number): signature for number, signature in loaded.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f'--drand-pulses {path}: {error}; give a file with {{"round": "signature hex"}}'
        ) from error
    for number, signature in pulses.items():
        if not _is_genuine(number, signature):
            raise ConfigError(
                f"--drand-pulses {path}: round {number} has not the signature that drand's "
                "quicknet published; record it again"
            )
    return pulses


def write_due_pulses(state: State, pulses: Mapping[int, str]) -> None:
    """Store every due recorded pulse missing from the chain."""
    if not pulses:
        return
    now_s = int(state.timestamp.get("Now")) // 1000
    last = int(state.drand.get("LastStoredRound"))
    due = sorted(number for number in pulses if number > last and round_time_s(number) <= now_s)
    for number in due:
        signature = bytes.fromhex(pulses[number])
        randomness = sha256(signature).digest()
        pulse = {"round": number, "randomness": randomness, "signature": signature}
        state.drand.put("Pulses", number, value=pulse)
    if due:
        if not last:
            state.drand.put("OldestStoredRound", value=due[0])
        state.drand.put("LastStoredRound", value=due[-1])
        state.emit("Drand", "NewPulse", {"rounds": due})


def signature_of(state: State, round_number: int) -> str | None:
    """The hex signature of a round known to the chain, else None."""
    pulse = state.drand.get("Pulses", round_number)
    return None if pulse is None else str(pulse["signature"]).removeprefix("0x")


def open_timelock(ciphertext: bytes, signature_hex: str) -> bytes | None:
    """The plain bytes of a ciphertext for this signature's round; None if opening fails.

    `ciphertext` comes from a stranger. The library aborts on secrets of a wrong length with an
    unspecific error, so the layout is checked first.
    """
    if not _is_laid_out(ciphertext):
        return None
    # The library wants its own envelope; the round in it is only used to look up a signature.
    envelope = compact(len(ciphertext)) + ciphertext + bytes(8)
    try:
        return bytes(bittensor_core.decrypt_with_signature(envelope, signature_hex))
    except ValueError:
        return None


def _is_laid_out(ciphertext: bytes) -> bool:
    size = _SECRET_BYTES.to_bytes(_LENGTH_BYTES, "little")
    return all(ciphertext[at : at + _LENGTH_BYTES] == size for at in _SECRETS_AT)


def _is_genuine(number: int, signature: object) -> bool:
    """Whether a signature belongs to a round: the signature opens a fresh ciphertext."""
    if not isinstance(signature, str) or not 1 <= number < 2**63:
        return False
    sealed, _ = bittensor_core.encrypt_at_round(_PROBE, number)
    inner = bytes(bittensor_core.inner_ciphertext(sealed))
    return open_timelock(inner, signature) == _PROBE
