"""Scoring on many devices: a cut of the model for forward passes, and rank 0's view of it.

Every rank holds its rows of the model by FSDP2, float32, without gradients. A payload's step is
added to the ranks' rows in place, and taken back in place: a rank gets the chunks with an element
in its rows, and notes the values that these move. A pass is made by all ranks together: each has
some of its pages, and a rank without a page computes one that counts for nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compression import Plan, SparseTensor, decode, held_plan
from compression.bands import rows_plan, whole_chunks
from template.protocol.payload import Payload
from template.protocol.spec import ChatSpec, RunSpec
from template.ranks.handles import Bands, BandSpreader, Held, numbers_of
from template.ranks.loop import Order
from template.ranks.mover import Mover, fill
from template.ranks.pages import share_pages
from template.ranks.shelf import Shelf
from template.training.answers import answer_tokens
from template.training.evaluator import FLOAT_BYTES
from template.training.memory import KEPT
from template.training.scorer import (
    Moved,
    means_of_parts,
    move,
    move_back,
    pages_of_pass,
)
from template.training.sharded_model import (
    PageLosses,
    build_sharded_for_scoring,
    end_pass,
    even_cuts,
    named_rows,
    rows_of,
)

Values = Mapping[str, Any]

LATER_COPIES = 2
"""Copies of theta that come to lie beside the first: the next theta, and the one before a step."""


class CutScorer:
    """One rank's rows of the model, made with the first order."""

    def __init__(
        self, shelf: Shelf, spec: RunSpec, device: torch.device, batch_pages: int | None
    ) -> None:
        """`batch_pages`: of this rank in one pass; None: what fills the device."""
        self._shelf, self._group = shelf, shelf.group
        self._spec, self._device, self._batch_pages = spec, device, batch_pages
        self._mover = Mover(shelf)
        self._moved: dict[str, Moved] = {}
        self.plan_of = cache(self._plan_of)
        """Rank and k -> the plan of the chunks with an element in the rank's rows."""

    def orders(self) -> dict[str, Order]:
        """Name -> this rank's part."""
        return {
            "score_room": self.room,
            "score_load": self.load,
            "score_blend": self.blend,
            "score_step": self.step,
            "score_back": self.back,
            "score_pages": self.pages,
            "score_read": self.read,
        }

    @cached_property
    def _root(self) -> PageLosses:
        return build_sharded_for_scoring(self._spec, self._device, self._group.size).eval()

    @cached_property
    def _parameters(self) -> dict[str, nn.Parameter]:
        return named_rows(self._root)

    def _span(self, name: str, rank: int) -> tuple[int, int]:
        """A rank's rows of a tensor."""
        first, end = even_cuts(self._mover.shape(name), self._group.size)[rank : rank + 2]
        return first, end

    def _plan_of(self, rank: int, top_k: int) -> Plan:
        plan = self._shelf.whole_plan(top_k)
        shapes = (layout.shape for layout in plan.layouts)
        spans = [
            whole_chunks(shape, *self._span(name, rank))
            for name, shape in zip(plan.names, shapes, strict=True)
        ]
        return rows_plan(plan, spans)

    def room(self, _values: Values, _given: Any) -> int:
        """Pages of this rank's part of a pass."""
        own_bytes = FLOAT_BYTES * sum(rows_of(p).numel() for p in self._parameters.values())
        later = LATER_COPIES * own_bytes if self._shelf.device.type != "cpu" else 0
        return self._batch_pages or pages_of_pass(self._spec, self._device, later)

    @torch.no_grad()
    def load(self, values: Values, _given: Any) -> None:
        """Load the parameters, from bands."""
        for name, parameter in self._parameters.items():
            band = self._mover.start(values, "start", name)
            fill(rows_of(parameter), self._mover.to_rows(band, name))

    @torch.no_grad()
    def blend(self, values: Values, _given: Any) -> None:
        """Go half of the way to the parameters in other bands."""
        for name, parameter in self._parameters.items():
            rows = rows_of(parameter)
            goal = self._mover.to_rows(self._mover.start(values, "goal", name), name)
            rows.lerp_(goal.to(rows.device).view_as(rows), 0.5)

    @torch.no_grad()
    def step(self, values: Values, given: memoryview | None) -> None:
        """Subtract a payload; rank 0 is given the body."""
        factors, top_k = values["factors"], values["top_k"]
        own = held_plan(self.plan_of(self._group.rank, top_k), factors)
        if given is None:
            body = self._shelf.receive_body(own)
        else:
            body = np.frombuffer(given, dtype=np.uint8)
            self._shelf.send_body(body, lambda rank: held_plan(self.plan_of(rank, top_k), factors))
        tensors = decode(body.data, own).tensors
        for name, factor in factors.items():
            rows = rows_of(self._parameters[name])
            self._moved[name] = move(rows, self._within(tensors[name], name), factor)

    def _within(self, sparse: SparseTensor, name: str) -> SparseTensor:
        """The values in this rank's rows, of chunks that reach beyond them."""
        shape, rank = self._mover.shape(name), self._group.rank
        first, end = self._span(name, rank)
        above, _ = whole_chunks(shape, first, end)
        row = int(np.prod(shape[1:], dtype=np.int64))
        start, stop = (first - above) * row, (end - above) * row
        is_own = (sparse.indices >= start) & (sparse.indices < stop)
        return SparseTensor(
            shape=(end - first, *shape[1:]),
            indices=sparse.indices[is_own] - start,
            values=sparse.values[is_own],
            norm=sparse.norm,
        )

    @torch.no_grad()
    def back(self, _values: Values, _given: Any) -> None:
        """Take the payload back, to the last bit."""
        for name, moved in self._moved.items():
            move_back(rows_of(self._parameters[name]), moved)
        self._moved = {}

    @torch.no_grad()
    def pages(self, values: Values, given: np.ndarray | None) -> bytes:
        """The losses of the parts of this rank's pages of a pass, as float64; rank 0 is given all
        pages.
        """
        page_tokens = self._spec.data.page_tokens
        own = share_pages(self._group, values["counts"], page_tokens, given)
        tokens = own if len(own) else torch.zeros((1, page_tokens), dtype=torch.int64)
        chat = values["chat"]
        counted = None if chat is None else answer_tokens(tokens, ChatSpec(**chat))
        losses = means_of_parts(self._root(tokens.to(self._device)), values["parts"], counted)
        end_pass(self._root)
        return losses[: len(own)].tobytes()

    @torch.no_grad()
    def read(self, values: Values, _given: Any) -> None:
        """New bands of what is loaded."""
        bands = {}
        for name, parameter in self._parameters.items():
            band = self._mover.to_band(rows_of(parameter), name).to(self._shelf.device)
            bands[name] = KEPT.copy_of(band) if band.device.type == "cpu" else band.clone()
        self._shelf.bands[values["number"]] = bands


