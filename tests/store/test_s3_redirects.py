"""One call, one request: no answer sends the client elsewhere or makes it ask again."""

import socket
from collections.abc import Callable

import pytest
from botocore.awsrequest import AWSRequest

from template.errors import StoreError, Unavailable
from template.store.s3 import S3Store
from template.store.transport import BoundedTransport, RefusedAnswer
from tests.support.raw_server import PATIENT, RawServer, Serve, body_of, says
from tests.support.waiting import HANG_S

CALLS: dict[str, Callable[[S3Store], object]] = {
    "get": lambda store: store.get("object", max_bytes=100),
    "size": lambda store: store.size("object"),
    "put": lambda store: store.put("object", b"x"),
    "list": lambda store: store.list(""),
    "delete": lambda store: store.delete("object"),
}


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308, 399])
@pytest.mark.parametrize("region", [b"", b"x-amz-bucket-region: eu-west-9\r\n"])
def test_a_redirect_is_the_end_of_the_call(serve: Serve, status: int, region: bytes) -> None:
    """One request per call, to the one server; botocore alone would ask for the region, again
    and again.
    """
    _, other = serve(body_of(b"elsewhere"))
    head = b"HTTP/1.1 %d Moved\r\nLocation: %s/x\r\n" % (status, other.url.encode())
    store, server = serve(says(head, region, b"Content-Length: 0\r\n\r\n"), deadline_s=HANG_S)
    for count, call in enumerate(CALLS.values(), start=1):
        with pytest.raises(Unavailable, match="no redirect is followed"):
            call(store)
        assert len(server.requests) == count
    assert other.requests == []


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "AuthorizationHeaderMalformed"),
        (400, "IllegalLocationConstraintException"),
        (400, "PermanentRedirect"),
        (403, "AuthorizationHeaderMalformed"),
        (404, "PermanentRedirect"),
    ],
)
@pytest.mark.parametrize("region", [b"", b"x-amz-bucket-region: eu-west-9\r\n"])
def test_no_error_sends_the_client_to_another_region(
    serve: Serve, status: int, code: str, region: bytes
) -> None:
    xml = f"<Error><Code>{code}</Code><Region>eu-west-9</Region></Error>".encode()
    head = b"HTTP/1.1 %d No\r\n%sContent-Length: %d\r\n\r\n" % (status, region, len(xml))

    def answer(server: RawServer, connection: socket.socket) -> None:
        is_head = server.requests[-1].startswith(b"HEAD")
        connection.sendall(head if is_head else head + xml)

    store, server = serve(answer, deadline_s=HANG_S)
    for count, call in enumerate(CALLS.values(), start=1):
        with pytest.raises(StoreError):
            call(store)
        assert len(server.requests) == count


def test_a_transport_sends_as_many_requests_as_it_was_allowed(serve: Serve) -> None:
    """Whatever botocore makes of an answer: the second request of a call is never sent."""
    _, server = serve(body_of(b"data"))
    transport = BoundedTransport(PATIENT)
    request = AWSRequest(method="GET", url=f"{server.url}/x", stream_output=True).prepare()
    with pytest.raises(RefusedAnswer, match="another request"):
        transport.send(request)
    transport.allow_request()
    assert transport.send(request).raw.read() == b"data"
    with pytest.raises(RefusedAnswer, match="another request"):
        transport.send(request)
    assert len(server.requests) == 1
    transport.close()
