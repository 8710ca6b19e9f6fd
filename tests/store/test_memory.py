"""The memory store beyond the contract: read-only views."""

import pytest

from template.errors import Denied
from template.store.memory import MemoryStore


def test_reader_sees_the_same_objects_and_cannot_change_them() -> None:
    store = MemoryStore()
    reader = store.reader()
    store.put("object", b"one")
    assert reader.get("object", max_bytes=3) == b"one"
    with pytest.raises(Denied):
        reader.put("object", b"two")
    with pytest.raises(Denied):
        reader.delete("object")
    assert store.get("object", max_bytes=3) == b"one"
    assert reader.list("") == ["object"]
    assert reader.size("object") == 3


def test_stored_bytes_do_not_follow_the_callers_buffer() -> None:
    store = MemoryStore()
    buffer = bytearray(b"one")
    store.put("object", buffer)  # type: ignore[arg-type]
    buffer[:] = b"two"
    assert store.get("object", max_bytes=3) == b"one"