class RanksScorer:
    """The model for evaluation of many ranks, as rank 0 sees it: an `Evaluator`."""

    def __init__(self, spreader: BandSpreader, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._spreader, self._team = spreader, spreader.team
        self._shapes = dict(shapes)
        # A pass is made together: the fullest device decides for all.
        self.batch_pages = self._team.group.size * min(self._team.call("score_room"))
        """Pages of one pass, of all ranks together."""

    def load(self, params: Mapping[str, Tensor]) -> None:
        """As in `Evaluator`."""
        # A handle of its own name: the ranks forget bands with the last reference.
        given = self._spreader.bands_of(params)
        self._team.tell("score_load", start=numbers_of(given))

    def load_half_way(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
        """As in `Evaluator`."""
        self.load(first)
        given = self._spreader.bands_of(second)
        self._team.tell("score_blend", goal=numbers_of(given))

    def params(self) -> Bands:
        """A copy of the loaded parameters, for checks of bit-exact restoring."""
        made = Bands(Held(self._team), self._shapes)
        self._team.tell("score_read", number=made.number)
        return made

    def losses(self, pages: np.ndarray, chat: ChatSpec | None = None) -> np.ndarray:
        """As in `Evaluator`."""
        return self.part_losses(pages, 1, chat)[:, 0]

    def part_losses(
        self, pages: np.ndarray, parts: int, chat: ChatSpec | None = None
    ) -> np.ndarray:
        """As in `Evaluator`."""
        size = self.batch_pages
        batches = [pages[start : start + size] for start in range(0, len(pages), size)]
        found = [self._pass(batch, parts, chat) for batch in batches]
        return np.concatenate(found) if found else np.empty((0, parts))

    def _pass(self, pages: np.ndarray, parts: int, chat: ChatSpec | None) -> np.ndarray:
        counts = [len(part) for part in np.array_split(pages, self._team.group.size)]
        table = None if chat is None else asdict(chat)
        found = self._team.call("score_pages", pages, counts=counts, parts=parts, chat=table)
        rows = [np.frombuffer(part, dtype=np.float64).reshape(-1, parts) for part in found]
        return np.concatenate(rows)

    @contextmanager
    def stepped_by(self, payload: Payload, factors: Mapping[str, float]) -> Iterator[None]:
        """As in `Evaluator`."""
        # All of them, before any rank moves a value: half of a step could not be taken back.
        by_name = {name: float(factors[name]) for name in payload.norms}
        top_k = payload.plan.top_k
        self._team.tell("score_step", payload.body, factors=by_name, top_k=top_k)
        try:
            yield
        finally:
            self._team.tell("score_back")
