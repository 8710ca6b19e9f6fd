"""Recorded pulses of the drand beacon, and opening what was timelocked to one of them.

A local chain reaches no beacon. It can be given recorded pulses of the public one (quicknet);
each becomes known to the chain in the first block whose time is not before the pulse's own.
Without them, nothing that is timelocked ever opens.

Source: drand's quicknet parameters; subtensor, pallets/drand. Departures: pulses come from the
configuration and not from unsigned extrinsics of an off-chain worker, they need not follow on
one another, and none is ever forgotten.
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
    """Rounds and signatures from a JSON object {"round": "signature hex"}, each one verified.

    Raises ConfigError if the file cannot be read, is something else, or a signature is not the
    one that quicknet published for its round.
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
    """Store every recorded pulse whose time has come and that the chain does not have yet."""
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
    """The hex signature of a round that the chain knows, else None."""
    pulse = state.drand.get("Pulses", round_number)
    return None if pulse is None else str(pulse["signature"]).removeprefix("0x")


def open_timelock(ciphertext: bytes, signature_hex: str) -> bytes | None:
    """What was encrypted to the round of this signature; None if it does not open with it.

    `ciphertext` is a stranger's. The library behind this aborts on secrets of another length
    than its own, with an error that no caller could name, so the layout is checked first.
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
    """A signature is a round's if it opens what was encrypted to that round."""
    if not isinstance(signature, str) or not 1 <= number < 2**63:
        return False
    sealed, _ = bittensor_core.encrypt_at_round(_PROBE, number)
    inner = bytes(bittensor_core.inner_ciphertext(sealed))
    return open_timelock(inner, signature) == _PROBE
