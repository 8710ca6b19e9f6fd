"""One rank's part of the inner loop: a cut of model and AdamW.

Gradients are summed over the ranks after every pass of a batch, and not only after the last: the
sum of the passes then lies in a cut, as everything else. Whole gradients on every rank would not
fit where a cut model is needed.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from template.errors import ConfigError
from template.protocol.spec import RunSpec
from template.ranks.loop import Order
from template.ranks.mover import Mover, fill
from template.ranks.pages import share_pages
from template.ranks.shelf import Shelf, save_rows
from template.training.devices import peak_bytes, reset_peak
from template.training.memory import KEPT, give_back_freed
from template.training.muon import Muon
from template.training.optimizer import STEP, NamedOptimizer
from template.training.options import InnerOptions
from template.training.row_files import Rows
from template.training.sharded_model import (
    PageLoss,
    build_sharded,
    even_cuts,
    named_rows,
    rows_of,
)

Values = Mapping[str, Any]


class CutMuon(Muon):
    """Muon of matrices in rows: every rank turns every whole matrix, and moves its own rows."""

    def _whole(self, tensor: Tensor) -> Tensor:
        assert isinstance(tensor, DTensor)
        return tensor.full_tensor()

    def _own(self, update: Tensor, parameter: nn.Parameter) -> Tensor:
        assert isinstance(parameter, DTensor)
        # No source: every rank has the whole update, and nothing is sent.
        mesh, placements = parameter.device_mesh, parameter.placements
        return distribute_tensor(update, mesh, placements, src_data_rank=None)


class CutModel:
    """A rank's rows of the model and of the optimizer's moments, made with the first order."""

    def __init__(
        self, shelf: Shelf, spec: RunSpec, device: torch.device, options: InnerOptions
    ) -> None:
        self._shelf, self._group = shelf, shelf.group
        self._spec, self._device, self._options = spec, device, options
        self._mover = Mover(shelf)

    def orders(self) -> dict[str, Order]:
        """Name -> this rank's part."""
        return {
            "begin": self.begin,
            "shift": self.shift,
            "step": self.step,
            "make_room": self.make_room,
            "end_window": self.end_window,
            "reset_moments": self.reset_moments,
            "load_moments": self.load_moments,
            "save_moments": self.save_moments,
            "copy_moments": self.copy_moments,
        }

    def orders_beside(self) -> dict[str, Order]:
        """Those of the second stream, while another thread of this rank trains."""
        return {"save_moments": self.save_moments, "copy_moments": self.copy_moments}

    @cached_property
    def _root(self) -> PageLoss:
        root = build_sharded(self._spec, self._device, self._group.size, self._options)
        return root.train()

    @cached_property
    def _parameters(self) -> dict[str, nn.Parameter]:
        return named_rows(self._root)

    @cached_property
    def _optimizer(self) -> NamedOptimizer:
        return NamedOptimizer(self._spec.training, self._parameters, self._device, CutMuon)

    @torch.no_grad()
    def begin(self, values: Values, _given: Any) -> None:
        """Load the parameters, from bands."""
        KEPT.release()  # training needs the room
        for name, parameter in self._parameters.items():
            fill(
                rows_of(parameter),
                self._mover.to_rows(self._mover.start(values, "start", name), name),
            )
        reset_peak(self._device)

    @torch.no_grad()
    def shift(self, values: Values, _given: Any) -> None:
        for name, parameter in self._parameters.items():
            way = self._mover.start(values, "goal", name) - self._mover.start(values, "start", name)
            rows = rows_of(parameter)
            rows += self._mover.to_rows(way, name).to(rows.device).view_as(rows)

    def step(self, values: Values, given: np.ndarray | None) -> Tensor:
        """One inner step; rank 0 is given the batch, and each rank gets its pages."""
        page_tokens = self._spec.data.page_tokens
        pages = share_pages(self._group, values["counts"], page_tokens, given)
        self._optimizer.allocate()
        self._optimizer.drop_gradients()
        loss = self._add_gradients(pages, values["counts"])
        nn.utils.clip_grad_norm_(self._parameters.values(), self._spec.training.max_gradient_norm)
        self._optimizer.step(values["lr"])
        return loss

    def _add_gradients(self, pages: Tensor, counts: list[int]) -> Tensor:
        """The gradients of a batch, added up pass by pass; the mean loss over all ranks.

        Every rank makes as many passes as the rank with most pages: a pass is made together.
        """
        size, total = self._options.micro_batch or 1, sum(counts)
        loss = torch.zeros((), device=self._device)
        try:
            for part in pages.tensor_split(-(-max(counts) // size)):
                share = len(part) / total
                # A rank that has run out of pages computes one that counts for nothing.
                tokens = part if len(part) else torch.zeros((1, pages.shape[1]), dtype=torch.int64)
                value = self._root(tokens.to(self._device))
                # FSDP2 takes the mean over the ranks; the batch's mean is a sum of shares.
                (value * (share * self._group.size)).backward()
                loss += value.detach().float() * share
        except torch.OutOfMemoryError as error:
            raise ConfigError(_too_small(size, self._options)) from error
        if self._group.size > 1:
            dist.all_reduce(loss)
        return loss

    def make_room(self, _values: Values, _given: Any) -> None:
        """Without gradients, between two steps."""
        self._optimizer.drop_gradients()
        give_back_freed()

    @torch.no_grad()
    def end_window(self, values: Values, _given: Any) -> int | None:
        """start - end as new bands; the most bytes of the device in use since `begin`."""
        self.make_room(values, None)
        bands = {}
        for name, parameter in self._parameters.items():
            start = self._mover.start(values, "start", name)
            end = self._mover.to_band(rows_of(parameter).float(), name).to(start.device)
            room = KEPT.empty(start.shape) if start.device.type == "cpu" else None
            bands[name] = torch.sub(start, end.view_as(start), out=room)
        self._shelf.bands[values["number"]] = bands
        return peak_bytes(self._device)

    def reset_moments(self, _values: Values, _given: Any) -> None:
        for name in self._parameters:
            self._optimizer.pop(name)

    def load_moments(self, values: Values, _given: Any) -> None:
        """Take the moments out of bands, tensor by tensor; those of `anew` begin with none."""
        bands = self._shelf.bands[values["number"]]
        counted = {n: bands.pop(f"{STEP}.{n}") for n in self._parameters if f"{STEP}.{n}" in bands}
        at_first = {name: float(step) for name, step in counted.items() if step.numel()}
        found: dict[str, float] = self._group.share(at_first)
        for name in self._parameters:
            state = self._optimizer.first_state(name, found.get(name, 0.0))
            if name not in values["anew"]:
                # In one order on every rank, since all move rows together: no set.
                for key in [key for key in state if key != STEP]:
                    band = bands.pop(f"{key}.{name}")
                    fill(rows_of(state[key]), self._mover.to_rows(band, name))
            self._optimizer.put(name, state)

    def save_moments(self, values: Values, _given: Any) -> list[Any]:
        """Write this rank's rows, as they are or were copied; [name, length] of the file."""
        copied = self._shelf.moments.get(values["number"])
        rows = self._rows_of_moments() if copied is None else copied
        return save_rows(self._group, rows, values)

    @torch.no_grad()
    def copy_moments(self, values: Values, _given: Any) -> None:
        """Copy this rank's rows to the host, to be saved while the device trains on."""
        self._shelf.moments[values["number"]] = {
            name: replace(part, values=part.values.to("cpu", copy=True))
            for name, part in self._rows_of_moments().items()
        }

    def _rows_of_moments(self) -> dict[str, Rows]:
        rows = {}
        for name in self._parameters:
            shape, state = self._mover.shape(name), self._optimizer.state(name)
            assert state is not None, "a step comes first"
            first = even_cuts(shape, self._group.size)[self._group.rank]
            for key, value in state.items():
                if key != STEP:
                    rows[f"{key}.{name}"] = Rows(values=rows_of(value), first=first, shape=shape)
                elif self._group.rank == 0:
                    rows[f"{STEP}.{name}"] = Rows(values=value, first=0, shape=())
        return rows


def _too_small(pages: int, options: InnerOptions) -> str:
    remedies = ["more ranks, or larger devices"]
    if not options.checkpoints_activations:
        remedies.append("--neuron.activation_checkpointing")
    if pages > 1:
        remedies.append("a smaller --neuron.micro_batch")
    return (
        f"--neuron.micro_batch: a rank's device does not bear a pass of {pages} pages; take "
        f"{' or '.join(remedies)}"
    )
