"""How much of the held-out text is in the training text: n-grams of tokens, found by hash.

The n-grams of the held-out documents are sampled by their hash, the smallest first, so that any
number of documents takes bounded memory and the same sample comes out in whatever order they come.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from template.data.manifest import BYTE_TOKENIZER, TokenizerEntry
from template.data.overlap import SHINGLE_BYTES

GRAM_TOKENS: Final = 13
"""As in the reports of large models: about ten words, too long for stock phrases."""
SAMPLE: Final = 2**20
"""N-grams that are looked for, at most; the share is then right to about 0.0005."""

Hashes = npt.NDArray[np.uint64]
_MULTIPLIER: Final = 0x9E3779B97F4A7C15
_MASK: Final = 2**64 - 1


def gram_tokens(entry: TokenizerEntry) -> int:
    """Length of an n-gram: 13 tokens, or 40 where a token is a byte."""
    return SHINGLE_BYTES if entry.name == BYTE_TOKENIZER else GRAM_TOKENS


def gram_hashes(tokens: npt.NDArray[np.unsignedinteger], size: int) -> Hashes:
    """A 64-bit hash of the `size` tokens at every place; empty for fewer tokens.

    A polynomial mod 2**64, put together from polynomials of half the length, then mixed.
    """
    num_grams = tokens.size - size + 1
    if num_grams <= 0:
        return np.empty(0, np.uint64)
    power = tokens.astype(np.uint64) + np.uint64(1)  # hashes of windows of `width`
    width = 1
    hashes: Hashes | None = None
    covered = 0
    rest = size
    while True:
        if rest & 1:
            piece = power[covered : covered + num_grams]
            factor = np.uint64(pow(_MULTIPLIER, width, 2**64))
            hashes = piece.copy() if hashes is None else hashes * factor + piece
            covered += width
        rest >>= 1
        if not rest:
            break
        factor = np.uint64(pow(_MULTIPLIER, width, 2**64))
        power = power[:-width] * factor + power[width:]
        width *= 2
    assert hashes is not None
    return _mixed(hashes)


def _mixed(hashes: Hashes) -> Hashes:
    """The finaliser of SplitMix64: the smallest hashes are then a fair sample."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        hashes ^= hashes >> np.uint64(shift)
        hashes *= np.uint64(factor)
    hashes ^= hashes >> np.uint64(31)
    return hashes


class GramSketch:
    """The `limit` smallest different hashes of the n-grams of documents."""

    def __init__(self, size: int, limit: int = SAMPLE) -> None:
        self._size = size
        self._limit = limit
        self._kept = np.empty(0, np.uint64)
        self._new: list[Hashes] = []
        self._num_new = 0

    def add(self, tokens: npt.NDArray[np.unsignedinteger]) -> None:
        """Count in a document, without the token that ends it."""
        self.add_hashes(gram_hashes(tokens, self._size))

    def add_hashes(self, hashes: Hashes) -> None:
        """Count in hashes, of another sketch perhaps."""
        self._new.append(hashes)
        self._num_new += hashes.size
        if self._num_new >= self._limit:
            self._fold()

    @property
    def hashes(self) -> Hashes:
        """The sample, sorted."""
        self._fold()
        return self._kept

    def _fold(self) -> None:
        merged = np.unique(np.concatenate([self._kept, *self._new]))
        self._kept = merged[: self._limit].copy()
        self._new, self._num_new = [], 0
