"""Fault proxies: a proxy between a process and a server, able to spoil the traffic.

`WireProxy` passes bytes of any protocol and can cut the connections; `HttpProxy` parses
requests, and can refuse, fail, slow or truncate single requests. Both count spoiled traffic: a
fault without traffic took no effect. Owns the sockets and the counts. The caller decides on the
times of faults and points the process to the proxy's port.
"""

import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Self

LOOPBACK = "127.0.0.1"
MAX_HEAD_BYTES = 64 * 1024
_PIECE_BYTES = 64 * 1024
_CONNECT_LIMIT_S = 5.0
_SLOW_STEP_S = 0.05

TroubleKind = Literal["refuse", "error", "truncate", "slow"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """A fault of requests. `refuse`: the connection is closed unanswered. `error`: 503.
    `truncate`: half of the body passes, then the connection is closed. `slow`: bodies pass at
    `bytes_per_s`.

    `paths`: prefixes of the spoiled paths; empty for all paths. The last of `out_of` matching
    requests in a row passes unspoiled; with 1, every matching request is spoiled.
    """

    kind: TroubleKind
    paths: tuple[str, ...] = ()
    out_of: int = 1
    bytes_per_s: int = 4096

    def concerns(self, path: str) -> bool:
        return not self.paths or path.startswith(self.paths)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Head:
    """The head of a request or an answer, up to the empty line; `rest`: bytes after the head."""

    data: bytes
    rest: bytes

    @property
    def path(self) -> str:
        words = self.data.split(b" ", 2)
        return words[1].decode("latin-1") if len(words) > 1 else ""

    @property
    def body_bytes(self) -> int | None:
        """Content-Length; None without this header."""
        for line in self.data.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-length" and value.strip().isdigit():
                return int(value)
        return None

    def closing(self) -> bytes:
        """The head with `Connection: close`, to limit each connection to a single request.

        S3 clients do not sign the Connection header.
        """
        lines = self.data.rstrip(b"\r\n").split(b"\r\n")
        kept = [line for line in lines if not line.lower().startswith(b"connection:")]
        return b"\r\n".join([*kept, b"Connection: close", b"", b""])


class Proxy(ABC):
    """Accepts on a free port for as long as the `with` block lasts."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.spoiled: Counter[str] = Counter()
        self.passed = 0
        self._lock = threading.Lock()
        self._trouble: Trouble | None = None
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server((LOOPBACK, 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut()

    @property
    def trouble(self) -> Trouble | None:
        return self._trouble

    def begin(self, trouble: Trouble) -> None:
        """Spoil from now on; replaces an earlier trouble."""
        self._trouble = trouble

    def end(self) -> None:
        """Let all traffic pass again, including bodies under way."""
        self._trouble = None

    @abstractmethod
    def serve(self, client: socket.socket) -> None:
        """Handle a connection, in a separate thread; OSError ends the connection."""

    def count(self, kind: str) -> None:
        with self._lock:
            self.spoiled[kind] += 1

    def count_passed(self) -> None:
        with self._lock:
            self.passed += 1

    def connect(self) -> socket.socket:
        """Connect to the server; the end of the `with` block closes the connection."""
        server = socket.create_connection((LOOPBACK, self.target_port), timeout=_CONNECT_LIMIT_S)
        server.settimeout(None)
        with self._lock:
            self._open.add(server)
        return server

    def hang_up(self, *wires: socket.socket) -> None:
        with self._lock:
            self._open.difference_update(wires)
        for wire in wires:
            with suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
            wire.close()

    def _cut(self) -> int:
        """Shut every open connection down; return the count."""
        with self._lock:
            wires = tuple(self._open)
        for wire in wires:
            with suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
        return len(wires)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with self._lock:
                    self._open.add(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with suppress(OSError):
                self.serve(client)
        finally:
            self.hang_up(client)


class WireProxy(Proxy):
    """Passes any protocol both ways. The only trouble is `refuse`: cut old and new connections."""

    def begin(self, trouble: Trouble) -> None:
        """As `Proxy.begin`. ValueError for any trouble but `refuse` on all paths."""
        if trouble.kind != "refuse" or trouble.paths:
            raise ValueError(f"WireProxy can only refuse all paths, not {trouble}")
        super().begin(trouble)
        if self._cut():
            self.count("refuse")

    def serve(self, client: socket.socket) -> None:
        if self.trouble is not None:
            self.count("refuse")
            return
        server = self.connect()
        try:
            self.count_passed()
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            back.join()
        finally:
            self.hang_up(server)


class HttpProxy(Proxy):
    """Passes HTTP/1.1, a single request per connection; request bodies need a Content-Length."""

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        self._met = 0

    def serve(self, client: socket.socket) -> None:
        head = _read_head(client)
        if head is None:
            return
        trouble = self._trouble_of(head.path)
        if trouble is not None and trouble.kind in ("refuse", "error"):
            self.count(trouble.kind)
            if trouble.kind == "error":
                _read_body(client, head)
                client.sendall(_UNAVAILABLE)
            return
        server = self.connect()
        try:
            self._exchange(client, server, head, trouble)
        finally:
            self.hang_up(server)

    def _trouble_of(self, path: str) -> Trouble | None:
        trouble = self.trouble
        if trouble is None or not trouble.concerns(path):
            return None
        with self._lock:
            self._met += 1
            passes = trouble.out_of > 1 and self._met % trouble.out_of == 0
        return None if passes else trouble

    def _exchange(
        self, client: socket.socket, server: socket.socket, head: _Head, trouble: Trouble | None
    ) -> None:
        server.sendall(head.closing())
        if not self._pass(client, server, head, head.body_bytes or 0, trouble):
            return
        answer = _read_head(server)
        if answer is None:
            return
        if trouble is None:
            self.count_passed()
        client.sendall(answer.closing())
        has_body = not head.data.startswith(b"HEAD ")
        self._pass(server, client, answer, answer.body_bytes if has_body else 0, trouble)

    def _pass(
        self,
        source: socket.socket,
        sink: socket.socket,
        head: _Head,
        num_bytes: int | None,
        trouble: Trouble | None,
    ) -> bool:
        """Pass a body of `num_bytes` (None: until the end); False if truncated to half."""
        if trouble is None or num_bytes == 0:
            _copy(source, sink, head.rest, num_bytes)
            return True
        self.count(trouble.kind)
        if trouble.kind == "truncate":
            _copy(source, sink, head.rest, (num_bytes or 0) // 2)
            return False
        self._copy_slowly(source, sink, head.rest, num_bytes, trouble)
        return True

    def _copy_slowly(
        self,
        source: socket.socket,
        sink: socket.socket,
        first: bytes,
        num_bytes: int | None,
        trouble: Trouble,
    ) -> None:
        """Copy at the trouble's pace until the trouble ends, then at full speed."""
        step_bytes = max(1, int(trouble.bytes_per_s * _SLOW_STEP_S))
        for piece in _pieces(source, first, num_bytes):
            for start in range(0, len(piece), step_bytes):
                if self.trouble is trouble:
                    time.sleep(_SLOW_STEP_S)
                sink.sendall(piece[start : start + step_bytes])


_UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 0\r\n"
    b"Connection: close\r\n\r\n"
)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Copy until the source ends, then shut both sockets down."""
    with suppress(OSError):
        while data := source.recv(_PIECE_BYTES):
            sink.sendall(data)
    for wire in (source, sink):
        with suppress(OSError):
            wire.shutdown(socket.SHUT_RDWR)


def _read_head(source: socket.socket) -> _Head | None:
    """Read a head; None at an early end, or without a head's end in MAX_HEAD_BYTES."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = source.recv(_PIECE_BYTES)
        data += piece
        if not piece or len(data) > MAX_HEAD_BYTES:
            return None
    head, _, rest = data.partition(b"\r\n\r\n")
    return _Head(data=head + b"\r\n\r\n", rest=rest)


def _read_body(source: socket.socket, head: _Head) -> None:
    """Read and drop the client's body: closing with unread bytes would reset the answer."""
    for _ in _pieces(source, head.rest, head.body_bytes or 0):
        pass


def _copy(source: socket.socket, sink: socket.socket, first: bytes, num_bytes: int | None) -> None:
    for piece in _pieces(source, first, num_bytes):
        sink.sendall(piece)


def _pieces(source: socket.socket, first: bytes, num_bytes: int | None) -> Iterable[bytes]:
    """The pieces of a body of `num_bytes` (None: until the end), starting with `first`."""
    left = num_bytes
    piece = first if left is None else first[:left]
    while piece or left is None or left > 0:
        if piece:
            yield piece
            left = None if left is None else left - len(piece)
        if left == 0:
            return
        piece = source.recv(_PIECE_BYTES if left is None else min(_PIECE_BYTES, left))
        if not piece:
            return
