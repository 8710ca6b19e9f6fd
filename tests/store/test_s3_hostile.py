"""`S3Store` against servers that lie, stall, flood, redirect or refuse."""

import random
import socket
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest

from template.errors import Denied, NotFound, StoreError, TooLarge, Unavailable
from template.store.s3 import S3Store
from tests.support.objects import BRIEF, refuses
from tests.support.raw_server import (
    KEY_ID,
    LIMITS,
    OK,
    SECRET,
    Answer,
    RawServer,
    Serve,
    body_of,
    bucket_at,
    drips,
    floods,
    says,
    silent,
)
from tests.support.waiting import HANG_S


def test_declared_length_over_the_limit_is_refused_before_the_body(serve: Serve) -> None:
    store, server = serve(says(OK, b"Content-Length: 101\r\n\r\n"))
    with pytest.raises(TooLarge, match="peer-bucket/object has 101 bytes"):
        store.get("object", max_bytes=100)
    assert len(server.requests) == 1


def test_body_shorter_than_declared_is_unavailable(serve: Serve) -> None:
    store, _ = serve(says(OK, b"Content-Length: 10\r\n\r\n12345", close=True))
    with pytest.raises(Unavailable, match="peer-bucket/object"):
        store.get("object", max_bytes=100)


PART = b"HTTP/1.1 206 Part\r\n"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (says(OK, b"Content-Length: 500\r\n\r\n"), TooLarge),
        (says(PART, b"Content-Length: 101\r\n\r\n"), TooLarge),
        (says(PART, b"Content-Length: 5\r\n\r\n12345"), Unavailable),
        (says(PART, b"\r\n12345", close=True), Unavailable),
    ],
    ids=["the whole object", "too much", "too little", "no length"],
)
def test_a_range_comes_with_its_length_or_not_at_all(
    serve: Serve, answer: Answer, error: type[StoreError]
) -> None:
    store, server = serve(answer, deadline_s=HANG_S)
    with pytest.raises(error, match="peer-bucket/object"):
        store.get_range("object", 200, 100)
    assert len(server.requests) == 1
    assert b"bytes=200-299" in server.requests[0]


def test_body_longer_than_declared_is_cut_and_poisons_nothing(serve: Serve) -> None:
    store, _ = serve(
        says(OK, b"Content-Length: 5\r\n\r\n12345", OK, b"Content-Length: 4\r\n\r\nfake"),
        body_of(b"true"),
    )
    assert store.get("object", max_bytes=100) == b"12345"
    assert store.get("object", max_bytes=100) == b"true"


CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        says(OK, b"\r\n12345", close=True),
        floods(OK + b"\r\n", b"x" * 65_536),
        says(OK, CHUNKED, b"\r\n5\r\n12345\r\n0\r\n\r\n"),
        says(OK, CHUNKED, b"Content-Length: 5\r\n\r\n5\r\n12345\r\n0\r\n\r\n"),
        says(OK, b"Transfer-Encoding: gzip\r\nContent-Length: 5\r\n\r\n12345"),
        floods(OK + CHUNKED + b"\r\n", b"10000\r\n" + b"x" * 65_536 + b"\r\n"),
        drips(OK + CHUNKED + b"\r\n", b"1"),
        drips(OK + CHUNKED + b"\r\n5;x=", b"y"),
        drips(OK + CHUNKED + b"\r\n5\r\n12345\r\n0\r\n", b"X: 1\r\n"),
        says(b"HTTP/1.1 206 Part\r\nContent-Length: 5\r\n\r\n12345"),
        says(b"HTTP/1.1 204 Nothing\r\n\r\n"),
    ],
    ids=[
        "no length",
        "flood without length",
        "chunked",
        "chunked with length",
        "gzip",
        "flood of chunks",
        "endless chunk size",
        "endless chunk extension",
        "endless trailer",
        "a part",
        "nothing",
    ],
)
def test_an_object_comes_whole_with_its_length_or_not_at_all(serve: Serve, answer: Answer) -> None:
    """One request: an answer of this kind is refused for good, and the body is not read."""
    store, server = serve(answer, deadline_s=HANG_S)
    with pytest.raises(Unavailable, match="peer-bucket/object: the (object comes|server answered)"):
        store.get("object", max_bytes=1_000_000)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "status",
    [b"200 OK", *(pytest.param(s, marks=pytest.mark.slow) for s in (b"500 No", b"404 No"))],
)
@pytest.mark.parametrize(
    ("start", "piece"),
    [(b"", b"1"), (b"5;x=", b"y"), (b"5\r\n12345\r\n0\r\n", b"X: 1\r\n")],
    ids=["chunk size", "chunk extension", "trailer"],
)
def test_no_framing_of_another_answer_outlasts_the_exchange(
    serve: Serve, status: bytes, start: bytes, piece: bytes
) -> None:
    """Listings, answers to a put and errors may be chunked: bytes that never end a line."""
    store, _ = serve(
        drips(b"HTTP/1.1 " + status + b"\r\n" + CHUNKED + b"\r\n" + start, piece), limits=BRIEF
    )
    calls: list[Callable[[], object]] = [
        lambda: store.list(""),
        lambda: store.put("object", b"x"),
    ]
    if status != b"200 OK":
        calls.append(lambda: store.get("object", max_bytes=9))
    for call in calls:
        with pytest.raises(Unavailable, match="too long"):
            call()


@pytest.mark.parametrize(
    "answer",
    [
        silent,
        drips(OK + b"Content-Length: 1000\r\n\r\n", b"x"),
        drips(OK, b"X-Slow: 1\r\n"),
        drips(OK + b"X-Slow: ", b"x"),
        drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        floods(b"HTTP/1.1 500 No\r\n\r\n", b"x" * 65_536),
        drips(b"HTTP/1.1 500 No\r\n\r\n", b"x"),
        says(b"", close=True),
    ],
    ids=[
        "silent",
        "slow body",
        "slow headers",
        "slow header",
        "slow continue",
        "flooding error",
        "slow error",
        "hangs up",
    ],
)
def test_stalling_servers_end_as_unavailable(serve: Serve, answer: Answer) -> None:
    store, _ = serve(answer, limits=LIMITS)
    with pytest.raises(Unavailable, match="peer-bucket/object"):
        store.get("object", max_bytes=100_000_000)


def paced(data: bytes, pause_s: float, status: bytes = OK) -> Answer:
    """Sends 1,000 bytes at a time."""

    def answer(server: RawServer, connection: socket.socket) -> None:
        connection.sendall(status + b"Content-Length: %d\r\n\r\n" % len(data))
        for start in range(0, len(data), 1000):
            server.stopping.wait(pause_s)
            connection.sendall(data[start : start + 1000])

    return answer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pause_s", "least_bytes_per_s", "arrives"), [(0.1, 100.0, True), (0.3, 10_000.0, False)]
)
def test_a_longer_object_has_more_time_but_not_to_drip(
    serve: Serve, pause_s: float, least_bytes_per_s: float, arrives: bool
) -> None:
    """1 s for any exchange, and 200 s or 2 s for these bytes, which take 2 s or 6 s at least."""
    data = bytes(range(250)) * 80
    limits = replace(
        LIMITS, silence_s=HANG_S if arrives else 0.5, least_bytes_per_s=least_bytes_per_s
    )
    store, _ = serve(paced(data, pause_s), limits=limits)
    started_s = time.monotonic()
    if arrives:
        assert store.get("object", max_bytes=len(data)) == data
        assert time.monotonic() - started_s > LIMITS.attempt_s
    else:
        with pytest.raises(Unavailable, match="too long"):
            store.get("object", max_bytes=len(data))


