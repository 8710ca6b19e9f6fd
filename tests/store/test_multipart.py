"""Uploads in parts: how objects are cut, what is sent again, and what a lying server achieves."""

import logging
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from template.errors import StateError, StoreError, TooLarge, Unavailable
from template.store.multipart import (
    MAX_PART_NUMBER,
    MIN_PART_BYTES,
    PART_BYTES,
    PART_THREADS,
    split,
)
from template.store.s3 import S3Store
from tests.support.objects import BRIEF, data_of, refuses
from tests.support.part_server import PartServer
from tests.support.raw_server import OK, Answer, RawServer, Serve, body_of, bucket_at, says
from tests.support.waiting import HANG_S


@pytest.fixture
def server() -> Iterator[PartServer]:
    server = PartServer()
    yield server
    server.close()


@pytest.mark.parametrize(
    "num_bytes",
    [1, PART_BYTES, PART_BYTES + 1, 10**9, 160 << 30, (160 << 30) + 1, 289 * 10**9, 5 * 10**12],
)
def test_every_object_is_cut_by_the_rules_of_r2(num_bytes: int) -> None:
    parts = split(num_bytes, PART_BYTES)
    assert 1 <= len(parts) <= MAX_PART_NUMBER
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert parts[0].start == 0
    assert all(b.start == a.start + a.num_bytes for a, b in pairwise(parts))
    assert sum(part.num_bytes for part in parts) == num_bytes
    assert len({part.num_bytes for part in parts[:-1]}) <= 1
    assert all(part.num_bytes >= MIN_PART_BYTES for part in parts[:-1])
    assert parts[-1].num_bytes <= parts[0].num_bytes


@pytest.mark.parametrize("num_bytes", [0, 1, 1000])
def test_an_object_up_to_one_part_is_one_request(server: PartServer, num_bytes: int) -> None:
    server.store().put("object", data_of(num_bytes))
    assert server.asked == ["PUT object"]
    assert server.objects["object"] == data_of(num_bytes)


