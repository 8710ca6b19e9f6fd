"""HTTP for the S3 client, bounded in bytes and in seconds against any server.

botocore signs requests and parses answers; `BoundedTransport` sends and receives in between.
botocore's own sender reads the body of an error, and of every answer but an object, without limit
of size or time, and restarts timeouts with every byte received. Owns connections, timeouts and
limits; buckets, keys, credentials and retries belong to `template.store.s3`.
"""

import errno
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3
from botocore.awsrequest import AWSResponse
from botocore.httpsession import get_cert_path
from urllib3.response import BaseHTTPResponse

from template.store.exchange import exchange_of, timed_pools

CHUNK_BYTES = 1 << 20
# A listing of 1,000 keys of 1,024 bytes is under 2 MB of XML; an error is under 2 kB.
MAX_ANSWER_BYTES = 8 << 20
MAX_DECLARED_BYTES = 5 << 30
"""The longest object that a single put writes on S3; R2 takes 4.995 GiB."""
HTTP_OK, HTTP_PARTIAL = 200, 206
FIRST_REDIRECT = 300
FIRST_ERROR = 400
_LENGTH = re.compile(r"[0-9]{1,12}")


_NODE_ERRNOS = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EADDRNOTAVAIL,
        errno.ENETDOWN,
        errno.ENETUNREACH,
    }
)
_RESOLVER_PROBES = ("cloudflare.com", "example.com")
"""Names that resolve wherever names of R2 resolve: tell a wrong name from a dead resolver."""


class TransportError(Exception):
    """The exchange broke a limit or the connection failed; trying again may help."""


class RefusedAnswer(TransportError):
    """The server answered with what is never accepted; trying again does not help."""


class NodeFailure(TransportError):
    """This node could not ask: no descriptor, memory or network is left here."""


def node_failure(error: BaseException) -> str | None:
    """The failure of this node behind an exception, in words; None if the server may be at fault.

    Looks through the causes, because urllib3 wraps the error of a socket.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return "no memory is left"
        if isinstance(cause, socket.gaierror):
            return None if _is_name_at_fault(cause) else f"no name resolves ({cause.strerror})"
        if isinstance(cause, OSError) and cause.errno in _NODE_ERRNOS:
            return f"{errno.errorcode[cause.errno]}, {cause.strerror}"
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return None


def _is_name_at_fault(error: socket.gaierror) -> bool:
    """Whether the resolver works and denies one name: a stranger may publish a wrong account."""
    if error.errno in (socket.EAI_AGAIN, socket.EAI_MEMORY, socket.EAI_SYSTEM):
        return False
    return any(_resolves(name) for name in _RESOLVER_PROBES)


def _resolves(name: str) -> bool:
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return False
    return True


@dataclass(frozen=True, kw_only=True, slots=True)
class TransportLimits:
    """Seconds for an exchange: to connect, between two bytes, and from first to last.

    An object's body has a second more for each `least_bytes_per_s` of the declared length, already
    accepted by the reader: 1 MB/s is a slow line, and less is a bucket that drips.
    """

    connect_s: float = 5.0
    silence_s: float = 20.0
    attempt_s: float = 60.0
    least_bytes_per_s: float = 1e6
    connections: int = 16


class BoundedBody:
    """A response body, read piece by piece until the exchange's time is up."""

    def __init__(self, response: BaseHTTPResponse) -> None:
        self._response = response
        self.exchange = exchange_of(response)

    def read(self, amount: int | None = None) -> bytes:
        """The next bytes as they arrive, at most `amount`; empty at the end.

        Raises TransportError when time is up, the connection breaks or the body is short.
        """
        try:
            # read1 returns after one receive: read would wait for `amount` bytes, however slow.
            return self._response.read1(amount or CHUNK_BYTES)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            self._response.close()
            if self.exchange.is_over:
                raise TransportError("the body took too long") from None
            raise _failure("the body broke off", error) from None

    def stream(self) -> Iterator[bytes]:
        """The whole body for botocore's parser. TransportError above MAX_ANSWER_BYTES."""
        total_bytes = 0
        while piece := self.read():
            total_bytes += len(piece)
            if total_bytes > MAX_ANSWER_BYTES:
                self.close()
                raise TransportError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
            yield piece

    def close(self) -> None:
        """Drop the unread rest; the connection is closed unless the body was read whole."""
        self._response.close()