@pytest.mark.slow
@pytest.mark.parametrize("declared", [b"999999999999", b"1e9"])
def test_nobody_gets_time_for_a_length_that_is_not_read(serve: Serve, declared: bytes) -> None:
    error = drips(b"HTTP/1.1 500 No\r\nContent-Length: " + declared + b"\r\n\r\n", b"x")
    store, _ = serve(error, limits=LIMITS)
    with pytest.raises(Unavailable):
        store.get("object", max_bytes=100)
    listing, _ = serve(
        drips(OK + b"Content-Length: " + declared + b"\r\n\r\n", b"x"), limits=LIMITS
    )
    with pytest.raises(Unavailable):
        listing.list("")


def test_flood_in_answer_to_a_put_is_cut(serve: Serve) -> None:
    store, _ = serve(floods(OK + b"\r\n", b"x" * 65_536))
    with pytest.raises(Unavailable, match="longer than"):
        store.put("object", b"x")


@pytest.mark.parametrize(
    "trouble",
    [refuses(503, "SlowDown"), refuses(429, "TooManyRequests"), refuses(500, "InternalError")],
    ids=["503", "429", "500"],
)
def test_trouble_that_passes_is_waited_for(serve: Serve, trouble: Answer) -> None:
    store, server = serve(trouble, trouble, body_of(b"late"), deadline_s=HANG_S)
    assert store.get("object", max_bytes=4) == b"late"
    assert len(server.requests) == 3


PAGE = b"<html><head><title>520: unknown error</title></head><body>cloudflare</body></html>"


def says_page(status: int) -> Answer:
    """A proxy's answer, without a code of S3."""
    return says(b"HTTP/1.1 %d What\r\nContent-Length: %d\r\n\r\n" % (status, len(PAGE)), PAGE)


PASSING = {
    **{f"page {s}": says_page(s) for s in (*range(520, 528), 530, 500, 502, 503, 504, 507, 599)},
    **{f"page {s}": says_page(s) for s in (400, 408, 409, 421, 425, 429, 499)},
    **{
        f"400 {code}": refuses(400, code)
        for code in (
            "BadDigest",
            "IncompleteBody",
            "InvalidDigest",
            "RequestTimeout",
            "XAmzContentSHA256Mismatch",
            "XAmzContentChecksumMismatch",
            "MissingRequestBodyError",
        )
    },
    "520 without body": says(b"HTTP/1.1 520 What\r\nContent-Length: 0\r\n\r\n"),
    "400 cut off": says(b"HTTP/1.1 400 No\r\nContent-Length: 7\r\n\r\n<Error>"),
}
"""Behind any of these answers the next try may succeed."""


@pytest.mark.parametrize("call", ["get", "put"])
def test_all_but_what_is_final_is_tried_again(serve: Serve, call: str) -> None:
    """All at the same time, because a second try waits."""

    def succeeds_at_the_second_try(trouble: Answer) -> int:
        store, server = serve(trouble, body_of(b""), deadline_s=HANG_S)
        if call == "get":
            assert store.get("object", max_bytes=4) == b""
        else:
            store.put("object", b"x")
        return len(server.requests)

    with ThreadPoolExecutor(len(PASSING)) as pool:
        started = {name: pool.submit(succeeds_at_the_second_try, a) for name, a in PASSING.items()}
        outcomes = {name: future.exception() or future.result() for name, future in started.items()}
    assert outcomes == dict.fromkeys(PASSING, 2)


