"""How many passes a batch is cut into: the fewest whose activations the device's memory bears.

Pure: the trainer reports whether a pass has fit, and asks for the number of passes to try next.
"""

from collections.abc import Mapping
from typing import Any


class MicroBatch:
    """The search for the fewest passes of a batch; a fixed size is taken as it is.

    Passes double until a batch fits, and the numbers in between are tried in the steps after. A
    device that others use too may refuse later what has fit before; the search then goes on.
    """

    def __init__(self, batch_pages: int, fixed_pages: int | None = None) -> None:
        self._batch_pages = batch_pages
        self._is_fixed = fixed_pages is not None
        self._refused = 0
        """The most passes that did not fit: with as few, a pass has too many pages."""
        self._fitting: int | None = None
        """The fewest passes that fit."""
        self.passes = 1 if fixed_pages is None else -(-batch_pages // fixed_pages)
        """Passes of the next batch."""

    @property
    def pages(self) -> int:
        """Pages of the largest pass."""
        return -(-self._batch_pages // self.passes)

    def note_fit(self) -> None:
        """A batch has gone through; the next one may be cut into fewer passes."""
        self._fitting = self.passes
        self._choose()

    def note_refusal(self) -> bool:
        """A pass has not fit; False if there is nothing smaller to try."""
        if self._is_fixed or self.pages == 1:
            return False
        self._refused = self.passes
        if self._fitting is not None and self._fitting <= self._refused:
            self._fitting = None
        self._choose()
        return True

    def _choose(self) -> None:
        if self._is_fixed:
            return
        if self._fitting is None:
            self.passes = min(2 * self._refused, self._batch_pages)
        elif self._fitting - self._refused > 1:
            self.passes = (self._fitting + self._refused) // 2
        else:
            self.passes = self._fitting

    def notes(self) -> dict[str, Any]:
        """What was found, as plain JSON values for `recall`."""
        return {"refused": self._refused, "fitting": self._fitting}

    def recall(self, notes: Mapping[str, Any]) -> None:
        """Go on from earlier `notes()` about the same batch, model and device."""
        if self._is_fixed:
            return
        self._refused, self._fitting = int(notes["refused"]), notes["fitting"]
        if self._refused or self._fitting:
            self._choose()
