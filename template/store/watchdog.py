"""Connections that hang up on a slow exchange.

A socket's timeout counts from the last byte, so a server sending a header byte by byte would hold
a thread for days. Owns the time from the first byte of a request to the last header of the
answer; the reader of the body times the body.
"""

import socket
from contextlib import suppress
from threading import Timer
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.response import HTTPResponse


class _WatchedConnection(HTTPConnection):
    """Shuts the socket down `limit_s` after the start of a request."""

    limit_s = 60.0
    _timer: Timer | None = None

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:
            self._allow_slow_sending()
        self._timer = Timer(self.limit_s, self._hang_up)
        self._timer.daemon = True
        self._timer.start()
        try:
            super().request(*args, **kwargs)
        except BaseException:
            self._timer.cancel()
            raise

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        sock = self.sock
        try:
            return super().getresponse()
        except BaseException:
            # urllib3 leaves the socket of an unreadable answer open.
            sock.close()
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def connect(self) -> None:
        super().connect()
        self._allow_slow_sending()

    def _allow_slow_sending(self) -> None:
        # urllib3 leaves the connect timeout on the socket, and sendall counts it over the
        # whole body: an upload of minutes would fail after seconds.
        self.sock.settimeout(self.limit_s)

    def _hang_up(self) -> None:
        sock = self.sock
        if sock is not None:
            with suppress(OSError):
                # The plain method: an SSLSocket's own would change state under its reader.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _WatchedTLSConnection(_WatchedConnection, HTTPSConnection):
    """A watched connection over TLS."""


def watched_pools(limit_s: float) -> dict[str, type[HTTPConnectionPool]]:
    """Pool classes for `urllib3.PoolManager.pool_classes_by_scheme`; `limit_s` per request."""

    class PlainConnection(_WatchedConnection):
        pass

    class TLSConnection(_WatchedTLSConnection):
        pass

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = PlainConnection

    class TLSPool(HTTPSConnectionPool):
        ConnectionCls = TLSConnection

    PlainConnection.limit_s = TLSConnection.limit_s = limit_s
    return {"http": PlainPool, "https": TLSPool}
