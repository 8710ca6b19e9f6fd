"""Packing: whole conversations into pages, and none of them cut.

Pure. What is left of a page is filled with the token that ends a document. The pages depend on the
conversations and their order alone.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.unsignedinteger]

OPEN_PAGES: Final = 64
"""Pages that may still take a conversation. A change makes other datasets of the same input."""


class Packer:
    """Puts each conversation into the fullest open page with room for it."""

    def __init__(self, page_tokens: int, filling: int) -> None:
        """`filling`: the token that fills what is left of a page."""
        self.page_tokens, self._filling = page_tokens, filling
        self._open: list[list[Tokens]] = []
        self._rooms: list[int] = []

    def add(self, tokens: Tokens) -> list[Tokens]:
        """Take a conversation of at most a page; pages that became whole, [page_tokens] each."""
        fitting = [number for number, room in enumerate(self._rooms) if room >= tokens.size]
        if fitting:
            chosen = min(fitting, key=lambda number: (self._rooms[number], number))
            self._open[chosen].append(tokens)
            self._rooms[chosen] -= tokens.size
        else:
            chosen = len(self._open)
            self._open.append([tokens])
            self._rooms.append(self.page_tokens - tokens.size)
        if self._rooms[chosen] == 0:
            return [self._take(chosen)]
        if len(self._open) > OPEN_PAGES:
            return [self._take(min(range(len(self._rooms)), key=self._rooms.__getitem__))]
        return []

    def close(self) -> list[Tokens]:
        """The open pages, in the order of their first conversations."""
        return [self._take(0) for _ in range(len(self._open))]

    def _take(self, number: int) -> Tokens:
        parts: Sequence[Tokens] = self._open.pop(number)
        room = self._rooms.pop(number)
        return np.concatenate([*parts, np.full(room, self._filling, parts[0].dtype)])
