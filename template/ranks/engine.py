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

from template.errors import ConfigError
from template.protocol.spec import RunSpec
from template.ranks.loop import Order
from template.ranks.mover import Mover, fill
from template.ranks.pages import share_pages
from template.ranks.shelf import Shelf, save_rows
from template.training.devices import FUSED_ADAMW, peak_bytes, reset_peak
from template.training.memory import KEPT, give_back_freed
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

AVERAGES = ("exp_avg", "exp_avg_sq")
STEP = "step"


class CutModel:
    """A rank's rows of the model and of AdamW's moments, made with the first order."""

    def __init__(
        self, shelf: Shelf, spec: RunSpec, device: torch.device, options: InnerOptions
    ) -> None:
        self._shelf, self._group = shelf, shelf.group
        self._spec, self._device, self._options = spec, device, options
        self._is_fused = device.type in FUSED_ADAMW
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
    def _optimizer(self) -> torch.optim.AdamW:
        training = self._spec.training
        return torch.optim.AdamW(
            self._parameters.values(),
            lr=training.inner_lr,
            betas=(training.adam_beta1, training.adam_beta2),
            weight_decay=training.weight_decay,
            fused=self._is_fused or None,
        )

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
        """One step of AdamW; rank 0 is given the batch, and each rank gets its pages."""
        page_tokens = self._spec.data.page_tokens
        pages = share_pages(self._group, values["counts"], page_tokens, given)
        for group in self._optimizer.param_groups:
            group["lr"] = values["lr"]
        if not self._optimizer.state:
            self._allocate_moments()
        self._optimizer.zero_grad()
        loss = self._add_gradients(pages, values["counts"])
        nn.utils.clip_grad_norm_(self._parameters.values(), self._spec.training.max_gradient_norm)
        self._optimizer.step()
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

    def _allocate_moments(self) -> None:
        """AdamW's own first state, before the first pass: what fits beside it always fits."""
        for parameter in self._parameters.values():
            self._optimizer.state[parameter] = self._moments_of(parameter, 0.0)

    def _moments_of(self, parameter: nn.Parameter, step: float) -> dict[str, Tensor]:
        device = parameter.device if self._is_fused else torch.device("cpu")
        return {
            STEP: torch.tensor(step, device=device),
            **{key: torch.zeros_like(parameter) for key in AVERAGES},
        }

    def make_room(self, _values: Values, _given: Any) -> None:
        """Without gradients, between two steps."""
        self._optimizer.zero_grad()
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
        self._optimizer.state.clear()

    def load_moments(self, values: Values, _given: Any) -> None:
        """Take the moments out of bands, tensor by tensor."""
        bands = self._shelf.bands[values["number"]]
        steps = {name: bands.pop(f"{STEP}.{name}") for name in self._parameters}
        at_first = {name: float(step) for name, step in steps.items() if step.numel()}
        found: dict[str, float] = self._group.share(at_first)
        for name, parameter in self._parameters.items():
            state = self._moments_of(parameter, found[name])
            for key in AVERAGES:
                band = bands.pop(f"{key}.{name}")
                fill(rows_of(state[key]), self._mover.to_rows(band, name))
            self._optimizer.state[parameter] = state

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
        for name, parameter in self._parameters.items():
            shape, state = self._mover.shape(name), self._optimizer.state[parameter]
            first = even_cuts(shape, self._group.size)[self._group.rank]
            for key in AVERAGES:
                own = rows_of(state[key])
                rows[f"{key}.{name}"] = Rows(values=own, first=first, shape=shape)
            if self._group.rank == 0:
                rows[f"{STEP}.{name}"] = Rows(values=state[STEP], first=0, shape=())
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
