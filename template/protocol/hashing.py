"""Labelled hashes: a SHA-256 per purpose, safe from collisions between purposes."""

import hashlib


def labelled_hash(label: str, *parts: bytes) -> bytes:
    """SHA-256 over the label and the parts, each after its length; 32 bytes.

    The length prefixes make the encoding injective: moving a byte from one part to the
    next changes the hash.
    """
    digest = hashlib.sha256()
    for part in (label.encode("ascii"), *parts):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def uint_bytes(value: int) -> bytes:
    """A window, block or count as 8 little-endian bytes; ValueError outside [0, 2**64)."""
    if not 0 <= value < 2**64:
        raise ValueError(f"{value} does not fit 64 unsigned bits")
    return value.to_bytes(8, "little")
