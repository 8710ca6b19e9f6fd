"""A small HTTP server for pages of a neuron: strangers cost it little memory and little time.

Each connection has a thread, a deadline and one request; a connection beyond the cap is closed at
once. What a client sends, or does not send, holds neither another client nor the neuron's end.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

log = logging.getLogger(__name__)

CONNECTION_LIMIT_S: Final = 3.0
"""Longest life of a connection, from its acceptance to the answer's last byte."""
MAX_CONNECTIONS: Final = 16
"""A server of Prometheus holds one."""
POLL_S: Final = 0.1
CLOSE_LIMIT_S: Final = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An answer: HTTP status, content type, bytes."""

    status: int
    kind: str
    body: bytes


class MetricsServer(ThreadingHTTPServer):
    """Answers GET and HEAD with `answer(path)`, on threads of its own."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self, family: socket.AddressFamily, host: str, port: int, answer: Callable[[str], Answer]
    ) -> None:
        """Open the port. Raises OSError or UnicodeError if the address cannot be had."""
        self.address_family = family
        self.answer = answer
        self._lock = threading.Lock()
        self._open: dict[socket.socket, float] = {}  # connection -> its deadline
        self._thread = threading.Thread(
            target=self.serve_forever, args=(POLL_S,), name="metrics-http", daemon=True
        )
        super().__init__((host, port), _Handler)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Close the port and end every connection, in `CLOSE_LIMIT_S`; may be called twice."""
        # shutdown() waits without a limit, so it waits on a thread that nobody joins for ever.
        ending = threading.Thread(target=self.shutdown, name="metrics-close", daemon=True)
        ending.start()
        ending.join(CLOSE_LIMIT_S)
        self.server_close()
        self._end_connections(before_s=float("inf"))

    def server_bind(self) -> None:
        """Without the base's look-up of the host's full name, which may wait for a name server."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def verify_request(self, request: Any, _client_address: Any) -> bool:
        """Whether there is room for one more connection; the base closes it if not."""
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                return False
            self._open[request] = time.monotonic() + CONNECTION_LIMIT_S
        return True

    def service_actions(self) -> None:
        """Several times a second, and after each acceptance: end what is beyond its deadline.

        A timeout of the socket alone would begin anew with each byte.
        """
        self._end_connections(before_s=time.monotonic())

    def shutdown_request(self, request: Any) -> None:
        """The end of a connection, answered or refused."""
        # First out of the table: a closed socket's number may be another's already.
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """A client that went away, or sent nonsense, is no matter of the neuron's log."""
        log.debug("metrics: a request failed", exc_info=True)

    def _end_connections(self, *, before_s: float) -> None:
        # Under the lock, so that the connection's own thread does not close it meanwhile.
        with self._lock:
            for connection in [c for c, end_s in self._open.items() if end_s <= before_s]:
                try:
                    connection.shutdown(socket.SHUT_RDWR)  # its thread's read or write ends
                except OSError:
                    log.debug("metrics: a connection was gone before its deadline")


class _Handler(BaseHTTPRequestHandler):
    timeout = CONNECTION_LIMIT_S
    server_version, sys_version = "tessera", ""
    server: MetricsServer

    def do_GET(self) -> None:
        found = self.server.answer(self.path.partition("?")[0])
        self.send_response(found.status)
        self.send_header("Content-Type", found.kind)
        self.send_header("Content-Length", str(len(found.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(found.body)

    do_HEAD = do_GET

    def log_message(self, *_args: Any) -> None:
        """A stranger's request writes no line into the neuron's log."""


def open_server(host: str, port: int, answer: Callable[[str], Answer]) -> MetricsServer:
    """A server on an address of IPv4 or IPv6. OSError or UnicodeError if it cannot be had."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return MetricsServer(found[0][0], host, port, answer)
