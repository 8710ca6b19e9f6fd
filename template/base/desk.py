"""The desk of a miner: payloads between making and decision, and what the disk has of them.

Payloads and error feedback go together: what left the feedback is in a payload, and what returns
from a payload is in the feedback. Whoever reads or changes them holds the desk.
"""

import itertools
from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager
from threading import RLock
from types import TracebackType
from typing import Final

from template.base.pending import PendingPayload, PendingPayloads

MAX_RETURNED: Final = 16
"""Own payloads found void that are remembered: only those of the last windows can be found again.
"""


class Desk(AbstractContextManager["Desk"]):
    """Held with `with`, again and again by the same thread if need be."""

    def __init__(
        self,
        pending: PendingPayloads,
        withheld: Iterable[PendingPayload] = (),
        returned: Iterable[str] = (),
        *,
        saved: bool,
    ) -> None:
        """`saved`: whether the pending payloads come from the disk. `returned`: as in `values`."""
        self._lock = RLock()
        self.pending = pending
        self.withheld = {payload.window: payload for payload in withheld}
        """Window -> payload that validators do not read in the window."""
        self._saved = {payload.digest for payload in pending} if saved else set()
        self._returned = deque(map(bytes.fromhex, returned), maxlen=MAX_RETURNED)
        self._numbers = itertools.count(1)
        self.changes, self._saved_changes = 0, 0
        """The number of the last change, of all and of those on the disk."""

    def __enter__(self) -> "Desk":
        self._lock.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    def note_change(self) -> None:
        """Something besides new payloads has to be saved. Waits for nobody who holds the desk."""
        self.changes = next(self._numbers)

    @property
    def is_changed(self) -> bool:
        """Whether something besides new payloads is not on the disk."""
        return self.changes != self._saved_changes

    def returns_void(self, digest: bytes) -> bool:
        """Whether this payload, found void, returns to error feedback: once, and never again.

        A restart follows the run from an older theta, and may find the same window void again.
        """
        with self:
            if digest in self._returned:
                return False
            self._returned.append(digest)
            return True

    def values(self) -> dict[str, list[str]]:
        """Plain JSON values for the local checkpoint."""
        return {"returned": [digest.hex() for digest in self._returned]}

    def unsaved(self) -> list[PendingPayload]:
        """Payloads that are not on the disk."""
        with self:
            return [payload for payload in self.pending if payload.digest not in self._saved]

    def note_saved(self, changes: int | None) -> None:
        """All pending payloads are on the disk, and all else up to this change; None: not all."""
        self._saved = {payload.digest for payload in self.pending}
        self._saved_changes = -1 if changes is None else changes

    def committable(self, window: int) -> list[PendingPayload]:
        """Payloads of the window that are on the disk and were not committed."""
        with self:
            return [p for p in self.pending.uncommitted(window) if p.digest in self._saved]
