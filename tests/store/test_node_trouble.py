"""What this machine lacks is never reported as a bucket's fault."""

import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from template.errors import NodeTrouble, Unavailable
from template.store.s3 import S3Store
from tests.support.descriptors import no_descriptor_left
from tests.support.raw_server import PATIENT, RawServer, body_of, bucket_at
from tests.support.waiting import HANG_S


@pytest.fixture
def server() -> Iterator[RawServer]:
    server = RawServer(body_of(b"data"))
    yield server
    server.close()


def opened(url: str, **options: Any) -> S3Store:
    return S3Store(bucket_at(url), limits=PATIENT, **({"deadline_s": 0.0} | options))


def test_a_node_without_descriptors_blames_itself(server: RawServer) -> None:
    store = opened(server.url)
    with no_descriptor_left(), pytest.raises(NodeTrouble, match="EMFILE"):
        store.get("object", max_bytes=4)
    assert server.requests == []
    assert store.get("object", max_bytes=4) == b"data"


class FailingConnect:
    """`socket.connect` that fails `times` times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: BaseException, times: int) -> None:
        connect = socket.socket.connect
        self.num_calls = 0

        def fail(sock: socket.socket, address: Any) -> None:
            self.num_calls += 1
            if self.num_calls <= times:
                raise error
            connect(sock, address)

        monkeypatch.setattr(socket.socket, "connect", fail)


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    "error",
    [
        os_error(number)
        for number in (
            errno.EMFILE,
            errno.ENFILE,
            errno.ENOMEM,
            errno.ENOBUFS,
            errno.EADDRNOTAVAIL,
            errno.ENETDOWN,
            errno.ENETUNREACH,
        )
    ]
    + [MemoryError()],
    ids=lambda error: errno.errorcode.get(getattr(error, "errno", 0), "MemoryError"),
)
def test_what_the_node_lacks_is_its_own_trouble(
    server: RawServer, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    FailingConnect(monkeypatch, error, times=1)
    store = opened(server.url)
    with pytest.raises(NodeTrouble, match="this node could not ask"):
        store.get("object", max_bytes=4)
    assert store.get("object", max_bytes=4) == b"data"


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.ECONNRESET, errno.ETIMEDOUT])
def test_what_the_server_does_is_not(
    server: RawServer, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    FailingConnect(monkeypatch, os_error(number), times=1)
    with pytest.raises(Unavailable) as caught:
        opened(server.url).get("object", max_bytes=4)
    assert not isinstance(caught.value, NodeTrouble)


@pytest.mark.parametrize("waits", [True, False])
def test_a_store_waits_for_its_node_if_it_is_asked_to(
    server: RawServer, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    connect = FailingConnect(monkeypatch, os_error(errno.EMFILE), times=2)
    store = opened(server.url, deadline_s=HANG_S, waits_for_node=waits)
    if waits:
        assert store.get("object", max_bytes=4) == b"data"
        assert connect.num_calls == 3
    else:
        with pytest.raises(NodeTrouble):
            store.get("object", max_bytes=4)
        assert connect.num_calls == 1


@pytest.mark.parametrize(
    ("number", "resolver_works", "is_own"),
    [
        (socket.EAI_AGAIN, True, True),
        (socket.EAI_NONAME, False, True),
        (socket.EAI_NONAME, True, False),
    ],
    ids=["no resolver", "no name resolves", "one name is wrong"],
)
def test_a_name_is_at_fault_only_while_others_resolve(
    monkeypatch: pytest.MonkeyPatch, number: int, resolver_works: bool, is_own: bool
) -> None:
    def resolve(host: str, *_args: Any, **_options: Any) -> list[object]:
        if host == "bucket.invalid" or not resolver_works:
            raise socket.gaierror(number, "no such name")
        return []

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(Unavailable) as caught:
        opened("http://bucket.invalid:1").get("object", max_bytes=4)
    assert isinstance(caught.value, NodeTrouble) == is_own
