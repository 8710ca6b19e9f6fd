"""Servers with answers scripted byte by byte: lying, stalling, flooding, hanging up."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from template.secret import Secret
from template.store.s3 import S3Bucket, S3Store
from template.store.transport import TransportLimits
from tests.support.waiting import HANG_S

KEY_ID = "AKIDEXAMPLEKEYID"
SECRET = "wJalrXUtnFEMIsecretEXAMPLE"
OK = b"HTTP/1.1 200 OK\r\n"
LIMITS = TransportLimits(connect_s=1.0, silence_s=0.5, attempt_s=1.0)
"""For an exchange that is to be cut off."""
PATIENT = TransportLimits(connect_s=HANG_S, silence_s=HANG_S, attempt_s=HANG_S)
"""For an exchange that is to succeed, on a machine of any load."""

Answer = Callable[["RawServer", socket.socket], None]
Serve = Callable[..., tuple[S3Store, "RawServer"]]
"""(answers, deadline_s, limits) -> a store at a server with these answers; see `serve`."""


class RawServer:
    """Answers the n-th request with the n-th answer, the last one for ever after."""

    def __init__(self, *answers: Answer) -> None:
        self.requests: list[bytes] = []
        self.stopping = threading.Event()
        self._answers = answers
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self.stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while request := read_request(connection):
                with self._lock:
                    self.requests.append(request)
                    turn = min(len(self.requests), len(self._answers)) - 1
                self._answers[turn](self, connection)


def read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65_536)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    while len(body) < length:
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body


def says(*pieces: bytes, close: bool = False) -> Answer:
    def answer(_: RawServer, connection: socket.socket) -> None:
        connection.sendall(b"".join(pieces))
        if close:
            connection.close()

    return answer


def body_of(data: bytes) -> Answer:
    return says(OK, b"Content-Length: %d\r\n\r\n" % len(data), data)


def floods(head: bytes, piece: bytes) -> Answer:
    def answer(server: RawServer, connection: socket.socket) -> None:
        connection.sendall(head)
        while not server.stopping.is_set():
            connection.sendall(piece)

    return answer


def drips(head: bytes, piece: bytes) -> Answer:
    def answer(server: RawServer, connection: socket.socket) -> None:
        connection.sendall(head)
        while not server.stopping.wait(0.05):
            connection.sendall(piece)

    return answer


def silent(server: RawServer, _: socket.socket) -> None:
    server.stopping.wait()


def bucket_at(url: str) -> S3Bucket:
    return S3Bucket(
        endpoint_url=url,
        bucket="peer-bucket",
        access_key_id=KEY_ID,
        secret_access_key=Secret(SECRET),
    )
