"""Who holds which object, when several validators share a checkpoint: pure, from hashes alone.

Each object has the hotkeys with the least hashes of object and hotkey: a hotkey that comes or goes
moves only its own objects, and nobody has to agree on a list.
"""

from collections.abc import Iterable
from typing import Final

from template.protocol.hashing import labelled_hash

HOLDERS: Final = 3
"""Validators that put each part of a checkpoint: two of them may be away."""


def holders_of(digest: bytes, hotkeys: Iterable[str]) -> list[str]:
    """The hotkeys that hold the object with a SHA-256, the first in line first; at most HOLDERS."""

    def rank(hotkey: str) -> bytes:
        return labelled_hash("tessera/holder", digest, hotkey.encode("ascii"))

    return sorted(hotkeys, key=rank)[:HOLDERS]
