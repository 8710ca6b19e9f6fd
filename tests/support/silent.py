"""A bucket that takes requests and answers none."""

from threading import Event

from template.errors import NotFound
from template.store.memory import MemoryStore


class Silent(MemoryStore):
    """A bucket that takes a request and never answers it."""

    def __init__(self) -> None:
        super().__init__()
        self.released = Event()

    def reader(self) -> "Silent":
        return self

    def get(self, key: str, *, max_bytes: int) -> bytes:
        self.released.wait(30)
        raise NotFound(key)