def test_trouble_that_stays_is_unavailable_after_the_deadline(serve: Serve) -> None:
    store, server = serve(refuses(503, "SlowDown"), deadline_s=0.5)
    with pytest.raises(Unavailable, match="503 SlowDown"):
        store.put("object", b"x")
    # One request alone may outlast the deadline on a busy machine; further tries are shown above.
    assert 1 <= len(server.requests) <= 5


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (refuses(401, "Unauthorized"), Denied),
        (refuses(403, "AccessDenied"), Denied),
        (refuses(403, "InvalidAccessKeyId"), Denied),
        (refuses(403, "SignatureDoesNotMatch"), Denied),
        (refuses(400, "InvalidAccessKeyId"), Denied),
        (refuses(404, "NoSuchKey"), NotFound),
        (refuses(404, "NoSuchBucket"), NotFound),
        (refuses(400, "InvalidBucketName"), NotFound),
        (refuses(400, "InvalidArgument"), Unavailable),
        (refuses(501, "NotImplemented"), Unavailable),
        (refuses(418, "\x1b[31mred"), Unavailable),
        (says(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"), Denied),
        (refuses(400, "AuthorizationHeaderMalformed"), Unavailable),
        (refuses(400, "RequestTimeTooSkewed"), Unavailable),
        (refuses(405, "MethodNotAllowed"), Unavailable),
        (refuses(412, "PreconditionFailed"), Unavailable),
        (refuses(413, "EntityTooLarge"), Unavailable),
    ],
)
@pytest.mark.parametrize("call", ["get", "put", "list"])
def test_refusals_are_final(
    serve: Serve, answer: Answer, expected: type[StoreError], call: str
) -> None:
    store, server = serve(answer, deadline_s=HANG_S)
    calls = {
        "get": lambda: store.get("object", max_bytes=1),
        "put": lambda: store.put("object", b"x"),
        "list": lambda: store.list("object"),
    }
    with pytest.raises(expected, match="peer-bucket/object") as caught:
        calls[call]()
    assert type(caught.value) is expected
    assert len(server.requests) == 1
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nLast-Modified: never\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nx-amz-missing-meta: \xff\r\n\r\nx",
        b"HTTP/1.1 999 What\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x00\xff" * 500,
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-Many: 1\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
)
def test_garbage_raises_nothing_but_store_errors(serve: Serve, head: bytes) -> None:
    store, _ = serve(says(head, close=True))
    with pytest.raises(StoreError, match="peer-bucket/object"):
        store.get("object", max_bytes=0)
    with pytest.raises(StoreError, match="peer-bucket/object"):
        store.size("object")


SEED_BODIES = [
    b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code><Message>m</Message></Error>",
    b"<ListBucketResult><IsTruncated>false</IsTruncated><EncodingType>url</EncodingType>"
    b"<Contents><Key>a%zz</Key><Size>1</Size><LastModified>2026-01-01T00:00:00Z</LastModified>"
    b"</Contents></ListBucketResult>",
    b"<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>]><Error><Code>&a;&a;&a;</Code></Error>",
    b"",
]
SEED_HEADERS = [
    b"Last-Modified: x",
    b"x-amz-object-lock-retain-until-date: q",
    b"x-amz-tagging-count: many",
    b"x-amz-delete-marker: maybe",
    b"x-amz-checksum-crc32: zzzz",
    b"x-amz-expiration: \xff\xfe",
    b"Content-Type: text/xml; charset=none",
    b"Content-Encoding: aws-chunked",
    b"Transfer-Encoding: gzip, chunked",
]
STATUSES = [0, 100, 200, 204, 206, 301, 304, 400, 403, 404, 412, 416, 429, 500, 503, 1000]


def fuzzes(rng: random.Random) -> Answer:
    def answer(_: RawServer, connection: socket.socket) -> None:
        body = bytearray(rng.choice(SEED_BODIES))
        for _mutation in range(rng.choice([0, 1, 3, 10]) if body else 0):
            body[rng.randrange(len(body))] = rng.randrange(256)
        headers = [*rng.sample(SEED_HEADERS, rng.randrange(4)), b"Content-Length: %d" % len(body)]
        head = b"HTTP/1.1 %d X\r\n" % rng.choice(STATUSES) + b"\r\n".join(headers)
        connection.sendall(head + b"\r\n\r\n" + body)
        connection.close()

    return answer


