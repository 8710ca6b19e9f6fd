"""An S3 endpoint on this machine, serving each object only once, to the first reader."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import unquote, urlsplit

from template.errors import NotFound, StoreError
from template.store import Store

_NO_SUCH_KEY = b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>"


class OneReaderGate:
    """Serves GET /BUCKET/KEY from a store, on loopback, until the process ends.

    Ignores credentials: the access record publishes the only one.
    """

    def __init__(self, store: Store, *, max_bytes: int) -> None:
        self._store, self._max_bytes = store, max_bytes
        self._lock = Lock()
        self._given: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        Thread(target=self._server.serve_forever, name="one-reader", daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def take(self, key: str) -> bytes | None:
        """The object at the first call after its upload; None at all other calls."""
        with self._lock:
            if key in self._given:
                return None
            try:
                data = self._store.get(key, max_bytes=self._max_bytes)
            except NotFound:
                return None
            self._given.add(key)
            return data

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(gate: OneReaderGate) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            _bucket, _, key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
            try:
                data = gate.take(key)
            except StoreError:
                self._answer(503, b"")
                return
            if data is None:
                self._answer(404, _NO_SUCH_KEY)
            else:
                self._answer(200, data)

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep requests out of the log."""

    return Handler
