"""Fault proxies in front of a real HTTP server and a real echo, with the real S3 client."""

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from localnet.proxy import LOOPBACK, HttpProxy, Trouble, WireProxy
from template.errors import Unavailable
from template.secret import Secret
from template.store.s3 import S3Bucket, S3Store
from template.store.transport import TransportLimits
from tests.support.waiting import HANG_S

BODY = bytes(range(256)) * 40
PATIENT = TransportLimits(connect_s=HANG_S, silence_s=HANG_S, attempt_s=HANG_S)


class Bucket(BaseHTTPRequestHandler):
    """Keeps what is put and gives it back; one connection serves many requests."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]

    def do_PUT(self) -> None:
        wanted = int(self.headers["Content-Length"])
        data = self.rfile.read(wanted)
        if len(data) == wanted:
            self.objects[self.path] = data
            self._answer(200, b"")

    def do_GET(self) -> None:
        found = self.objects.get(self.path)
        self._answer(404, b"nothing here") if found is None else self._answer(200, found)

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.objects[self.path])))
        self.end_headers()

    def _answer(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def bucket() -> Iterator[ThreadingHTTPServer]:
    handler = type("Handler", (Bucket,), {"objects": {}})
    with ThreadingHTTPServer((LOOPBACK, 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def proxy(bucket: ThreadingHTTPServer) -> Iterator[HttpProxy]:
    with HttpProxy(bucket.server_port) as proxy:
        yield proxy


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=HANG_S)
    try:
        connection.request(method, path, body=body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_without_trouble_everything_passes(proxy) -> None:
    assert ask(proxy.port, "PUT", "/b/x", BODY) == (200, b"")
    assert ask(proxy.port, "GET", "/b/x") == (200, BODY)
    assert ask(proxy.port, "HEAD", "/b/x") == (200, b"")
    assert ask(proxy.port, "GET", "/b/y") == (404, b"nothing here")
    assert ask(proxy.port, "PUT", "/b/empty", b"") == (200, b"")
    assert ask(proxy.port, "GET", "/b/empty") == (200, b"")
    assert (proxy.passed, dict(proxy.spoiled)) == (6, {})


def test_errors_are_answered_and_counted_until_the_end(proxy, bucket) -> None:
    proxy.begin(Trouble(kind="error"))
    assert ask(proxy.port, "PUT", "/b/x", BODY)[0] == 503
    assert ask(proxy.port, "GET", "/b/x")[0] == 503
    assert bucket.RequestHandlerClass.objects == {}
    proxy.end()
    assert ask(proxy.port, "PUT", "/b/x", BODY)[0] == 200
    assert dict(proxy.spoiled) == {"error": 2}


@pytest.mark.parametrize(("out_of", "expected"), [(1, 6), (2, 3), (3, 4), (6, 5), (7, 6)])
def test_one_of_some_passes(proxy, out_of, expected) -> None:
    proxy.begin(Trouble(kind="error", out_of=out_of))
    statuses = [ask(proxy.port, "GET", "/b/x")[0] for _ in range(6)]
    assert statuses.count(503) == expected == proxy.spoiled["error"]


def test_only_the_paths_concerned(proxy) -> None:
    proxy.begin(Trouble(kind="error", paths=("/theirs/", "/others/")))
    assert [ask(proxy.port, "GET", f"/{b}/x")[0] for b in ("theirs", "others", "own", "their")] == [
        503, 503, 404, 404,
    ]  # fmt: skip


def test_refusal_closes_unanswered(proxy) -> None:
    proxy.begin(Trouble(kind="refuse"))
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        ask(proxy.port, "GET", "/b/x")
    assert dict(proxy.spoiled) == {"refuse": 1}


def test_a_truncated_answer_is_half_of_it(proxy) -> None:
    ask(proxy.port, "PUT", "/b/x", BODY)
    proxy.begin(Trouble(kind="truncate"))
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(proxy.port, "GET", "/b/x")
    assert caught.value.partial == BODY[: len(BODY) // 2]
    assert ask(proxy.port, "HEAD", "/b/x")[0] == 200
    assert dict(proxy.spoiled) == {"truncate": 1}


def test_a_truncated_upload_leaves_nothing(proxy, bucket) -> None:
    proxy.begin(Trouble(kind="truncate"))
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        ask(proxy.port, "PUT", "/b/x", BODY)
    assert bucket.RequestHandlerClass.objects == {}


def test_slow_is_slow_and_ends_with_the_trouble(proxy) -> None:
    ask(proxy.port, "PUT", "/b/x", BODY)
    proxy.begin(Trouble(kind="slow", bytes_per_s=20_000))
    started_s = time.monotonic()
    assert ask(proxy.port, "GET", "/b/x") == (200, BODY)
    assert time.monotonic() - started_s > 0.8 * len(BODY) / 20_000
    proxy.begin(Trouble(kind="slow", bytes_per_s=100))
    threading.Timer(0.2, proxy.end).start()
    assert ask(proxy.port, "GET", "/b/x") == (200, BODY)
    assert dict(proxy.spoiled) == {"slow": 2}


def test_a_head_without_end_is_hung_up_on(proxy) -> None:
    with socket.create_connection((LOOPBACK, proxy.port), timeout=HANG_S) as wire:
        wire.sendall(b"GET /" + b"x" * 70_000)
        assert hears_end(wire)
    assert ask(proxy.port, "GET", "/b/x")[0] == 404


def test_the_s3_client_gets_through_what_is_worth_another_try(proxy) -> None:
    bucket = S3Bucket(
        endpoint_url=f"http://{LOOPBACK}:{proxy.port}",
        bucket="bbb",
        access_key_id="id",
        secret_access_key=Secret("key"),
    )
    store = S3Store(bucket, deadline_s=HANG_S, limits=PATIENT)
    for trouble in (Trouble(kind="error", out_of=2), Trouble(kind="truncate", out_of=2)):
        proxy.begin(trouble)
        store.put(trouble.kind, BODY)
        assert store.get(trouble.kind, max_bytes=len(BODY)) == BODY
        assert proxy.spoiled[trouble.kind] >= 1
    proxy.begin(Trouble(kind="error"))
    with pytest.raises(Unavailable):
        S3Store(bucket, deadline_s=0.0, limits=PATIENT).get("error", max_bytes=len(BODY))
    store.close()


@pytest.fixture
def wire() -> Iterator[WireProxy]:
    """In front of a server that says everything again."""
    listener = socket.create_server((LOOPBACK, 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(client,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    with WireProxy(listener.getsockname()[1]) as proxy:
        yield proxy
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def echo(client: socket.socket) -> None:
    with client:
        while data := client.recv(4096):
            client.sendall(data)


def hears_end(wire: socket.socket) -> bool:
    try:
        return wire.recv(10) == b""
    except ConnectionError:
        return True


def test_a_wire_passes_is_cut_and_passes_again(wire) -> None:
    with socket.create_connection((LOOPBACK, wire.port), timeout=HANG_S) as old:
        old.sendall(b"hello")
        assert old.recv(10) == b"hello"
        wire.begin(Trouble(kind="refuse"))
        assert hears_end(old)
    with socket.create_connection((LOOPBACK, wire.port), timeout=HANG_S) as refused:
        assert hears_end(refused)
    wire.end()
    with socket.create_connection((LOOPBACK, wire.port), timeout=HANG_S) as new:
        new.sendall(b"again")
        assert new.recv(10) == b"again"
    assert (wire.passed, dict(wire.spoiled)) == (2, {"refuse": 2})


def test_a_cut_that_nobody_meets_counts_nothing(wire) -> None:
    wire.begin(Trouble(kind="refuse"))
    wire.end()
    assert dict(wire.spoiled) == {}


@pytest.mark.parametrize(
    "trouble", [Trouble(kind="slow"), Trouble(kind="error"), Trouble(kind="refuse", paths=("/a",))]
)
def test_a_wire_knows_no_requests(wire, trouble) -> None:
    with pytest.raises(ValueError, match="can only refuse"):
        wire.begin(trouble)


def test_after_the_block_nobody_listens(bucket) -> None:
    with HttpProxy(bucket.server_port) as proxy:
        port = proxy.port
    with pytest.raises(ConnectionRefusedError):
        ask(port, "GET", "/b/x")
