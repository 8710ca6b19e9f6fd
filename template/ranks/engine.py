"""One rank's part of the inner loop: a cut of model and AdamW, and the rows that go to and fro.

Between FSDP2's rows and the bands of `compression.bands` lie few rows, and only these change their
rank, from one rank to the other.

Gradients are summed over the ranks after every pass of a batch, and not only after the last: the
sum of the passes then lies in a cut, as everything else. Whole gradients on every rank would not
fit where a cut model is needed.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from template.errors import ConfigError
from template.protocol.spec import RunSpec
from template.ranks.loop import Order
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

    def orders(self) -> dict[str, Order]:
        """Name -> this rank's part."""
        return {
            "begin": self.begin,
            "shift": self.shift,
            "step": self.step,
            "end_window": self.end_window,
            "reset_moments": self.reset_moments,
            "load_moments": self.load_moments,
            "save_moments": self.save_moments,
        }

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

    def _shape(self, name: str) -> tuple[int, ...]:
        return self._shelf.form.shapes[name]

    def _to_rows(self, band: Tensor, name: str) -> Tensor:
        """FSDP2's rows of a tensor, from the bands."""
        shape = self._shape(name)
        rows = even_cuts(shape, self._group.size)
        return self._group.move_rows(band, shape, self._shelf.cuts(shape), rows)

    def _to_band(self, rows: Tensor, name: str) -> Tensor:
        shape = self._shape(name)
        own = even_cuts(shape, self._group.size)
        return self._group.move_rows(rows, shape, own, self._shelf.cuts(shape))

    def _start(self, values: Values, key: str, name: str) -> Tensor:
        """This rank's band of a start: [number, number of updates or None, rounded or not]."""
        number, updates, is_short = values[key]
        band = self._shelf.bands[number][name]
        if updates is None and not is_short:
            return band
        return self._shelf.moved(band, updates, name, is_short=is_short)

    @torch.no_grad()
    def begin(self, values: Values, _given: Any) -> None:
        """Load the parameters, from bands."""
        KEPT.release()  # training needs the room
        for name, parameter in self._parameters.items():
            _fill(rows_of(parameter), self._to_rows(self._start(values, "start", name), name))
        reset_peak(self._device)

    @torch.no_grad()
    def shift(self, values: Values, _given: Any) -> None:
        for name, parameter in self._parameters.items():
            way = self._start(values, "goal", name) - self._start(values, "start", name)
            rows = rows_of(parameter)
            rows += self._to_rows(way, name).to(rows.device).view_as(rows)

    def step(self, values: Values, given: np.ndarray | None) -> Tensor:
        """One step of AdamW; rank 0 is given the batch, and each rank gets its pages."""
        pages = self._share_pages(values["counts"], given)
        for group in self._optimizer.param_groups:
            group["lr"] = values["lr"]
        if not self._optimizer.state:
            self._allocate_moments()
        self._optimizer.zero_grad()
        loss = self._add_gradients(pages, values["counts"])
        nn.utils.clip_grad_norm_(self._parameters.values(), self._spec.training.max_gradient_norm)
        self._optimizer.step()
        return loss

    def _share_pages(self, counts: list[int], given: np.ndarray | None) -> Tensor:
        if given is None:
            room = torch.empty(
                (counts[self._group.rank], self._spec.data.page_tokens), dtype=torch.int64
            )
            self._group.exchange([], [(0, room)])
            return room
        parts = torch.from_numpy(np.ascontiguousarray(given)).split(counts)
        self._group.exchange(list(enumerate(parts))[1:], [])
        return parts[0]

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

    @torch.no_grad()
    def end_window(self, values: Values, _given: Any) -> int | None:
        """start - end as new bands; the most bytes of the device in use since `begin`."""
        self._optimizer.zero_grad()
        give_back_freed()
        bands = {}
        for name, parameter in self._parameters.items():
            start = self._start(values, "start", name)
            end = self._to_band(rows_of(parameter).float(), name).to(start.device)
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
                _fill(rows_of(state[key]), self._to_rows(band, name))
            self._optimizer.state[parameter] = state

    def save_moments(self, values: Values, _given: Any) -> list[Any]:
        """Write this rank's rows as they are; [name, length] of the file."""
        rows = {}
        for name, parameter in self._parameters.items():
            shape, state = self._shape(name), self._optimizer.state[parameter]
            first = even_cuts(shape, self._group.size)[self._group.rank]
            for key in AVERAGES:
                own = rows_of(state[key])
                rows[f"{key}.{name}"] = Rows(values=own, first=first, shape=shape)
            if self._group.rank == 0:
                rows[f"{STEP}.{name}"] = Rows(values=state[STEP], first=0, shape=())
        return save_rows(self._group, rows, values)


def _fill(rows: Tensor, values: Tensor) -> None:
    rows.copy_(values.view(rows.shape))


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
