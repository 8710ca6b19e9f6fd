"""A bucket whose key may not delete: what lies in it stays, as an archive of a run needs it."""

from template.errors import Denied
from template.store.memory import MemoryStore


class Archive(MemoryStore):
    """Gives up nothing while `is_closed`."""

    def __init__(self) -> None:
        super().__init__()
        self.is_closed = True

    def delete(self, key: str) -> None:
        if self.is_closed:
            raise Denied(f"cannot delete {key}: this credential may not")
        super().delete(key)
