"""Mutated answers of a bucket: every call ends in a value of the right kind or a `StoreError`."""

import json
import logging
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from template.cli.log import ANSWER_LOGGERS
from template.errors import Denied, NodeTrouble, NotFound, StoreError, TooLarge, Unavailable
from template.store.s3 import S3Store
from tests.support.hostile import resident_mb
from tests.support.mutations import mutated
from tests.support.raw_server import LIMITS, RawServer, bucket_at, read_request

KINDS = (NotFound, Denied, TooLarge, NodeTrouble, Unavailable, StoreError)
MAX_MESSAGE_CHARS, MAX_BYTES, MAX_REQUESTS = 700, 60, 16
LISTING = (
    b"<?xml version='1.0'?><ListBucketResult><IsTruncated>false</IsTruncated><EncodingType>url"
    b"</EncodingType><KeyCount>1</KeyCount><Contents><Key>object</Key><Size>5</Size>"
    b"<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents></ListBucketResult>"
)


def answer_of(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def error_of(status: str, code: str, *headers: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>no</Message><Key>object</Key></Error>"
    return answer_of(status, body.encode(), "Content-Type: application/xml", *headers)


ANSWERS = (
    answer_of("200 OK", b"12345", 'ETag: "827ccb0eea8a706c4c34a16891f84e7b"'),
    answer_of("200 OK", b"", "Last-Modified: Mon, 02 Jan 2026 10:00:00 GMT"),
    answer_of("200 OK", LISTING, "Content-Type: application/xml"),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
    % (len(LISTING), LISTING),
    answer_of("204 No Content", b""),
    error_of("404 Not Found", "NoSuchKey"),
    error_of("403 Forbidden", "AccessDenied"),
    error_of("503 Slow Down", "SlowDown", "Retry-After: 9"),
    error_of("301 Moved Permanently", "PermanentRedirect", "Location: http://127.0.0.1:1/object"),
    error_of("400 Bad Request", "RequestTimeTooSkewed", "x-amz-bucket-region: eu"),
)


class MutatingServer(RawServer):
    """Answers every request with a mutation of one of `ANSWERS`, and closes the connection."""

    def __init__(self, seed: int) -> None:
        self.num_requests = 0
        self.last = b""
        self._generator = random.Random(seed)
        super().__init__()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                if read_request(connection):
                    self.num_requests += 1
                    one, other = self._generator.sample(ANSWERS, 2)
                    self.last = mutated(one, other, self._generator)
                    connection.sendall(self.last)
            except OSError:
                return  # the client has hung up


@contextmanager
def besieged(seed: int) -> Iterator[tuple[MutatingServer, S3Store]]:
    server = MutatingServer(seed)
    store = S3Store(bucket_at(server.url), deadline_s=0.0, limits=LIMITS)
    try:
        yield server, store
    finally:
        store.close()
        server.close()


def calls_of(store: S3Store) -> list[tuple[Callable[[], object], Callable[[object], bool]]]:
    """Every kind of call, and whether a value can be its result."""
    return [
        (
            lambda: store.get("object", max_bytes=MAX_BYTES),
            lambda v: isinstance(v, bytes) and len(v) <= MAX_BYTES,
        ),
        (lambda: store.size("object"), lambda v: type(v) is int and v >= 0),
        (
            lambda: store.list(""),
            lambda v: isinstance(v, list) and all(isinstance(key, str) for key in v),
        ),
        (lambda: store.put("object", b"x"), lambda v: v is None),
        (lambda: store.delete("object"), lambda v: v is None),
    ]


def besiege(num_answers: int, seed: int) -> Counter[str]:
    """Outcomes of so many calls by kind; anything but a value or a short `StoreError` fails."""
    outcomes = Counter[str]()
    with besieged(seed) as (server, store):
        calls = calls_of(store)
        for turn in range(num_answers):
            call, is_result = calls[turn % len(calls)]
            before = server.num_requests
            try:
                value = call()
            except StoreError as error:
                message = str(error)
                assert len(message) <= MAX_MESSAGE_CHARS, server.last
                assert message.isascii(), server.last
                assert message.isprintable(), server.last
                outcomes[next(k.__name__ for k in KINDS if isinstance(error, k))] += 1
            else:
                assert is_result(value), server.last
                outcomes["value"] += 1
            assert server.num_requests - before <= MAX_REQUESTS, server.last
        # Some fail before the request is read: the answer before has closed the connection.
        assert server.num_requests >= 0.8 * num_answers
    return outcomes


@pytest.fixture(autouse=True)
def _few_warnings(caplog: pytest.LogCaptureFixture) -> None:
    """As a neuron sets it up: warnings of urllib3 quote the answers."""
    for name in ANSWER_LOGGERS:
        caplog.set_level(logging.ERROR, logger=name)


def test_mutated_answers_are_values_or_short_errors() -> None:
    outcomes = besiege(300, 3)
    assert min(outcomes["value"], outcomes["NotFound"], outcomes["Denied"]) > 10
    assert outcomes["Unavailable"] > 100


@pytest.mark.siege
@pytest.mark.timeout(3000)
def test_mutated_answers_in_large_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    started_s = time.monotonic()
    besiege(2000, 4)
    settled_mb = resident_mb()
    outcomes = besiege(200_000, 5)
    grown_mb = resident_mb() - settled_mb
    line = f"S3 answers: {json.dumps(outcomes)} in {time.monotonic() - started_s:.0f} s"
    with capsys.disabled():
        sys.stdout.write(f"\n{line}; memory grew by {grown_mb:.1f} MB\n")
    assert outcomes.total() == 200_000
    assert grown_mb < 64
