"""The MEV shield: public keys for callers, and the opening of sealed extrinsics.

Owns the keys in storage, the layout of a sealed extrinsic, and `submit_encrypted`. `chain.py`
picks a block's extrinsics, and checks an opened extrinsic like every extrinsic.

Source: subtensor, pallets/shield. Departures: the real chain has a new key every block and
opens only extrinsics sealed to the next author's key, so a caller has a single block. Here a
key is `NextKey` for `ROTATION_BLOCKS` blocks, then `PendingKey` and `CurrentKey` for as long,
and opens extrinsics all the while: a reader of `NextKey` has at least 16 blocks, twice the
longest era of a sealed extrinsic. The block writes the keys without an inherent, and author
keys do not exist. `store_encrypted` is not offered.
"""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import bittensor_core
from Crypto.Cipher import ChaCha20_Poly1305
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

from localnet.chain.metadata import bytes_of, compact, read_compact
from localnet.chain.state import State

ROTATION_BLOCKS = 8
MAX_ERA_BLOCKS = 8
"""A sealed extrinsic with a longer era, or without one, is refused as outdated."""

CALL = ("MevShield", "submit_encrypted")
_KEYS = ("CurrentKey", "PendingKey", "NextKey")
_KEY_HASH_BYTES = 16
_KEM_BYTES = 1088
_NONCE_BYTES = 24
_TAG_BYTES = 16
_CALL_INDEX_BYTES = 2
_MAX_CIPHERTEXT_BYTES = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class Sealed:
    """The parts of a ciphertext, unverified."""

    key_hash: bytes
    kem: bytes
    nonce: bytes
    body: bytes


class ShieldKeys:
    """The chain's ML-KEM-768 key pairs: a pure function of the secret and the block number."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        # Three generations are in use at a time, and they only move forward.
        self._key = lru_cache(maxsize=8)(self._derive)
        self._hash = lru_cache(maxsize=8)(self._derive_hash)

    def publish(self, state: State, number: int) -> None:
        """Write the three public keys if the open block `number` rotates the keys."""
        if number % ROTATION_BLOCKS:
            return
        generation = number // ROTATION_BLOCKS
        for later, item in enumerate(_KEYS):
            public = self._key(generation + later).public_key().public_bytes_raw()
            state.shield.put(item, value=public)
        rotates_at = number + ROTATION_BLOCKS
        state.shield.put("PendingKeyExpiresAt", value=rotates_at + ROTATION_BLOCKS)
        state.shield.put("NextKeyExpiresAt", value=rotates_at + 2 * ROTATION_BLOCKS)

    def generation_of(self, sealed: Sealed, number: int) -> int | None:
        """The key named by the sealed bytes; None if block `number` cannot open this key."""
        now = number // ROTATION_BLOCKS
        generations = range(now, now + len(_KEYS))
        return next((g for g in generations if self._hash(g) == sealed.key_hash), None)

    def unseal(self, sealed: Sealed, number: int) -> bytes | None:
        """The plain bytes; None without a key of block `number` to open the sealed bytes."""
        generation = self.generation_of(sealed, number)
        if generation is None or len(sealed.kem) != _KEM_BYTES or len(sealed.body) < _TAG_BYTES:
            return None
        shared = self._key(generation).decapsulate(sealed.kem)
        cipher = ChaCha20_Poly1305.new(key=shared, nonce=sealed.nonce)
        try:
            return cipher.decrypt_and_verify(sealed.body[:-_TAG_BYTES], sealed.body[-_TAG_BYTES:])
        except ValueError:
            return None

    def _derive(self, generation: int) -> MLKEM768PrivateKey:
        seed = self._secret + b"shield" + generation.to_bytes(8, "little")
        return MLKEM768PrivateKey.from_seed_bytes(blake2b(seed).digest())

    def _derive_hash(self, generation: int) -> bytes:
        """twox-128 of the public key in the callers' form, computed by the SDK's code."""
        public = self._key(generation).public_key().public_bytes_raw()
        sealed = bytes(bittensor_core.encrypt_mlkem768(public, b"", include_key_hash=True))
        return sealed[:_KEY_HASH_BYTES]


def parse(call_data: bytes) -> Sealed | None:
    """The ciphertext of a `submit_encrypted` call in SCALE; None at an impossible size."""
    length, start = read_compact(call_data, _CALL_INDEX_BYTES)
    ciphertext = call_data[start : start + length]
    kem_start = _KEY_HASH_BYTES + 2
    kem_end = kem_start + int.from_bytes(ciphertext[_KEY_HASH_BYTES:kem_start], "little")
    if length > _MAX_CIPHERTEXT_BYTES or len(ciphertext) < kem_end + _NONCE_BYTES:
        return None
    return Sealed(
        key_hash=ciphertext[:_KEY_HASH_BYTES],
        kem=ciphertext[kem_start:kem_end],
        nonce=ciphertext[kem_end : kem_end + _NONCE_BYTES],
        body=ciphertext[kem_end + _NONCE_BYTES :],
    )


def submit_encrypted(state: State, origin: str, *, ciphertext: str) -> None:
    """MevShield.submit_encrypted: only emits an event; `chain.py` opens the ciphertext later."""
    raw = bytes_of(ciphertext)
    signed = bytes(bittensor_core.ss58_decode(origin)) + compact(len(raw)) + raw
    event_id = "0x" + blake2b(signed, digest_size=32).hexdigest()
    state.emit("MevShield", "EncryptedSubmitted", {"id": event_id, "who": origin})
