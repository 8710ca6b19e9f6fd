"""An S3 server with R2's rules for uploads in parts and for ranges, and with faults on order.

Parts but the last are of equal length and not short, entity tags are MD5s, an upload that nobody
began is unknown. Credentials are not looked at. `refuses` and `cuts` are a test's to change.
"""

import hashlib
import re
import secrets
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from template.store.multipart import MAX_PART_NUMBER
from template.store.s3 import S3Store
from tests.support.raw_server import PATIENT, bucket_at

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class PartServer:
    """Objects and unfinished uploads in memory; `list_length`: entries of a listing's page."""

    def __init__(self, *, min_part_bytes: int = 1000, list_length: int = 2) -> None:
        self.min_part_bytes, self.list_length = min_part_bytes, list_length
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, tuple[str, dict[int, bytes]]] = {}
        self.asked: list[str] = []
        """Method and what it was about, one of each request."""
        self.sent_bytes = 0
        """Bytes of objects sent in answers."""
        self.refuses: Callable[[str], bool] = lambda _asked: False
        """Whether to answer a request with `refusal`."""
        self.refusal = (501, "NotImplemented")
        self.cuts: Callable[[int], int | None] = lambda _number: None
        """Bytes after which the n-th GET of an object breaks off."""
        self.most_at_once = 0
        self._at_once = 0
        self._gets = 0
        self.lock = threading.Lock()
        self._http = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Handler", (_Handler,), {"node": self})
        )
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def store(self, *, part_bytes: int = 1000, deadline_s: float = 0.0) -> S3Store:
        return S3Store(
            bucket_at(self.url), deadline_s=deadline_s, limits=PATIENT, part_bytes=part_bytes
        )

    def count(self) -> Counter[str]:
        """Requests by their first word."""
        return Counter(asked.split()[0] for asked in self.asked)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def note(self, asked: str) -> bool:
        """Whether to refuse this request."""
        with self.lock:
            self.asked.append(asked)
        return self.refuses(asked)

    def enter(self) -> None:
        with self.lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)

    def leave(self) -> None:
        with self.lock:
            self._at_once -= 1

    def next_cut(self) -> int | None:
        with self.lock:
            self._gets += 1
            return self.cuts(self._gets)

    def begin(self, key: str) -> str:
        upload_id = secrets.token_hex(8)
        with self.lock:
            self.uploads[upload_id] = (key, {})
        return upload_id

    def complete(self, upload_id: str, wanted: list[tuple[int, str]]) -> str:
        """The code of S3's error, or ""."""
        with self.lock:
            if upload_id not in self.uploads:
                return "NoSuchUpload"
            key, parts = self.uploads[upload_id]
            if [n for n, _ in wanted] != sorted({n for n, _ in wanted}):
                return "InvalidPartOrder"
            if any(n not in parts or etag != _etag(parts[n]) for n, etag in wanted):
                return "InvalidPart"
            lengths = [len(parts[n]) for n, _ in wanted]
            if any(length < self.min_part_bytes for length in lengths[:-1]):
                return "EntityTooSmall"
            if len(set(lengths[:-1])) > 1 or (len(lengths) > 1 and lengths[-1] > lengths[0]):
                return "InvalidPart"
            self.objects[key] = b"".join(parts[n] for n, _ in wanted)
            del self.uploads[upload_id]
            return ""


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection; `node` is the server's state."""

    node: PartServer
    protocol_version = "HTTP/1.1"

    def parse(self) -> tuple[str, dict[str, str], bytes]:
        parts = urlsplit(self.path)
        _bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
        return key, query, self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_PUT(self) -> None:
        self.node.enter()
        try:
            self.put()
        finally:
            self.node.leave()

    def put(self) -> None:
        key, query, data = self.parse()
        if "partNumber" not in query:
            if self.passes(f"PUT {key}"):
                self.node.objects[key] = data
                self.answer(200, ETag=_etag(data))
            return
        number = int(query["partNumber"])
        if not self.passes(f"PART {number}"):
            return
        known = self.node.uploads.get(query["uploadId"])
        if known is None or known[0] != key:
            self.error(404, "NoSuchUpload")
        elif not 1 <= number <= MAX_PART_NUMBER:
            self.error(400, "InvalidArgument")
        else:
            known[1][number] = data
            self.answer(200, ETag=_etag(data))

    def do_POST(self) -> None:
        key, query, data = self.parse()
        if "uploads" in query:
            if self.passes("BEGIN"):
                self.xml("InitiateMultipartUploadResult", UploadId=self.node.begin(key))
            return
        if not self.passes("COMPLETE"):
            return
        text = data.decode()
        numbers = map(int, re.findall(r"<PartNumber>(\d+)<", text))
        etags = (e.replace("&quot;", '"') for e in re.findall(r"<ETag>(.*?)<", text))
        code = self.node.complete(query["uploadId"], list(zip(numbers, etags, strict=True)))
        if code:
            self.error(404 if code == "NoSuchUpload" else 400, code)
        else:
            self.xml("CompleteMultipartUploadResult", Key=key)

    def do_GET(self) -> None:
        key, query, _ = self.parse()
        if "uploads" in query:
            if self.passes("UPLOADS"):
                self.list_uploads(query)
        elif "uploadId" in query:
            if self.passes("PARTS"):
                self.list_parts(query)
        elif self.passes(f"GET {key} {self.headers.get('Range', 'whole')}"):
            self.get(key)

    def do_HEAD(self) -> None:
        key, _, _ = self.parse()
        if not self.passes(f"HEAD {key}"):
            return
        data = self.node.objects.get(key)
        self.send_response(404 if data is None else 200)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()

    def list_uploads(self, query: dict[str, str]) -> None:
        found = [
            (key, upload_id)
            for upload_id, (key, _) in self.node.uploads.items()
            if key.startswith(query.get("prefix", ""))
        ]
        ids = [upload_id for _, upload_id in found]
        marker = query.get("upload-id-marker", "")
        start = ids.index(marker) + 1 if marker in ids else 0
        page = found[start : start + self.node.list_length]
        entries = "".join(
            f"<Upload><Key>{key}</Key><UploadId>{uid}</UploadId></Upload>" for key, uid in page
        )
        more = start + len(page) < len(found)
        last = {"NextKeyMarker": page[-1][0], "NextUploadIdMarker": page[-1][1]} if more else {}
        self.xml("ListMultipartUploadsResult", entries, IsTruncated=str(more).lower(), **last)

    def list_parts(self, query: dict[str, str]) -> None:
        known = self.node.uploads.get(query["uploadId"])
        if known is None:
            self.error(404, "NoSuchUpload")
            return
        after = int(query.get("part-number-marker", 0))
        numbers = sorted(n for n in known[1] if n > after)
        page = numbers[: self.node.list_length]
        entries = "".join(
            f"<Part><PartNumber>{n}</PartNumber><ETag>{_etag(known[1][n])}</ETag>"
            f"<Size>{len(known[1][n])}</Size></Part>"
            for n in page
        )
        more = len(page) < len(numbers)
        last = {"NextPartNumberMarker": str(page[-1])} if more else {}
        self.xml("ListPartsResult", entries, IsTruncated=str(more).lower(), **last)

    def get(self, key: str) -> None:
        data = self.node.objects.get(key)
        if data is None:
            self.error(404, "NoSuchKey")
            return
        status, headers, body = 200, {"ETag": _etag(data)}, data
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        if asked:
            start = int(asked[1])
            last = min(int(asked[2] or len(data)), len(data) - 1)
            if start >= len(data):
                self.error(416, "InvalidRange")
                return
            status, body = 206, data[start : last + 1]
            headers["Content-Range"] = f"bytes {start}-{last}/{len(data)}"
        cut = self.node.next_cut()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        with self.node.lock:  # first, because the client may look as soon as the bytes are there
            self.node.sent_bytes += len(body[:cut])
        self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True

    def passes(self, asked: str) -> bool:
        if self.node.note(asked):
            self.error(*self.node.refusal)
            return False
        return True

    def error(self, status: int, code: str) -> None:
        self.answer(status, f"<Error><Code>{code}</Code></Error>".encode())

    def xml(self, name: str, inner: str = "", **fields: str) -> None:
        text = "".join(f"<{field}>{value}</{field}>" for field, value in fields.items())
        self.answer(200, f"<{name}>{text}{inner}</{name}>".encode())

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Silent."""
