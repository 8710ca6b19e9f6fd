"""Which of a window's payloads are scored where there are too many, and in which order.

The same draw for all validators: by SHA-256 of the hash of block (w+1)B, which nobody knew before
the payloads were committed, and the hotkey. It prefers nobody: neither a low uid nor a good
rating. Validators who run out of time leave out the same end of the draw.
"""

from collections.abc import Iterable

from template.protocol.hashing import labelled_hash, uint_bytes


def drawn_order(block_hash: bytes, window: int, hotkeys: Iterable[str]) -> list[str]:
    """The hotkeys in the order in which their payloads are scored; each is as likely as any other
    at each place, and who is ahead of whom does not depend on who else is there.
    """

    def place(hotkey: str) -> bytes:
        return labelled_hash("scored", block_hash, uint_bytes(window), hotkey.encode("ascii"))

    return sorted(hotkeys, key=place)
