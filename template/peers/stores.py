"""The open stores of peers' buckets: one per hotkey, bounded in number.

An open store holds a client, memory and idle connections. A stranger rotates an access record as
often as the chain allows, and a subnet has more hotkeys than a node has descriptors.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar

from template.context import OpenBucket
from template.protocol.record import Access
from template.store import Store

T = TypeVar("T")

MAX_OPEN_STORES = 128
"""Open stores without a request. With more hotkeys, stores are opened again: 10 ms each."""


@dataclass(slots=True)
class _OpenStore:
    """`num_uses`: requests under way."""

    access: Access
    store: Store
    num_uses: int = 0


class OpenStores:
    """Opens a store at its first use; safe from any number of threads.

    A store is closed when its hotkey has another access record, or when the store is the least
    recently used of too many; never while a request uses the store.
    """

    def __init__(self, open_bucket: OpenBucket, *, max_open: int = MAX_OPEN_STORES) -> None:
        self._open_bucket, self._max_open = open_bucket, max_open
        self._lock = Lock()
        self._open: OrderedDict[str, _OpenStore] = OrderedDict()

    def call(self, hotkey: str, access: Access, ask: Callable[[Store], T]) -> T:
        """`ask` with the hotkey's store. Raises what `ask` and the opener raise."""
        with self._in_use(hotkey, access) as store:
            return ask(store)

    def keep_only(self, accesses: Mapping[str, Access]) -> None:
        """Close the stores of other access records than these (hotkey -> access)."""
        with self._lock:
            for hotkey in [h for h, o in self._open.items() if accesses.get(h) != o.access]:
                self._retire(hotkey)

    def close_idle(self) -> None:
        """Close every store without a request, to free descriptors and memory."""
        with self._lock:
            self._close_idle(keep=0)

    @contextmanager
    def _in_use(self, hotkey: str, access: Access) -> Iterator[Store]:
        with self._lock:
            used = self._take(hotkey, access)
            used.num_uses += 1
        try:
            yield used.store
        finally:
            with self._lock:
                used.num_uses -= 1
                if self._open.get(hotkey) is used:
                    self._close_idle(keep=self._max_open)
                elif not used.num_uses:
                    used.store.close()

    def _take(self, hotkey: str, access: Access) -> _OpenStore:
        found = self._open.get(hotkey)
        if found is not None and found.access != access:
            self._retire(hotkey)
            found = None
        if found is None:
            found = _OpenStore(access=access, store=self._open_bucket(hotkey, access))
            self._open[hotkey] = found
        self._open.move_to_end(hotkey)
        return found

    def _retire(self, hotkey: str) -> None:
        """Forget a store; the last request closes a store in use."""
        retired = self._open.pop(hotkey)
        if not retired.num_uses:
            retired.store.close()

    def _close_idle(self, *, keep: int) -> None:
        """Close idle stores, the least recently used first, until `keep` stores are open."""
        idle = [hotkey for hotkey, found in self._open.items() if not found.num_uses]
        for hotkey in idle[: max(0, len(self._open) - keep)]:
            self._retire(hotkey)
