"""Fault proxies: what stands between one process and a server, and can spoil what passes.

`WireProxy` passes bytes of any protocol and can cut them off; `HttpProxy` knows one request
from the next, so it can refuse some, answer others with an error, slow or truncate them. Both
count what they spoiled: a fault that met no traffic did not take effect. Owns the sockets and
the counts. Does not own when what is spoiled, nor how a process comes to connect here.
"""

import socket
import threading
import time
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
    """What happens to requests. `refuse`: the connection is closed unanswered. `error`: 503.
    `truncate`: half of the body passes, then the connection is closed. `slow`: bodies pass at
    `bytes_per_s`.

    `paths`: prefixes of those concerned, all if empty. Of `out_of` such requests in a row the
    last one passes as if there were no trouble; 1 for none.
    """

    kind: TroubleKind
    paths: tuple[str, ...] = ()
    out_of: int = 1
    bytes_per_s: int = 4096

    def concerns(self, path: str) -> bool:
        return not self.paths or path.startswith(self.paths)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Head:
    """The first part of a request or an answer, up to the empty line; `rest` came with it."""

    data: bytes
    rest: bytes

    @property
    def path(self) -> str:
        words = self.data.split(b" ", 2)
        return words[1].decode("latin-1") if len(words) > 1 else ""

    @property
    def body_bytes(self) -> int | None:
        """What Content-Length says; None if nothing does."""
        for line in self.data.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-length" and value.strip().isdigit():
                return int(value)
        return None

    def closing(self) -> bytes:
        """The same for a connection that ends after it: one request each keeps this simple.

        The header that says so is none of those that a client signs.
        """
        lines = self.data.rstrip(b"\r\n").split(b"\r\n")
        kept = [line for line in lines if not line.lower().startswith(b"connection:")]
        return b"\r\n".join([*kept, b"Connection: close", b"", b""])


class Proxy:
    """Accepts on a port of its own for as long as the `with` block lasts."""

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
        """Spoil from now on, in place of what was before."""
        self._trouble = trouble

    def end(self) -> None:
        """Let everything pass again, what is under way included."""
        self._trouble = None

    def serve(self, client: socket.socket) -> None:
        """One connection, in a thread of its own; OSError ends it."""
        raise NotImplementedError

    def count(self, kind: str) -> None:
        with self._lock:
            self.spoiled[kind] += 1

    def count_passed(self) -> None:
        with self._lock:
            self.passed += 1

    def connect(self) -> socket.socket:
        """A wire to the server, hung up on with all others."""
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
        """Hang up on everybody; how many wires that were."""
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
    """Passes any protocol both ways. Of troubles it knows `refuse`: cut off, new ones too."""

    def begin(self, trouble: Trouble) -> None:
        """ValueError for what needs to tell one request from the next."""
        if trouble.kind != "refuse" or trouble.paths:
            raise ValueError(f"a wire can only be cut, whole: not {trouble}")
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
    """Passes HTTP/1.1, one request a connection; bodies need a Content-Length."""

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
        """A body of `num_bytes` (None: until its end); False if half of it was kept back."""
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
        """At the trouble's pace, for as long as it lasts."""
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
    """Until the source ends, which the sink is told."""
    with suppress(OSError):
        while data := source.recv(_PIECE_BYTES):
            sink.sendall(data)
    for wire in (source, sink):
        with suppress(OSError):
            wire.shutdown(socket.SHUT_RDWR)


def _read_head(source: socket.socket) -> _Head | None:
    """None if the other side ended first, or sends no end of a head."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = source.recv(_PIECE_BYTES)
        data += piece
        if not piece or len(data) > MAX_HEAD_BYTES:
            return None
    head, _, rest = data.partition(b"\r\n\r\n")
    return _Head(data=head + b"\r\n\r\n", rest=rest)


def _read_body(source: socket.socket, head: _Head) -> None:
    """Take what the client wants to send: closing on it would reset the answer."""
    for _ in _pieces(source, head.rest, head.body_bytes or 0):
        pass


def _copy(source: socket.socket, sink: socket.socket, first: bytes, num_bytes: int | None) -> None:
    for piece in _pieces(source, first, num_bytes):
        sink.sendall(piece)


def _pieces(source: socket.socket, first: bytes, num_bytes: int | None) -> Iterable[bytes]:
    """`num_bytes` of a body (None: until its end), of which `first` is here already."""
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
