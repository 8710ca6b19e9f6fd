"""The test of a bucket and both keys; against a real server in tests/localnet."""

import re

import pytest

from template.cli.environment import ENVIRONMENT
from template.errors import ConfigError, Denied, NotFound, StoreError, Unavailable
from template.store import Store
from template.store.memory import MemoryStore
from template.store.probe import READ_KEY, WRITE_KEY, check_bucket, check_private


class Broken(MemoryStore):
    """A bucket with some calls failing."""

    def __init__(self, error: StoreError, *calls: str) -> None:
        super().__init__()
        self._error = error
        self._calls = calls

    def put(self, key: str, data: bytes) -> None:
        self._fail("put")
        super().put(key, data)

    def get(self, key: str, *, max_bytes: int) -> bytes:
        self._fail("get")
        return super().get(key, max_bytes=max_bytes)

    def delete(self, key: str) -> None:
        self._fail("delete")
        super().delete(key)

    def size(self, key: str) -> int:
        self._fail("size")
        return super().size(key)

    def _fail(self, call: str) -> None:
        if call in self._calls:
            raise self._error


class Forging(MemoryStore):
    """A bucket that returns wrong bytes."""

    def get(self, key: str, *, max_bytes: int) -> bytes:
        return bytes(max_bytes)


DENIED = Broken(Denied("403"), "size")
"""Another bucket, seen with a read key of one bucket."""


def test_a_good_bucket_passes_step_by_step_and_is_left_empty() -> None:
    bucket = MemoryStore()
    steps: list[str] = []
    check_bucket(bucket, bucket.reader(), DENIED, where="here", say=steps.append)
    assert len(steps) == 4
    assert "cannot write" in steps[2]
    assert "no other bucket" in steps[3]
    assert bucket.list("") == []


def test_a_write_key_that_cannot_delete_is_good_enough() -> None:
    bucket = Broken(Denied("no"), "delete")
    check_bucket(bucket, bucket.reader(), DENIED, where="here")
    assert len(bucket.list("probe/")) == 1


@pytest.mark.parametrize(
    ("writer", "words"),
    [
        (Broken(NotFound("404"), "put"), ("no such bucket", "create it")),
        (Broken(Denied("403"), "put"), ("write key was refused", WRITE_KEY, "403")),
    ],
)
def test_a_bucket_that_cannot_be_written_is_a_config_error(writer, words) -> None:
    with pytest.raises(ConfigError) as raised:
        check_bucket(writer, writer.reader(), DENIED, where="bucket B at U")
    assert str(raised.value).startswith("bucket B at U: ")
    assert [word for word in words if word not in str(raised.value)] == []


@pytest.mark.parametrize(
    ("reader", "words"),
    [
        (Broken(Denied("403"), "get"), ("read key was refused", READ_KEY)),
        (MemoryStore(), ("does not see", READ_KEY)),
        (Forging(), ("other bytes", READ_KEY)),
    ],
)
def test_a_read_key_that_does_not_read_this_bucket_is_a_config_error(reader, words) -> None:
    writer = MemoryStore()
    with pytest.raises(ConfigError) as raised:
        check_bucket(writer, reader, DENIED, where="here")
    assert [word for word in words if word not in str(raised.value)] == []
    assert writer.list("") == []


def test_a_read_key_that_writes_is_refused() -> None:
    bucket = MemoryStore()
    with pytest.raises(ConfigError, match="can WRITE, and it is published on chain") as raised:
        check_bucket(bucket, bucket, DENIED, where="here")
    assert READ_KEY in str(raised.value)
    assert bucket.list("") == []


class Full(MemoryStore):
    """A bucket with every object."""

    def size(self, key: str) -> int:
        return 32


@pytest.mark.parametrize("elsewhere", [MemoryStore(), Full()], ids=["nothing there", "read"])
def test_a_read_key_of_the_whole_account_is_refused(elsewhere: Store) -> None:
    """A server tells only a key of the account that another bucket does not exist."""
    bucket = MemoryStore()
    with pytest.raises(ConfigError, match="reads OTHER BUCKETS of this account") as raised:
        check_bucket(bucket, bucket.reader(), elsewhere, where="here")
    assert READ_KEY in str(raised.value)
    assert "applied to specific buckets only" in str(raised.value)
    assert bucket.list("") == []


def test_a_message_names_bucket_and_server_once() -> None:
    """The store has named the bucket, and `where` has."""
    where = "TESSERA_R2_ACCOUNT_ID https://a.r2.cloudflarestorage.com, bucket tessera-x"
    error = Denied("tessera-x/probe/ab: the server said 403", reason="the server said 403")
    for writer, reader in (
        (Broken(error, "put"), MemoryStore()),
        (MemoryStore(), Broken(error, "get")),
    ):
        with pytest.raises(ConfigError, match="the server said 403") as raised:
            check_bucket(writer, reader, DENIED, where=where)
        assert str(raised.value).count("tessera-x") == 1


@pytest.mark.parametrize("call", ["put", "get"])
def test_an_outage_stays_an_outage(call: str) -> None:
    writer = Broken(Unavailable("away"), call) if call == "put" else MemoryStore()
    with pytest.raises(Unavailable, match="away"):
        check_bucket(writer, Broken(Unavailable("away"), "get", "put"), DENIED, where="here")


def test_the_variables_that_the_messages_name_exist() -> None:
    named = re.findall(r"TESSERA_\w+", f"{WRITE_KEY}, {READ_KEY}")
    assert len(named) == 4
    assert set(named) <= set(ENVIRONMENT)


def test_a_closed_bucket_passes_and_is_left_empty() -> None:
    bucket = MemoryStore()
    check_private(bucket, Broken(Denied("403"), "put", "size"), where="here")
    check_private(bucket, Broken(NotFound("404"), "put", "size"), where="here")
    assert bucket.list("") == []


@pytest.mark.parametrize(
    ("open_to", "words"), [("put", "anybody writes"), ("size", "anybody reads")]
)
def test_a_bucket_open_to_anybody_is_a_config_error(open_to: str, words: str) -> None:
    bucket = MemoryStore()
    closed = {"put", "size"} - {open_to}
    with pytest.raises(ConfigError, match=words) as raised:
        check_private(bucket, Anybody(bucket, closed), where="bucket B")
    assert str(raised.value).startswith("bucket B: the bucket is PUBLIC")
    assert bucket.list("") == []


class Anybody(Broken):
    """A bucket without a key, open but for some calls."""

    def __init__(self, bucket: MemoryStore, closed: set[str]) -> None:
        super().__init__(Denied("403"), *closed)
        self._bucket = bucket

    def size(self, key: str) -> int:
        self._fail("size")
        return self._bucket.size(key)
