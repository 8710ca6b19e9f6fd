"""Public keys in SS58 form, as the chain writes hotkeys (format 42). Decoding only.

Source: the SS58 address format of Substrate: base58(prefix, key, checksum). The checksum is the
first two bytes of BLAKE2b-512 over "SS58PRE", prefix and key.
"""

import hashlib

from template.protocol.strangers import quoted

MAX_ADDRESS_CHARS = 48
"""35 bytes have at most 48 digits in base 58."""

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_PREFIX = bytes([42])


def public_key(address: str) -> bytes:
    """The 32-byte public key of an SS58 address; ValueError unless a valid address of format 42."""
    # Checked first: reading a number of n digits takes n squared steps.
    if len(address) > MAX_ADDRESS_CHARS:
        raise ValueError(
            f"{quoted(address)} is not an SS58 address: {len(address)} characters, base58 of a "
            f"32-byte key has at most {MAX_ADDRESS_CHARS}"
        )
    number = 0
    for character in address:
        digit = _ALPHABET.find(character)
        if digit < 0:
            raise ValueError(
                f"{quoted(address)} is not an SS58 address: {quoted(character)} is not base58"
            )
        number = number * 58 + digit
    # A leading "1" is a zero byte: such an address would be a second spelling of another one.
    if number >= 2 ** (8 * 35) or address.startswith(_ALPHABET[0]):
        raise ValueError(f"{quoted(address)} is not an SS58 address of a 32-byte key")
    raw = number.to_bytes(35, "big")
    body, checksum = raw[:-2], raw[-2:]
    if body[:1] != _PREFIX or _hash_address(body) != checksum:
        raise ValueError(
            f"{quoted(address)} is not an SS58 address of format 42: wrong checksum or network"
        )
    return body[1:]


def _hash_address(body: bytes) -> bytes:
    return hashlib.blake2b(b"SS58PRE" + body, digest_size=64).digest()[:2]
