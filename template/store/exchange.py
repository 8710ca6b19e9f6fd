"""Connections that give up on a slow exchange.

A socket's timeout counts from the last byte, so a server that sends a header, the size of a chunk
or a trailer byte by byte would hold a thread for days. Here each send and each receive waits for
the rest of the exchange's time at most. Owns the time from the first byte of a request to the last
byte of the answer's body; needs no thread.
"""

import io
import socket
import time
from http.client import HTTPResponse as PlainResponse
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.response import BaseHTTPResponse, HTTPResponse

UNSENT_BYTES = 1 << 17
"""Bytes of a request at most that wait in the kernel without having been sent. Otherwise megabytes
would wait there, and a send would say nothing about what the network takes."""


class Exchange:
    """The time of one request and its answer: `limit_s` in all, `silence_s` between two bytes."""

    def __init__(self, limit_s: float, silence_s: float) -> None:
        self._end_s = time.monotonic() + limit_s
        self._silence_s = silence_s

    def extend(self, more_s: float) -> None:
        """Add seconds, for the body of an object."""
        self._end_s += more_s

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._end_s

    def wait_s(self) -> float:
        """The longest wait of the next send or receive. TimeoutError when time is up."""
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the exchange took too long")
        return min(left_s, self._silence_s)


class _TimedReader(io.RawIOBase):
    """The bytes of a socket, each receive bounded by the exchange."""

    def __init__(self, sock: socket.socket, exchange: Exchange) -> None:
        self._sock, self._exchange = sock, exchange
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._exchange.wait_s())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedSocket:
    """A socket for `http.client.HTTPResponse`, which only asks for a file to read."""

    def __init__(self, sock: socket.socket, exchange: Exchange) -> None:
        self._sock, self._exchange = sock, exchange

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._sock, self._exchange))


class _TimedConnection(HTTPConnection):
    """A connection with an `Exchange` per request."""

    limit_s = 60.0
    silence_s = 20.0
    least_sent_bytes_per_s = 1e5
    exchange = Exchange(0.0, 0.0)

    def connect(self) -> None:
        super().connect()
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)

    def request(self, *args: Any, **kwargs: Any) -> None:
        # botocore hands the body over as a file; the length that it signs is in a header.
        num_bytes = int(kwargs.get("headers", {}).get("Content-Length", 0))
        limit_s = self.limit_s + num_bytes / self.least_sent_bytes_per_s
        self.exchange = Exchange(limit_s, self.silence_s)
        super().request(*args, **kwargs)

    def send(self, data: Any) -> None:
        # Neither `sendall` fits: a plain socket's counts the connect timeout over a whole upload,
        # and a TLS socket's counts the timeout anew with each record.
        if self.sock is None:
            self.connect()
        left = memoryview(data).cast("B")
        while left:
            self.sock.settimeout(self.exchange.wait_s())
            left = left[self.sock.send(left) :]

    def response_class(  # type: ignore[override]
        self, sock: Any, *args: Any, **kwargs: Any
    ) -> PlainResponse:
        """The answer, read within the exchange's time."""
        timed: Any = _TimedSocket(sock, self.exchange)
        return PlainResponse(timed, *args, **kwargs)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        sock = self.sock
        try:
            return super().getresponse()
        except BaseException:
            # urllib3 leaves the socket of an unreadable answer open.
            sock.close()
            raise


class _TimedTLSConnection(_TimedConnection, HTTPSConnection):
    """A timed connection over TLS; the handshake has the connect timeout in all."""


def exchange_of(response: BaseHTTPResponse) -> Exchange:
    """The exchange of an answer whose body is unread."""
    connection = response.connection
    assert isinstance(connection, _TimedConnection), "an unread answer keeps its connection"
    return connection.exchange


def timed_pools(
    limit_s: float, silence_s: float, least_sent_bytes_per_s: float
) -> dict[str, type[HTTPConnectionPool]]:
    """Pool classes for `urllib3.PoolManager.pool_classes_by_scheme`; limits of each exchange."""

    class PlainConnection(_TimedConnection):
        pass

    class TLSConnection(_TimedTLSConnection):
        pass

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = PlainConnection

    class TLSPool(HTTPSConnectionPool):
        ConnectionCls = TLSConnection

    for kind in (PlainConnection, TLSConnection):
        kind.limit_s, kind.silence_s = limit_s, silence_s
        kind.least_sent_bytes_per_s = least_sent_bytes_per_s
    return {"http": PlainPool, "https": TLSPool}