def _failure(what: str, error: Exception) -> TransportError:
    if (trouble := node_failure(error)) is not None:
        return NodeFailure(trouble)
    return TransportError(f"{what} ({type(error).__name__})")


class BoundedTransport:
    """Sends prepared requests in place of botocore's sender.

    Follows no redirect, decompresses no body, uses no proxy of the environment.
    Safe to use from `limits.connections` threads at once.
    """

    def __init__(self, limits: TransportLimits, ca_file: Path | None = None) -> None:
        self._limits = limits
        self._pools = urllib3.PoolManager(
            maxsize=limits.connections,
            block=False,
            cert_reqs="CERT_REQUIRED",
            ca_certs=get_cert_path(True) if ca_file is None else str(ca_file),
        )
        self._pools.pool_classes_by_scheme = timed_pools(limits.attempt_s, limits.silence_s)
        self._allowed = threading.local()

    def allow_request(self) -> None:
        """Let this thread send one request more: botocore sends another one for some answers."""
        self._allowed.is_given = True

    def send(self, request: Any, **_event: Any) -> Any:
        """Handler of `before-send.s3`: AWSPreparedRequest in, AWSResponse out.

        The caller reads the body of an object; `send` reads every other body. Raises
        TransportError.
        """
        if not getattr(self._allowed, "is_given", False):
            raise RefusedAnswer("the answer asks for another request")
        self._allowed.is_given = False
        # R2 does not answer 100-continue, and each put would wait a second for it. The header
        # is not part of the signature.
        if "Expect" in request.headers:
            del request.headers["Expect"]
        response = self._exchange(request)
        body = BoundedBody(response)
        try:
            _demand_no_redirect(response)
            if request.stream_output and response.status < FIRST_ERROR:
                is_part = "Range" in request.headers
                num_bytes = _object_bytes(response, is_part=is_part)
                body.exchange.extend(num_bytes / self._limits.least_bytes_per_s)
        except RefusedAnswer:
            body.close()
            raise
        headers: Any = response.headers
        answer = AWSResponse(request.url, response.status, headers, body)
        if not request.stream_output:
            _ = answer.content
        return answer

    def close(self) -> None:
        """Close idle connections."""
        self._pools.clear()

    def _exchange(self, request: Any) -> BaseHTTPResponse:
        parts = urlsplit(request.url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        timeout = urllib3.Timeout(connect=self._limits.connect_s, read=self._limits.silence_s)
        try:
            return self._pools.connection_from_url(request.url).urlopen(
                request.method,
                target,
                body=request.body,
                headers=request.headers,
                timeout=timeout,
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
                decode_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise _failure("no answer", error) from None


def _demand_no_redirect(response: BaseHTTPResponse) -> None:
    if FIRST_REDIRECT <= response.status < FIRST_ERROR:
        raise RefusedAnswer(f"the server answered {response.status}: no redirect is followed")


def _object_bytes(response: BaseHTTPResponse, *, is_part: bool) -> int:
    """The declared length of an object, or of the range asked for, at most MAX_DECLARED_BYTES.

    RefusedAnswer without a plain length: a transfer encoding has framing of any size and hides
    the length, and no bucket needs an encoding for an object.
    """
    # A server may ignore a range and answer with the whole object, which is then too long.
    if response.status != HTTP_OK and not (is_part and response.status == HTTP_PARTIAL):
        raise RefusedAnswer(f"the server answered {response.status} instead of a whole object")
    if "Transfer-Encoding" in response.headers:
        raise RefusedAnswer("the object comes in a transfer encoding")
    text = response.headers.get("Content-Length", "")
    if not _LENGTH.fullmatch(text):
        raise RefusedAnswer("the object comes without a plain Content-Length")
    return min(int(text), MAX_DECLARED_BYTES)
