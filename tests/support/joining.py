"""A run that has ended, for tests of joiners: the names, and buckets that count their reads."""

from collections import Counter
from collections.abc import Callable

from simulation.world import hotkey_of
from template.store.memory import MemoryStore

WINDOW = 4
PART_BYTES = 2**13
"""The newest checkpoint that final votes prove."""
OWNER, FIRST, SECOND, NEWCOMER = (hotkey_of(n) for n in ("owner", "val-a", "val-b", "m1"))


class Watched(MemoryStore):
    """A bucket that counts what was read of it, and may end the process that reads."""

    def __init__(self) -> None:
        super().__init__()
        self.gets: Counter[str] = Counter()
        self.before_get: Callable[[str], None] = lambda _key: None

    def get(self, key: str, *, max_bytes: int) -> bytes:
        self.before_get(key)
        data = super().get(key, max_bytes=max_bytes)
        self.gets[key] += 1
        return data