@pytest.mark.parametrize("num_bytes", [1001, 2000, 12_345])
@pytest.mark.parametrize("from_file", [False, True])
def test_a_longer_object_goes_in_parts_and_arrives_whole(
    server: PartServer, tmp_path: Path, num_bytes: int, from_file: bool
) -> None:
    data = data_of(num_bytes)
    if from_file:
        (tmp_path / "file").write_bytes(data)
        server.store().put_file("object", tmp_path / "file")
    else:
        server.store().put("object", data)
    assert server.objects == {"object": data}
    num_parts = -(-num_bytes // 1000)
    assert server.count() == {"UPLOADS": 1, "BEGIN": 1, "PART": num_parts, "COMPLETE": 1}
    assert server.most_at_once <= PART_THREADS
    assert not server.uploads


@pytest.mark.parametrize("failing", ["PART 4", "PART 7", "COMPLETE"])
def test_another_process_sends_only_the_missing_parts(server: PartServer, failing: str) -> None:
    data = data_of(6_500)
    server.refuses = failing.__eq__
    with pytest.raises(Unavailable, match="501"):
        server.store().put("object", data)
    assert "object" not in server.objects
    ((_, parts),) = server.uploads.values()
    missing = 7 - len(parts)
    assert missing == (failing != "COMPLETE") or failing == "PART 4"
    server.asked.clear()
    server.refuses = lambda _asked: False
    server.store().put("object", data)
    assert server.objects["object"] == data
    assert server.count()["PART"] == missing
    assert server.count()["BEGIN"] == 0


def test_parts_of_other_bytes_are_sent_again(server: PartServer) -> None:
    """The MD5 decides: a part of an older object, or a damaged one, is replaced."""
    upload_id = server.begin("object")
    data = data_of(3_000)
    server.uploads[upload_id][1].update({1: data[:1000], 2: data_of(1000, seed=1), 3: b"short"})
    server.store().put("object", data)
    assert server.objects["object"] == data
    assert {asked for asked in server.asked if "PART " in asked} == {"PART 2", "PART 3"}


def test_uploads_of_other_keys_are_left_alone(server: PartServer) -> None:
    others = [server.begin("object2") for _ in range(3)]
    server.store().put("object", data_of(3_000))
    assert list(server.uploads) == others


def test_an_upload_that_is_gone_is_begun_anew(server: PartServer) -> None:
    """Another process completes or gives up the upload between the listing and a part."""
    server.begin("object")

    def vanish(asked: str) -> bool:
        if asked == "PARTS":
            server.uploads.clear()
        return False

    server.refuses = vanish
    server.store().put("object", data_of(2_500))
    assert server.objects["object"] == data_of(2_500)


def test_a_lost_answer_to_the_completion_is_no_failure(serve: Serve) -> None:
    """The second request for a completion hears that there is no such upload, and is done."""
    said = {
        b"GET": b"<ListMultipartUploadsResult></ListMultipartUploadsResult>",
        b"POST": b"<InitiateMultipartUploadResult><UploadId>u</UploadId>"
        b"</InitiateMultipartUploadResult>",
    }

    def answer(server: RawServer, connection: socket.socket) -> None:
        method, path = server.requests[-1].split(b" ")[:2]
        if method == b"POST" and b"uploadId" in path:
            refuses(404, "NoSuchUpload")(server, connection)
        elif method == b"PUT":
            says(OK, b'ETag: "e"\r\nContent-Length: 0\r\n\r\n')(server, connection)
        elif method == b"HEAD":
            says(OK, b"Content-Length: %d\r\n\r\n" % length[0])(server, connection)
        else:
            body_of(said[method])(server, connection)

    length = [25]
    store, _ = serve(answer)
    store._part_bytes = 10
    store.put("object", bytes(25))
    length[0] = 24
    with pytest.raises(StoreError, match="NoSuchUpload"):
        store.put("object", bytes(25))


def test_a_key_that_may_not_list_uploads_uploads_all_the_same(
    server: PartServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.refuses = "UPLOADS".__eq__
    with caplog.at_level(logging.INFO):
        server.store().put("object", data_of(2_500))
    assert server.objects["object"] == data_of(2_500)
    assert "cannot look for an upload begun before" in caplog.text


def test_a_part_is_tried_again_alone(server: PartServer) -> None:
    failed: list[str] = []

    def once(asked: str) -> bool:
        if asked == "PART 2" and not failed:
            failed.append(asked)
            return True
        return False

    server.refuses, server.refusal = once, (503, "SlowDown")
    server.store(deadline_s=HANG_S).put("object", data_of(3_000))
    assert server.objects["object"] == data_of(3_000)
    assert server.count() == {"UPLOADS": 1, "BEGIN": 1, "PART": 4, "COMPLETE": 1}


def test_a_file_that_cannot_be_read_is_this_machines_fault(
    server: PartServer, tmp_path: Path
) -> None:
    with pytest.raises(StateError, match="missing"):
        server.store().put_file("object", tmp_path / "missing")
    with pytest.raises(StateError):
        server.store().put_file("object", tmp_path)
    assert server.asked == []


def test_what_no_bucket_takes_is_not_sent(
    server: PartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("template.store.s3.MAX_OBJECT_BYTES", 5000)
    with pytest.raises(TooLarge, match="object"):
        server.store().put("object", bytes(5001))
    assert server.asked == []


def listing(inner: bytes) -> bytes:
    return b"<X><IsTruncated>true</IsTruncated>" + inner + b"</X>"


@pytest.mark.parametrize(
    "answer",
    [
        body_of(
            listing(b"<NextKeyMarker>a</NextKeyMarker><NextUploadIdMarker>b</NextUploadIdMarker>")
        ),
        body_of(b"<X><Upload><Key>object</Key></Upload></X>"),
        body_of(b"<X><Upload><Key>object</Key><UploadId/></Upload></X>"),
        body_of(b"\x00\xff" * 100),
        refuses(403, "AccessDenied"),
    ],
    ids=["no advance", "no id", "empty id", "garbage", "denied"],
)
def test_hostile_answers_to_an_upload_cost_few_requests_and_no_other_error(
    serve: Serve, answer: Answer
) -> None:
    store, server = serve(answer)
    store._part_bytes = 10
    with pytest.raises(StoreError, match="peer-bucket/object"):
        store.put("object", bytes(25))
    assert len(server.requests) <= 6


def test_a_listing_of_parts_without_end_is_given_up(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("template.store.s3_upload.MAX_UPLOAD_PAGES", 7)

    def answer(server: RawServer, connection: socket.socket) -> None:
        if b"uploadId" in server.requests[-1].split(b" ")[1]:
            marker = b"<NextPartNumberMarker>%d</NextPartNumberMarker>" % len(server.requests)
            body_of(listing(marker))(server, connection)
        else:
            body_of(b"<X><Upload><Key>object</Key><UploadId>u</UploadId></Upload></X>")(
                server, connection
            )

    store, server = serve(answer)
    store._part_bytes = 10
    with pytest.raises(Unavailable, match="no end"):
        store.put("object", bytes(25))
    assert len(server.requests) == 1 + 7


def test_a_longer_body_has_more_time(serve: Serve) -> None:
    """The limit of an exchange grows with the request's body; a short body's does not."""

    def late(server: RawServer, connection: socket.socket) -> None:
        server.stopping.wait(2 * BRIEF.attempt_s)
        connection.sendall(OK + b"Content-Length: 0\r\n\r\n")

    limits = replace(BRIEF, silence_s=HANG_S, least_sent_bytes_per_s=1e6 / HANG_S)
    store, _ = serve(late, limits=limits)
    store.put("object", bytes(1_000_000))
    with pytest.raises(Unavailable, match="no answer|too long"):
        store.put("object", b"x")


def test_a_server_that_reads_no_further_is_left(serve: Serve) -> None:
    """However long the body, silence ends the request: a body has time for each byte."""

    def deaf() -> None:
        connection, _ = listener.accept()
        with connection:
            stopping.wait()

    stopping = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=deaf, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        limits = replace(BRIEF, least_sent_bytes_per_s=1.0)
        store = S3Store(bucket_at(url), deadline_s=0.0, limits=limits)
        with pytest.raises(Unavailable, match="peer-bucket/object"):
            store.put("object", bytes(16_000_000))
    stopping.set()
