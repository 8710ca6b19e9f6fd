"""A named bucket: calls pass through, and errors name the bucket."""

from collections.abc import Callable

import pytest

from template.errors import Denied, NotFound, StoreError, TooLarge
from template.store import Store
from template.store.memory import MemoryStore
from template.store.named import NamedStore


def test_it_is_the_store_beneath() -> None:
    beneath = MemoryStore()
    store = NamedStore(beneath, "own bucket")
    store.put("a/b", b"abc")
    assert beneath.get("a/b", max_bytes=3) == store.get("a/b", max_bytes=3) == b"abc"
    assert (store.size("a/b"), store.list("a/")) == (3, ["a/b"])
    store.delete("a/b")
    assert beneath.list("") == []


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda s: s.put("x", b""), Denied),
        (lambda s: s.delete("x"), Denied),
        (lambda s: s.get("y", max_bytes=1), NotFound),
        (lambda s: s.size("y"), NotFound),
        (lambda s: s.get("x", max_bytes=1), TooLarge),
    ],
)
def test_an_error_keeps_its_kind_and_gets_the_name(
    call: Callable[[Store], object], kind: type[StoreError]
) -> None:
    beneath = MemoryStore()
    beneath.put("x", b"four")
    with pytest.raises(kind, match="^own bucket: .+"):
        call(NamedStore(beneath.reader(), "own bucket"))
