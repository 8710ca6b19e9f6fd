"""One rank's part of encoding a payload, and of the error feedback: see `compression.bands`."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from compression import HeldUpdates
from compression.bands import chunk_bytes, cut, splice
from compression.encoder import Tally, choose, no_tally, select, tally, write
from template.ranks.loop import Order
from template.ranks.shelf import Shelf

Values = Mapping[str, Any]


class Codec:
    """Encodes the bands of a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf, self._group = shelf, shelf.group

    def orders(self) -> dict[str, Order]:
        """Name -> this rank's part."""
        return {"encode": self.encode, "keep": self.keep, "take_back": self.take_back}

    def encode(self, values: Values, _given: Any) -> bytes:
        """The body of decay * feedback + delta on rank 0; the feedback keeps the rest."""
        shelf = self._shelf
        deltas, residual = (shelf.bands[values[key]] for key in ("deltas", "feedback"))
        selected = select(deltas, residual, shelf.plan, values["decay"], by_torch=shelf.by_torch)
        before = self._receive_tally(no_tally(shelf.form.plan))
        scales = choose(self._share_tally(tally(selected, before)), shelf.form.plan)
        own = cut(write(selected, scales), shelf.plan)
        if shelf.rank:
            self._group.exchange([(0, torch.from_numpy(own))], [])
            return b""
        plans, parts = [shelf.plan_of(rank) for rank in range(shelf.size)], [own]
        for rank in range(1, shelf.size):
            room = torch.empty(chunk_bytes(plans[rank]), dtype=torch.uint8)
            self._group.exchange([], [(rank, room)])
            parts.append(room.numpy())
        return splice(parts, scales, plans)

    def _receive_tally(self, none: Tally) -> Tally:
        """The tally of the ranks before this one."""
        if self._shelf.rank:
            self._group.exchange([], self._numbers(none, self._shelf.rank - 1))
        return none

    def _share_tally(self, total: Tally) -> Tally:
        """The tally of all ranks: handed on to the next rank, and by the last one to all."""
        shelf, group = self._shelf, self._group
        last = shelf.size - 1
        if shelf.rank < last:
            group.exchange(self._numbers(total, shelf.rank + 1), [])
            group.exchange([], self._numbers(total, last))
        else:
            for rank in range(last):
                group.exchange(self._numbers(total, rank), [])
        return total

    def _numbers(self, some: Tally, rank: int) -> list[tuple[int, torch.Tensor]]:
        return [(rank, torch.from_numpy(array)) for array in (some.gain_GR, some.largest_TR)]

    def keep(self, values: Values, _given: Any) -> None:
        """Add a whole pseudo-gradient to the feedback."""
        feedback = self._shelf.bands[values["feedback"]]
        for name, delta in self._shelf.bands[values["deltas"]].items():
            feedback[name] += delta

    def take_back(self, values: Values, given: memoryview | None) -> None:
        """Add a share of a payload to the feedback; rank 0 is given the body."""
        shelf = self._shelf
        plan_of = partial(shelf.plan_of, top_k=values["top_k"])
        own = plan_of(shelf.rank)
        if given is None:
            body = shelf.receive_body(own)
        else:
            body = np.frombuffer(given, dtype=np.uint8)
            shelf.send_body(body, plan_of)
        shares = dict.fromkeys(values["names"], float(values["share"]))
        returned = HeldUpdates([(body.data, shares)], own)
        for name, band in shelf.bands[values["feedback"]].items():
            returned.add_to(band, name, by_torch=shelf.by_torch)
