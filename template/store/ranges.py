"""A download that goes on after a cut: which bytes to ask for next, and what counts as an answer.

Pure. A server's word is not believed: an answer must begin where the last one ended, and lead to
the same end.
"""

import re
from dataclasses import dataclass

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})")


@dataclass(slots=True)
class Cursor:
    """Where a download is: `position` is the next byte, `total` the object's length once known.

    `etag`: of the first answer, so that no other object's bytes follow. `skipped`: bytes in front
    of the answer that came before, from a server that ignores ranges.
    """

    position: int
    total: int | None = None
    etag: str | None = None
    skipped: int = 0

    def asked(self) -> dict[str, str]:
        """The arguments of the next GET."""
        if not self.position:
            return {}
        condition = {"IfMatch": self.etag} if self.etag else {}
        return {"Range": f"bytes={self.position}-", **condition}

    def accept(self, declared: int, content_range: str | None, etag: str | None) -> str:
        """Take in an answer's head; why the answer is refused, or "".

        `declared`: the length of its body.
        """
        self.skipped = 0
        if content_range is None:
            self.skipped, total = self.position, declared
            if self.skipped > total or self.etag != (self.etag and etag):
                return "the object changed during its download"
        else:
            found = _CONTENT_RANGE.fullmatch(content_range)
            if found is None or not self.position:
                return "the server answered another range"
            start, last, total = (int(number) for number in found.groups())
            if start != self.position or last != total - 1 or declared != total - start:
                return "the server answered another range"
        if self.total not in (None, total):
            return "the object changed during its download"
        self.total = total
        self.etag = self.etag or etag
        return ""

    @property
    def is_done(self) -> bool:
        """Whether every byte came."""
        return self.total is not None and self.position >= self.total
