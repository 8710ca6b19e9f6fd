"""The rules for object keys and ranges, the same for every adapter.

`template.protocol.keys` owns the names of objects.

The rule for keys is narrower than S3's (1,024 bytes of UTF-8), because servers disagree on empty,
`.` and `..` segments and on escaped characters.
"""

import re
from pathlib import PurePosixPath

MAX_KEY_BYTES = 1024
_KEY = re.compile(r"[A-Za-z0-9._=-]+(/[A-Za-z0-9._=-]+)*")
_PREFIX = re.compile(r"[A-Za-z0-9._=/-]*")


_CONTENT_TYPES = {".html": "text/html; charset=utf-8", ".json": "application/json"}
_ANY_TYPE = "application/octet-stream"


def content_type(key: str) -> str:
    """The type by which a bucket hands an object to a browser: rendered pages are shown as such."""
    return _CONTENT_TYPES.get(PurePosixPath(key).suffix, _ANY_TYPE)


def check_key(key: str) -> None:
    """Raises ValueError unless `key` is segments of [A-Za-z0-9._=-] joined by single slashes."""
    dots = {".", ".."}.intersection(key.split("/"))
    if len(key) > MAX_KEY_BYTES or dots or not _KEY.fullmatch(key):
        raise ValueError(
            f"key {key!r:.80} is not usable: take at most {MAX_KEY_BYTES} characters, "
            "segments of [A-Za-z0-9._=-] joined by single slashes"
        )


def check_prefix(prefix: str) -> None:
    """Raises ValueError unless `prefix` could start a key; an empty prefix matches every key."""
    if len(prefix) > MAX_KEY_BYTES or not _PREFIX.fullmatch(prefix):
        raise ValueError(f"prefix {prefix!r:.80} is not usable: take the start of a valid key")


def check_range(start: int, length: int) -> None:
    """Raises ValueError unless a range has a byte and begins in an object."""
    if start < 0 or length < 1:
        raise ValueError(f"range of {length} bytes from {start} is not usable")