def test_fuzzed_answers_raise_nothing_but_store_errors(serve: Serve) -> None:
    rng = random.Random(0)
    store, server = serve(fuzzes(rng))
    calls = [
        lambda: store.get("object", max_bytes=50),
        lambda: store.size("object"),
        lambda: store.list(""),
        lambda: store.put("object", b"x"),
        lambda: store.delete("object"),
    ]
    for turn in range(400):
        with suppress(StoreError):
            calls[turn % len(calls)]()
    # Some fail before the request is read: the answer before closed the connection.
    assert len(server.requests) >= 320


def test_listing_that_does_not_advance_is_unavailable(serve: Serve) -> None:
    page = (
        b"<ListBucketResult><IsTruncated>true</IsTruncated>"
        b"<NextContinuationToken>again</NextContinuationToken></ListBucketResult>"
    )
    store, server = serve(body_of(page))
    with pytest.raises(Unavailable, match="does not advance"):
        store.list("runs/")
    assert len(server.requests) == 2


def test_a_listing_without_end_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    def page(server: RawServer, connection: socket.socket) -> None:
        token = len(server.requests)
        body_of(
            b"<ListBucketResult><IsTruncated>true</IsTruncated>"
            b"<NextContinuationToken>%d</NextContinuationToken></ListBucketResult>" % token
        )(server, connection)

    monkeypatch.setattr("template.store.s3.MAX_PAGES", 20)
    store, server = serve(page)
    with pytest.raises(Unavailable, match="more than 20 pages"):
        store.list("")
    assert len(server.requests) == 20


def test_no_part_of_a_credential_reaches_an_error(serve: Serve) -> None:
    quoting = refuses(403, "InvalidAccessKeyId", f"unknown key {KEY_ID} {SECRET}")
    store, _ = serve(quoting)
    with pytest.raises(Denied) as caught:
        store.get("object", max_bytes=1)
    text = "".join(traceback.format_exception(caught.value)) + repr(store.bucket)
    assert KEY_ID not in text
    assert SECRET not in text


def test_compressed_answer_is_handed_over_as_it_is(serve: Serve) -> None:
    bomb = says(OK, b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00")
    store, _ = serve(bomb)
    assert store.get("object", max_bytes=4) == b"\x1f\x8b\x08\x00"


def test_closed_port_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    store = S3Store(bucket_at(url), deadline_s=0.0, limits=LIMITS)
    with pytest.raises(Unavailable, match="peer-bucket/object"):
        store.get("object", max_bytes=1)


def test_put_is_one_plain_signed_request(serve: Serve) -> None:
    store, server = serve(says(OK, b"Content-Length: 0\r\n\r\n"))
    store.put("some/object", b"0123456789" * 10_000)
    (request,) = server.requests
    head, _, body = request.partition(b"\r\n\r\n")
    assert body == b"0123456789" * 10_000
    assert head.startswith(b"PUT /peer-bucket/some/object HTTP/1.1\r\n")
    headers = head.lower()
    assert b"content-length: 100000" in headers
    for unwanted in (b"expect:", b"aws-chunked", b"trailer", b"x-amz-checksum", b"unsigned"):
        assert unwanted not in headers


def test_connections_are_kept_for_the_next_call(serve: Serve) -> None:
    ports: set[int] = set()

    def answer(_: RawServer, connection: socket.socket) -> None:
        ports.add(connection.getpeername()[1])
        connection.sendall(OK + b"Content-Length: 3\r\n\r\nabc")

    store, server = serve(answer)
    for _ in range(5):
        assert store.get("object", max_bytes=3) == b"abc"
    assert len(server.requests) == 5
    assert len(ports) == 1


@pytest.mark.parametrize("value", [b"1e300", b"inf", b"1e17", b"-1e300", b"\xff"])
def test_a_date_that_is_none_is_a_store_error(serve: Serve, value: bytes) -> None:
    head = OK + b"Last-Modified: " + value + b"\r\nContent-Length: 1\r\n\r\n"
    store, _ = serve(says(head, b"x"))
    for call in (lambda: store.get("object", max_bytes=9), lambda: store.size("object")):
        with suppress(StoreError):
            call()
