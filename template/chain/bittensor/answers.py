"""A bounded memory of answers about final blocks, for which the chain's answer never changes."""

import threading
from collections import OrderedDict
from collections.abc import Hashable


class AnswerCache:
    """The most recently used answers, at most `capacity`. Safe to share between threads."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._items: OrderedDict[Hashable, object] = OrderedDict()

    def clear(self) -> None:
        with self._lock:
            self._items.clear()

    def get(self, key: Hashable) -> object | None:
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def put(self, key: Hashable, answer: object) -> None:
        with self._lock:
            self._items[key] = answer
            self._items.move_to_end(key)
            while len(self._items) > self._capacity:
                self._items.popitem(last=False)
