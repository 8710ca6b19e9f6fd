"""Puts a bucket's name into error messages: a node writes to its own bucket and reads many."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from template.errors import StoreError
from template.store.types import Source, Store, Take

T = TypeVar("T")


class NamedStore:
    """A `Store` around another `Store`: errors keep their class and start with `name`."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name

    def put(self, key: str, data: bytes) -> None:
        self._call_with_name(lambda: self._store.put(key, data))

    def put_file(self, key: str, path: Path) -> None:
        self._call_with_name(lambda: self._store.put_file(key, path))

    def put_source(self, key: str, source: Source) -> None:
        self._call_with_name(lambda: self._store.put_source(key, source))

    def get(self, key: str, *, max_bytes: int) -> bytes:
        return self._call_with_name(lambda: self._store.get(key, max_bytes=max_bytes))

    def stream(self, key: str, take: Take, *, start: int = 0, max_bytes: int) -> None:
        self._call_with_name(
            lambda: self._store.stream(key, take, start=start, max_bytes=max_bytes)
        )

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._call_with_name(lambda: self._store.get_range(key, start, length))

    def size(self, key: str) -> int:
        return self._call_with_name(lambda: self._store.size(key))

    def list(self, prefix: str) -> list[str]:
        return self._call_with_name(lambda: self._store.list(prefix))

    def delete(self, key: str) -> None:
        self._call_with_name(lambda: self._store.delete(key))

    def close(self) -> None:
        self._store.close()

    def _call_with_name(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except StoreError as error:
            raise type(error)(f"{self._name}: {error}") from error
