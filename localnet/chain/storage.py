"""Byte keys to byte values, readable as of every sealed block.

Owns versions, transactions and key order. `state.py` owns SCALE and pallets.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from contextlib import contextmanager


class _History:
    """A key's values and the blocks of the writes; None stands for removed."""

    __slots__ = ("blocks", "values")

    def __init__(self) -> None:
        self.blocks: list[int] = []
        self.values: list[bytes | None] = []

    def at(self, block: int) -> bytes | None:
        index = bisect_right(self.blocks, block)
        return self.values[index - 1] if index else None


class VersionedStore:
    """Writes collect in an open block; `seal` makes the state after the block.

    Memory grows with the number of writes, not with blocks times keys. Not thread-safe:
    one thread owns a store.
    """

    def __init__(self) -> None:
        self._histories: dict[bytes, _History] = {}
        self._sorted_keys: list[bytes] = []
        # The open block's writes, then those of each open transaction, the innermost last.
        self._layers: list[dict[bytes, bytes | None]] = [{}]

    def read(self, key: bytes, block: int | None = None) -> bytes | None:
        """The value after `block`, or in the open block if `block` is None."""
        if block is None:
            for layer in reversed(self._layers):
                if key in layer:
                    return layer[key]
        history = self._histories.get(key)
        if history is None:
            return None
        return history.values[-1] if block is None else history.at(block)

    def write(self, key: bytes, value: bytes | None) -> None:
        """Set a key in the open block; None removes it."""
        self._layers[-1][key] = value

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Writes inside are kept only if the body does not raise; transactions nest."""
        outer = self._layers[-1]
        written: dict[bytes, bytes | None] = {}
        self._layers.append(written)
        try:
            yield
            outer.update(written)
        finally:
            self._layers.pop()

    def seal(self, block: int) -> list[tuple[bytes, bytes | None]]:
        """Close the open block as `block` and return its net changes in key order.

        Blocks must be sealed in ascending order.
        """
        assert len(self._layers) == 1, "a transaction is open"
        changes = []
        written = self._layers[0]
        for key in sorted(written):
            value = written[key]
            if value != self._latest(key):
                self._append(key, block, value)
                changes.append((key, value))
        self._layers = [{}]
        return changes

    def load(self, block: int, changes: list[tuple[bytes, bytes | None]]) -> None:
        """Apply the changes returned by `seal` for this block, in ascending block order."""
        for key, value in changes:
            self._append(key, block, value)

    def keys(self, prefix: bytes, block: int | None = None, *, after: bytes = b"") -> list[bytes]:
        """Present keys with this `prefix`, sorted after `after`, in order."""
        if block is not None:
            return [k for k in self._known(prefix, after) if self.read(k, block) is not None]
        fresh = {k for k in self._written() if k.startswith(prefix) and k > after}
        known = fresh.union(self._known(prefix, after))
        return sorted(k for k in known if self.read(k) is not None)

    def _written(self) -> Iterator[bytes]:
        for layer in self._layers:
            yield from layer

    def _known(self, prefix: bytes, after: bytes) -> Iterator[bytes]:
        start = bisect_left(self._sorted_keys, prefix)
        if after >= prefix:
            start = max(start, bisect_right(self._sorted_keys, after))
        for index in range(start, len(self._sorted_keys)):
            key = self._sorted_keys[index]
            if not key.startswith(prefix):
                return
            yield key

    def _latest(self, key: bytes) -> bytes | None:
        history = self._histories.get(key)
        return history.values[-1] if history else None

    def _append(self, key: bytes, block: int, value: bytes | None) -> None:
        history = self._histories.get(key)
        if history is None:
            history = self._histories[key] = _History()
            insort(self._sorted_keys, key)
        assert not history.blocks or history.blocks[-1] < block, "blocks are sealed in order"
        history.blocks.append(block)
        history.values.append(value)
