"""Rows on their way between the bands of `compression.bands` and FSDP2's cut of the model.

Between both lie few rows, and only these change their rank, from one rank to the other.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from template.ranks.shelf import Shelf
from template.training.sharded_model import even_cuts


class Mover:
    """One rank's part of every move; `rank` and `size` are the group's."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf, self._group = shelf, shelf.group

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the whole tensor."""
        return self._shelf.form.shapes[name]

    def to_rows(self, band: Tensor, name: str) -> Tensor:
        """FSDP2's rows of a tensor, from the bands."""
        shape = self.shape(name)
        rows = even_cuts(shape, self._group.size)
        return self._group.move_rows(band, shape, self._shelf.cuts(shape), rows)

    def to_band(self, rows: Tensor, name: str) -> Tensor:
        """This rank's band of a tensor, from FSDP2's rows."""
        shape = self.shape(name)
        own = even_cuts(shape, self._group.size)
        return self._group.move_rows(rows, shape, own, self._shelf.cuts(shape))

    def start(self, values: Mapping[str, Any], key: str, name: str) -> Tensor:
        """This rank's band of a start: [number, number of updates or None, rounded or not]."""
        number, updates, is_short = values[key]
        band = self._shelf.bands[number][name]
        if updates is None and not is_short:
            return band
        return self._shelf.moved(band, updates, name, is_short=is_short)


def fill(rows: Tensor, values: Tensor) -> None:
    """Copy into rows, where they lie."""
    rows.copy_(values.view(rows.shape))
