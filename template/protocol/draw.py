"""The random order in which a window's payloads are scored.

The order is the same for all validators: by SHA-256 of the hash of block (w+1)B, unknown until the
payloads are committed, and of the hotkey. Uid and rating have no influence. Validators short of
time leave out the same end of the order.
"""

from collections.abc import Iterable

from template.protocol.hashing import labelled_hash, uint_bytes


def drawn_order(block_hash: bytes, window: int, hotkeys: Iterable[str]) -> list[str]:
    """The hotkeys in scoring order: uniformly random for each block hash and window.

    The order of two hotkeys is independent of all further hotkeys.
    """

    def draw_key(hotkey: str) -> bytes:
        return labelled_hash("scored", block_hash, uint_bytes(window), hotkey.encode("ascii"))

    return sorted(hotkeys, key=draw_key)
