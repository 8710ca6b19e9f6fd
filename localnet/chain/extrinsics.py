"""Checks of a submitted extrinsic before the pool.

Owns decoding of strangers' bytes and the checks of the signed extensions: signature over
the exact payload (genesis, spec version, era checkpoint), era, tip. `chain.py` checks the
nonce against the pool; `pallets/` executes the call.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import bittensor_core

from localnet.chain.blocks import blake2_256, hex_of
from localnet.chain.metadata import SS58_FORMAT, ChainMetadata, compact, read_compact

MAX_EXTRINSIC_BYTES = 256 * 1024
KEPT_HASHES = 2400
"""`System.BlockHashCount`: an era of any length is over after this number of blocks."""
_MIN_ERA_BLOCKS = 4
_SIGNED_V4 = 0x84
_MULTI_ADDRESS_ID = 0x00
_ED25519, _SR25519 = 0, 1
# version byte, address variant, 32-byte key, signature variant, 64-byte signature
_SIGNATURE_START = 1 + 1 + 32 + 1
_EXTRA_START = _SIGNATURE_START + 64


class InvalidTransaction(Exception):
    """The pool refuses an extrinsic; code and texts are substrate's own."""

    def __init__(self, data: str, *, code: int = 1010, message: str = "Invalid Transaction"):
        super().__init__(f"{message}: {data}")
        self.code = code
        self.message = message
        self.data = data


BAD_SIGNATURE = "Transaction has a bad signature"
OUTDATED = "Transaction is outdated"
FUTURE = "Transaction will be valid in the future"
ANCIENT = "Transaction has an ancient birth block"


@dataclass(frozen=True, kw_only=True, slots=True)
class Extrinsic:
    """A signed extrinsic with signature and era valid in the next block.

    `last_block`: the last block able to take the extrinsic. `era_blocks` and `last_block` are
    None for an immortal extrinsic. `call_data`: the call in SCALE.
    """

    raw: bytes
    hash: bytes
    signer: str
    nonce: int
    era_blocks: int | None
    last_block: int | None
    pallet: str
    function: str
    args: dict[str, Any]
    call_data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainContext:
    """The chain's facts for verification: genesis, head and past hashes."""

    genesis_hash: bytes
    head_number: int
    hash_at: Callable[[int], bytes | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parts:
    """The parts of an extrinsic; `tail` is the signed extra followed by the call."""

    public_key: bytes
    crypto_type: int
    signature: bytes
    tail: bytes


def verify(raw: bytes, metadata: ChainMetadata, context: ChainContext) -> Extrinsic:
    """Decode and check an extrinsic; raises InvalidTransaction with substrate's text."""
    parts = _cut(raw)
    decoded = _decode(raw, metadata)
    if decoded["tip"] != 0:
        raise InvalidTransaction("Tips are not taken by the local chain; sign with tip 0")
    birth, last = _era_span(decoded["era"], context.head_number)
    checkpoint = context.hash_at(birth)
    forgotten = 0 < birth < context.head_number - KEPT_HASHES
    if checkpoint is None or forgotten or (last is not None and context.head_number + 1 > last):
        raise InvalidTransaction(ANCIENT)
    call_data = _verified_call(parts, decoded, metadata, context.genesis_hash, checkpoint)
    call = decoded["call"]
    return Extrinsic(
        raw=raw,
        hash=blake2_256(raw),
        signer=bittensor_core.ss58_encode(parts.public_key, SS58_FORMAT),
        nonce=int(decoded["nonce"]),
        era_blocks=None if last is None else last - birth + 1,
        last_block=last,
        pallet=call["call_module"],
        function=call["call_function"],
        args={arg["name"]: arg["value"] for arg in call["call_args"]},
        call_data=call_data,
    )


def _cut(raw: bytes) -> _Parts:
    """Find signer, signature and signed bytes in a version 4 signed extrinsic."""
    if not 0 < len(raw) <= MAX_EXTRINSIC_BYTES:
        raise InvalidTransaction("Transaction would exhaust the block limits")
    try:
        length, start = read_compact(raw, 0)
    except ValueError:
        raise _malformed() from None
    body = raw[start:]
    if length != len(body) or len(body) <= _EXTRA_START or compact(length) != raw[:start]:
        raise _malformed()
    if body[0] != _SIGNED_V4 or body[1] != _MULTI_ADDRESS_ID:
        raise InvalidTransaction("Transaction is not signed by an account id (version 4)")
    return _Parts(
        public_key=body[2:34],
        crypto_type=body[34],
        signature=body[_SIGNATURE_START:_EXTRA_START],
        tail=body[_EXTRA_START:],
    )


def _decode(raw: bytes, metadata: ChainMetadata) -> dict[str, Any]:
    try:
        return dict(metadata.codec.decode_extrinsic(raw))
    except (ValueError, TypeError, KeyError, IndexError, OverflowError):
        raise _malformed() from None


def _malformed() -> InvalidTransaction:
    return InvalidTransaction("Could not decode the extrinsic", code=1001, message="Bad format")


def _era_span(era: tuple[int, int] | str, head_number: int) -> tuple[int, int | None]:
    """(birth, last valid block) of a mortal era; an immortal era starts at genesis.

    Refuses eras too short or out of phase, as substrate: the codec alone would accept such eras.
    """
    if isinstance(era, str):
        return 0, None
    period, phase = era
    if period < _MIN_ERA_BLOCKS or phase >= period:
        raise _malformed()
    birth = (max(head_number, phase) - phase) // period * period + phase
    return birth, birth + period - 1


def _verified_call(
    parts: _Parts,
    decoded: dict[str, Any],
    metadata: ChainMetadata,
    genesis_hash: bytes,
    checkpoint: bytes,
) -> bytes:
    """The call's bytes, after verification of the signature over the rebuilt payload."""
    era = decoded["era"]
    extra, additional = metadata.codec.signature_payload_parts(
        b"",
        era=era if isinstance(era, str) else {"period": era[0], "phase": era[1]},
        nonce=int(decoded["nonce"]),
        tip=0,
        tip_asset_id=None,
        genesis_hash=hex_of(genesis_hash),
        era_block_hash=hex_of(checkpoint),
    )[1:]
    if not parts.tail.startswith(extra) or parts.crypto_type not in (_ED25519, _SR25519):
        raise InvalidTransaction(BAD_SIGNATURE)
    call_data = parts.tail[len(extra) :]
    payload = call_data + extra + additional
    if len(payload) > 256:
        payload = blake2_256(payload)
    signer = bittensor_core.Keypair(
        public_key=parts.public_key, crypto_type=parts.crypto_type, ss58_format=SS58_FORMAT
    )
    if not signer.verify(payload, parts.signature):
        raise InvalidTransaction(BAD_SIGNATURE)
    return call_data
