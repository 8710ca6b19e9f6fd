"""The promises of `Store`, tested on each adapter."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from template.errors import NotFound, StateError, TooLarge, Unavailable
from template.store import Store
from template.store.keys import MAX_KEY_BYTES
from template.store.multipart import PART_BYTES, BytesSource
from tests.support.objects import data_of

DIGEST = hashlib.sha256(b"payload").hexdigest()
USED_KEYS = [
    "a",
    f"payloads/{DIGEST}",
    f"runs/{DIGEST[:32]}/windows/00000017/verdicts.jsonl",
    "k" * 255,
    "/".join(["k" * 127] * 8),
]


@pytest.mark.parametrize("num_bytes", [0, 1, 65_537, 3_000_001])
def test_what_was_put_is_what_is_got(store: Store, num_bytes: int) -> None:
    data = data_of(num_bytes)
    store.put("object", data)
    assert store.get("object", max_bytes=num_bytes) == data
    assert store.get("object", max_bytes=10 * num_bytes + 1) == data
    assert store.size("object") == num_bytes


def test_every_byte_value_survives(store: Store) -> None:
    data = bytes(range(256)) * 3 + b"\r\n\x00"
    store.put("bytes", data)
    assert store.get("bytes", max_bytes=1_000) == data


def test_put_replaces_the_whole_object(store: Store) -> None:
    store.put("object", data_of(100_000))
    store.put("object", b"short")
    assert store.get("object", max_bytes=100_000) == b"short"
    assert store.size("object") == 5


@pytest.mark.parametrize("num_bytes", [1, 1_000, 2_000_000])
def test_one_byte_over_the_limit_is_too_large(store: Store, num_bytes: int) -> None:
    store.put("object", data_of(num_bytes))
    with pytest.raises(TooLarge, match="object"):
        store.get("object", max_bytes=num_bytes - 1)


@pytest.mark.parametrize(("start", "length"), [(0, 1), (0, 5_000), (7, 1_000), (4_999, 1)])
def test_a_range_is_what_lies_there(store: Store, start: int, length: int) -> None:
    data = data_of(5_000)
    store.put("object", data)
    assert store.get_range("object", start, length) == data[start : start + length]


@pytest.mark.parametrize(("start", "length"), [(0, 101), (99, 2), (100, 1), (10_000, 5)])
def test_a_range_past_the_end_is_no_answer(store: Store, start: int, length: int) -> None:
    store.put("object", data_of(100))
    with pytest.raises(Unavailable, match="object"):
        store.get_range("object", start, length)


def test_a_range_of_nothing_or_of_no_object(store: Store) -> None:
    with pytest.raises(NotFound, match="absent"):
        store.get_range("absent", 0, 1)
    for start, length in ((-1, 1), (0, 0), (0, -1)):
        with pytest.raises(ValueError, match="not usable"):
            store.get_range("object", start, length)


def test_absent_object_is_not_found(store: Store) -> None:
    store.put("here", b"x")
    with pytest.raises(NotFound, match="absent"):
        store.get("absent", max_bytes=10)
    with pytest.raises(NotFound, match="absent"):
        store.size("absent")


@pytest.mark.parametrize("key", USED_KEYS)
def test_keys_as_used(store: Store, key: str) -> None:
    assert len(key) <= MAX_KEY_BYTES
    store.put(key, key.encode())
    assert store.get(key, max_bytes=MAX_KEY_BYTES) == key.encode()
    assert store.list("") == [key]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "a/../b",
        "..",
        ".",
        "a b",
        "a\n",
        "a?b",
        "a%2fb",
        "\u00e9",
        "k" * 1025,
    ],
)
def test_unusable_keys_are_the_callers_mistake(store: Store, key: str) -> None:
    calls = [
        lambda: store.put(key, b""),
        lambda: store.get(key, max_bytes=1),
        lambda: store.get_range(key, 0, 1),
        lambda: store.size(key),
        lambda: store.delete(key),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="not usable"):
            call()


def test_list_is_sorted_and_by_prefix(store: Store) -> None:
    for key in ("b/2", "a/10", "a/9", "ab", "a/1", "b/1"):
        store.put(key, b"x")
    assert store.list("a/") == ["a/1", "a/10", "a/9"]
    assert store.list("a") == ["a/1", "a/10", "a/9", "ab"]
    assert store.list("c") == []
    assert store.list("") == sorted(["b/2", "a/10", "a/9", "ab", "a/1", "b/1"])


@pytest.mark.parametrize(
    "store", ["memory", pytest.param("s3", marks=pytest.mark.slow)], indirect=True
)
def test_list_goes_past_a_thousand_keys(store: Store) -> None:
    keys = [f"page/{number:05d}" for number in range(1_003)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))
    store.put("other", b"")
    assert store.list("page/") == keys


def test_delete_is_idempotent(store: Store) -> None:
    store.put("object", b"x")
    store.delete("object")
    store.delete("object")
    store.delete("never-there")
    with pytest.raises(NotFound):
        store.get("object", max_bytes=1)
    assert store.list("") == []


def test_concurrent_puts_leave_one_whole_value(store: Store) -> None:
    values = [data_of(200_000 + number, seed=number) for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda value: store.put("contested", value), values))
    assert store.get("contested", max_bytes=300_000) in values


def test_eight_threads_read_what_they_asked_for(store: Store) -> None:
    values = {f"object/{number}": data_of(50_000, seed=number) for number in range(32)}
    for key, value in values.items():
        store.put(key, value)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda key: store.get(key, max_bytes=50_000), values))
    assert got == list(values.values())


def test_a_file_is_put_as_its_bytes(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data_of(70_001))
    store.put_file("object", tmp_path / "file")
    assert store.get("object", max_bytes=70_001) == data_of(70_001)
    with pytest.raises(StateError, match="missing"):
        store.put_file("object", tmp_path / "missing")


def test_a_source_is_put_as_its_bytes(store: Store) -> None:
    store.put_source("object", BytesSource(data_of(70_001)))
    assert store.get("object", max_bytes=70_001) == data_of(70_001)


@pytest.mark.parametrize(
    "store", ["memory", pytest.param("s3", marks=pytest.mark.slow)], indirect=True
)
def test_an_object_of_several_parts_is_what_was_put(store: Store) -> None:
    """With the S3 adapter, parts of the default length on a server that holds to S3's minimum."""
    data = data_of(2 * PART_BYTES + 12_345)
    store.put("object", data)
    assert store.size("object") == len(data)
    assert store.get("object", max_bytes=len(data)) == data
    assert store.get_range("object", PART_BYTES - 5, 10) == data[PART_BYTES - 5 : PART_BYTES + 5]
