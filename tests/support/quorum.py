"""Candidates and roots that validators vote on, for tests of the accepted set."""

import hashlib

from template.protocol.root import Member

ROOT, OTHER = b"R" * 16, b"O" * 16
SAMPLE = b"S" * 8
SEED = bytes(32)


def member(uid: int) -> Member:
    digest = hashlib.sha256(bytes([uid])).digest()
    return Member(
        uid=uid, hotkey=f"miner-{uid}", public_key=digest, coldkey=digest, digest=digest[::-1]
    )


def lot(uid: int) -> bytes:
    return hashlib.sha256(SEED + f"miner-{uid}".encode()).digest()
