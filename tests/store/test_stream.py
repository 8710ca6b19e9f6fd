"""Downloads that go on after a cut: what is asked for again, and what no server achieves."""

import socket
from collections.abc import Iterator

import pytest

from template.errors import NotFound, StoreError, TooLarge, Unavailable
from template.store import Store
from tests.support.objects import data_of
from tests.support.part_server import PartServer
from tests.support.raw_server import OK, RawServer, Serve, says
from tests.support.waiting import HANG_S

PART = b"HTTP/1.1 206 Part\r\n"


@pytest.fixture
def server() -> Iterator[PartServer]:
    server = PartServer()
    yield server
    server.close()


def streamed(store: Store, key: str, *, start: int = 0, max_bytes: int = 10**7) -> bytes:
    pieces: list[bytes] = []
    store.stream(key, pieces.append, start=start, max_bytes=max_bytes)
    return b"".join(pieces)


@pytest.mark.parametrize("start", [0, 1, 4_999, 5_000])
def test_a_stream_is_the_object_from_a_byte_on(store: Store, start: int) -> None:
    data = data_of(5_000)
    store.put("object", data)
    if start < len(data):
        assert streamed(store, "object", start=start) == data[start:]
    with pytest.raises(Unavailable):
        streamed(store, "object", start=5_001)
    with pytest.raises(TooLarge):
        streamed(store, "object", start=start % 5_000, max_bytes=4_999)
    with pytest.raises(NotFound):
        streamed(store, "absent")


def test_what_came_before_a_cut_is_not_asked_for_again(server: PartServer) -> None:
    data = data_of(1_000_000)
    server.objects["object"] = data
    server.cuts = {1: 300_000, 2: 1, 3: 200_000}.get
    assert server.store(deadline_s=HANG_S).get("object", max_bytes=len(data)) == data
    ranges = [asked.split()[2] for asked in server.asked]
    assert ranges == ["whole", "bytes=300000-", "bytes=300001-", "bytes=500001-"]
    assert server.sent_bytes == len(data)


def test_a_cut_at_every_turn_ends_the_download(server: PartServer) -> None:
    server.objects["object"] = data_of(1_000_000)
    server.cuts = lambda _number: 10
    with pytest.raises(Unavailable, match="object"):
        server.store(deadline_s=1.0).get("object", max_bytes=10**7)
    assert server.sent_bytes <= 160


def test_enough_bytes_earn_another_round(server: PartServer, monkeypatch) -> None:
    """With a deadline of nothing each round is one request."""
    monkeypatch.setattr("template.store.s3.ROUND_BYTES", 100_000)
    data = data_of(1_000_000)
    server.objects["object"] = data
    server.cuts = lambda _number: 100_000
    assert server.store().get("object", max_bytes=len(data)) == data
    assert server.sent_bytes == len(data)
    server.cuts = lambda _number: 99_999
    with pytest.raises(Unavailable):
        server.store().get("object", max_bytes=len(data))


def test_a_caller_may_stop_at_any_byte(server: PartServer) -> None:
    class Enough(Exception):
        pass

    def take(_piece: bytes) -> None:
        raise Enough

    server.objects["object"] = data_of(3_000_000)
    with pytest.raises(Enough):
        server.store(deadline_s=HANG_S).stream("object", take, max_bytes=10**7)
    assert len(server.asked) == 1


FIRST = says(OK, b'ETag: "a"\r\nContent-Length: 10\r\n\r\n01234', close=True)


@pytest.mark.parametrize(
    "second",
    [
        says(OK, b"Content-Length: 10\r\n\r\n0123456789"),
        says(PART, b"Content-Length: 5\r\n\r\n56789"),
        says(PART, b"Content-Range: bytes 4-9/10\r\nContent-Length: 6\r\n\r\n456789"),
        says(PART, b"Content-Range: bytes 5-9/11\r\nContent-Length: 5\r\n\r\n56789"),
        says(PART, b"Content-Range: bytes 5-10/11\r\nContent-Length: 6\r\n\r\n56789a"),
        says(PART, b"Content-Range: bytes 5-8/10\r\nContent-Length: 4\r\n\r\n5678"),
        says(PART, b"Content-Range: bytes 5-9/*\r\nContent-Length: 5\r\n\r\n56789"),
        says(PART, b"Content-Range: bytes 5-%s/9\r\nContent-Length: 5\r\n\r\n5" % (b"9" * 5000)),
        says(PART, b"Content-Range: bytes 5-9/10\r\nContent-Length: 999999999\r\n\r\n56789"),
        says(b"HTTP/1.1 412 Changed\r\nContent-Length: 0\r\n\r\n"),
        says(b"HTTP/1.1 416 Range\r\nContent-Length: 0\r\n\r\n"),
    ],
    ids=[
        "the whole again",
        "no range",
        "from before",
        "another length",
        "longer",
        "not to the end",
        "no total",
        "digits without end",
        "a longer body",
        "changed",
        "no such range",
    ],
)
def test_a_lie_about_a_range_is_refused_at_once(serve: Serve, second) -> None:
    store, server = serve(FIRST, second, deadline_s=HANG_S)
    came: list[bytes] = []
    with pytest.raises(StoreError, match="peer-bucket/object"):
        store.stream("object", came.append, max_bytes=100)
    assert b"".join(came) == b"01234", "no byte of the lie is taken"
    assert len(server.requests) == 2
    assert b"bytes=5-" in server.requests[1]
    assert b'if-match: "a"' in server.requests[1].lower()


def test_ranges_of_nothing_cost_no_more_tries_than_silence(serve: Serve) -> None:
    """A server that accepts every range and sends no byte of it."""

    def empty(server: RawServer, connection: socket.socket) -> None:
        if len(server.requests) == 1:
            FIRST(server, connection)
            return
        head = b"Content-Range: bytes 5-9/10\r\nContent-Length: 5\r\n\r\n"
        connection.sendall(PART + head)
        connection.close()

    store, server = serve(empty, deadline_s=1.0)
    with pytest.raises(Unavailable):
        store.get("object", max_bytes=100)
    assert 2 <= len(server.requests) <= 16
