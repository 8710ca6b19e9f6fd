"""The versioned store against a naive copy of a dict per block."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localnet.chain.storage import VersionedStore

KEYS = st.sampled_from([b"a", b"aa", b"ab", b"b", b"ba"])
WRITES = st.lists(st.tuples(KEYS, st.one_of(st.none(), st.binary(min_size=1, max_size=2))))


@settings(max_examples=60, deadline=None)
@given(st.lists(WRITES, max_size=6))
def test_every_past_block_reads_as_a_copied_dict_would(
    blocks: list[list[tuple[bytes, bytes | None]]],
) -> None:
    store = VersionedStore()
    naive: dict[bytes, bytes | None] = {}
    snapshots: list[dict[bytes, bytes]] = []
    for number, writes in enumerate(blocks):
        for key, value in writes:
            store.write(key, value)
            naive[key] = value
        store.seal(number)
        snapshots.append({k: v for k, v in naive.items() if v is not None})
    for number, snapshot in enumerate(snapshots):
        for key in (b"a", b"aa", b"ab", b"b", b"ba", b"none"):
            assert store.read(key, number) == snapshot.get(key)
        for prefix, after in ((b"a", b""), (b"a", b"aa"), (b"", b""), (b"b", b"a"), (b"a", b"b")):
            wanted = sorted(k for k in snapshot if k.startswith(prefix) and k > after)
            assert store.keys(prefix, number, after=after) == wanted


def test_the_open_block_is_read_without_a_number_and_hidden_from_sealed_ones() -> None:
    store = VersionedStore()
    store.write(b"k", b"old")
    store.seal(0)
    store.write(b"k", b"new")
    store.write(b"kk", b"more")
    assert store.read(b"k") == b"new"
    assert store.read(b"k", 0) == b"old"
    assert store.keys(b"k") == [b"k", b"kk"]
    assert store.keys(b"k", 0) == [b"k"]
    assert store.keys(b"k", after=b"k") == [b"kk"]


def test_seal_reports_net_changes_in_key_order() -> None:
    store = VersionedStore()
    store.write(b"b", b"1")
    store.write(b"a", b"1")
    assert store.seal(0) == [(b"a", b"1"), (b"b", b"1")]
    store.write(b"a", b"2")
    store.write(b"a", b"1")
    store.write(b"b", None)
    assert store.seal(1) == [(b"b", None)]


def test_a_transaction_that_raises_leaves_nothing() -> None:
    store = VersionedStore()
    store.write(b"k", b"kept")

    def fail_after_writing() -> None:
        with store.transaction():
            store.write(b"k", b"lost")
            store.write(b"x", b"lost")
            assert store.read(b"k") == b"lost"
            assert store.keys(b"") == [b"k", b"x"]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after_writing()
    assert store.read(b"k") == b"kept"
    assert store.keys(b"") == [b"k"]
    with store.transaction():
        store.write(b"x", b"kept too")
    store.seal(0)
    assert store.read(b"x", 0) == b"kept too"
