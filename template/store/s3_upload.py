"""The calls of S3 behind an upload in parts; `template.store.multipart` decides their order.

Every answer is a server's word: listings are bounded, and a part counts as sent by its MD5 alone.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

from template.errors import Unavailable
from template.store.multipart import MAX_PART_NUMBER, Listed

T = TypeVar("T")

MAX_UPLOAD_PAGES = 100
"""Calls of a listing of uploads or parts at most: a hundred thousand, ten times the most parts."""


class Call(Protocol):
    """Sends a request with the retries and the errors of the store."""

    def __call__(self, ask: Callable[[], T]) -> T: ...


class S3Upload:
    """One object's upload in parts; each method is a call with the store's retries."""

    def __init__(self, client: Any, call: Call, bucket: str, key: str) -> None:
        self._client, self._call = client, call
        self._bucket, self._key = bucket, key
        self._at = {"Bucket": bucket, "Key": key}

    @property
    def name(self) -> str:
        return f"{self._bucket}/{self._key}"

    def find(self) -> str | None:
        """The newest unfinished upload under this key."""
        ask = partial(self._client.list_multipart_uploads, Bucket=self._bucket, Prefix=self._key)
        markers = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}
        found: str | None = None
        for ids in self._pages(ask, markers, self._ids):
            found = ids[-1] if ids else found
        return found

    def begin(self) -> str:
        """The id of a new upload."""
        return self._call(
            lambda: _text(self._client.create_multipart_upload(**self._at), "UploadId")
        )

    def listed(self, upload_id: str) -> dict[int, Listed]:
        """Part number -> what the bucket has of it."""
        ask = partial(self._client.list_parts, **self._at, UploadId=upload_id)
        markers = {"PartNumberMarker": "NextPartNumberMarker"}
        found: dict[int, Listed] = {}
        for parts in self._pages(ask, markers, _parts):
            found |= parts
        return found

    def put_part(self, upload_id: str, number: int, data: bytes) -> str:
        """Send a part; the part's entity tag."""
        ask = partial(
            self._client.upload_part,
            **self._at,
            UploadId=upload_id,
            PartNumber=number,
            Body=data,
        )
        return self._call(lambda: _text(ask(), "ETag"))

    def complete(self, upload_id: str, etags: list[str]) -> None:
        """Make the parts, in order, the object."""
        parts = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(etags, start=1)]
        ask = partial(
            self._client.complete_multipart_upload,
            **self._at,
            UploadId=upload_id,
            MultipartUpload={"Parts": parts},
        )
        self._call(ask)

    def size(self) -> int:
        """The finished object's length."""
        return self._call(lambda: int(self._client.head_object(**self._at)["ContentLength"]))

    def _ids(self, page: Mapping[str, Any]) -> list[str]:
        entries = page.get("Uploads", [])
        return [_text(entry, "UploadId") for entry in entries if entry.get("Key") == self._key]

    def _pages(
        self,
        ask: Callable[..., Any],
        markers: Mapping[str, str],
        read: Callable[[Mapping[str, Any]], T],
    ) -> Iterator[T]:
        """Each page of a listing, as `read`; `markers`: argument of the next call -> field.

        `read` runs inside of the call, so what a server leaves out is the server's error.
        """
        position: dict[str, Any] = {}

        def turn() -> tuple[T, dict[str, Any]]:
            page = ask(**position)
            more = {name: page[field] for name, field in markers.items() if page.get(field)}
            return read(page), more if page.get("IsTruncated") else {}

        for _page in range(MAX_UPLOAD_PAGES):
            found, following = self._call(turn)
            yield found
            if not following:
                return
            if following == position:
                raise Unavailable(f"{self.name}: the listing of an upload does not advance")
            position = following
        raise Unavailable(f"{self.name}: the listing of an upload has no end")


def _text(answer: Mapping[str, Any], field: str) -> str:
    """ValueError, an unreadable answer, for what is no text."""
    value = answer[field]
    if not isinstance(value, str) or not value:
        raise ValueError(field)
    return value


def _parts(page: Mapping[str, Any]) -> dict[int, Listed]:
    listed = {
        int(part["PartNumber"]): Listed(etag=_text(part, "ETag"), num_bytes=int(part["Size"]))
        for part in page.get("Parts", [])
    }
    return {n: part for n, part in listed.items() if 1 <= n <= MAX_PART_NUMBER}
