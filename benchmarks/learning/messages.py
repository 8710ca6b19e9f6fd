"""What miners send: payloads of the project's codec, its variants of 1 and 4 bits, or float32.

Legend: N parameters, C chunks of one size, K kept values of a chunk.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.learning.space import Space
from compression import (
    SparseTensor,
    decode,
    encode_with_feedback,
    exact_norm,
    make_plan,
    tensor_layout,
)

FLOAT32_BYTES = 4
DIRECT_LEVELS = 8
"""Magnitudes of the 4-bit code."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One payload as everybody decodes it: sparse tensors, and the same as one vector [N].

    `steps`: inner steps behind it. `tensors` is empty where float32 was sent; `body`, the
    payload's sections, where it was not the protocol's code.
    """

    num_bytes: int
    dense: Tensor
    steps: int
    tensors: Mapping[str, SparseTensor]
    body: bytes = b""


class DenseCodec:
    """All values as float32: nothing stays behind."""

    def send(self, delta_N: Tensor, residual_N: Tensor, steps: int) -> Message:
        num_bytes = FLOAT32_BYTES * delta_N.numel()
        return Message(num_bytes=num_bytes, dense=delta_N.clone(), steps=steps, tensors={})


class SparseCodec:
    """The project's payload: top-k, 2 bits a value, error feedback with `decay`."""

    def __init__(self, space: Space, top_k: int, decay: float, bits: int = 2) -> None:
        self._space, self._top_k, self._decay, self._bits = space, top_k, decay, bits
        self._plan = make_plan(space.shapes, top_k=top_k)

    def send(self, delta_N: Tensor, residual_N: Tensor, steps: int) -> Message:
        """Encode decay * residual + delta; the residual becomes what was not sent, in place."""
        if self._bits != 2:
            return self._recoded(delta_N, residual_N, steps)
        deltas, residual = self._space.views(delta_N), self._space.views(residual_N)
        body = encode_with_feedback(deltas, residual, self._plan, self._decay, num_threads=1)
        tensors = decode(body, self._plan, num_threads=1).tensors
        return replace(self._message(len(body), tensors, steps), body=body)

    def _recoded(self, delta_N: Tensor, residual_N: Tensor, steps: int) -> Message:
        """The places of the project's code with values of another width; bytes by formula."""
        total_N = residual_N * self._decay + delta_N
        total = self._space.views(total_N)
        zeros = {name: torch.zeros(shape) for name, shape in self._space.shapes.items()}
        body = encode_with_feedback(total, zeros, self._plan, 0.0, num_threads=1)
        places = decode(body, self._plan, num_threads=1).tensors
        tensors = {
            name: recode(total[name], sparse, self._top_k, self._bits)
            for name, sparse in places.items()
        }
        num_bytes = len(body) + math.ceil(self._plan.num_kept * (self._bits - 2) / 8)
        message = self._message(num_bytes, tensors, steps)
        residual_N.copy_(total_N - message.dense)
        return message

    def _message(self, num_bytes: int, tensors: Mapping[str, SparseTensor], steps: int) -> Message:
        dense_N = torch.zeros(self._space.num_elements)
        for name, view in self._space.views(dense_N).items():
            tensors[name].add_to(view, coefficient=1.0)
        return Message(num_bytes=num_bytes, dense=dense_N, steps=steps, tensors=tensors)


def recode(total: Tensor, places: SparseTensor, top_k: int, bits: int) -> SparseTensor:
    """The values of `total` at the places of a payload, in a code of 1 or 4 bits per chunk."""
    values, start = total.reshape(-1)[places.indices], 0
    for group in tensor_layout(places.shape, top_k).groups:
        stop = start + group.num_chunks * group.k
        part_CK = values[start:stop].view(group.num_chunks, group.k)
        part_CK.copy_(one_bit(part_CK) if bits == 1 else four_bits(part_CK))
        start = stop
    norm = exact_norm(values)
    return SparseTensor(shape=places.shape, indices=places.indices, values=values, norm=norm)


def one_bit(values_CK: Tensor) -> Tensor:
    """The sign times the chunk's mean magnitude."""
    return values_CK.sign() * values_CK.abs().mean(dim=1, keepdim=True)


def four_bits(values_CK: Tensor) -> Tensor:
    """The sign and the nearest of 8 magnitudes, equally spaced up to the chunk's largest."""
    step_C1 = values_CK.abs().amax(dim=1, keepdim=True) / DIRECT_LEVELS
    level_CK = (values_CK.abs() / step_C1).round().clamp(1, DIRECT_LEVELS)
    return torch.where(step_C1 > 0, values_CK.sign() * level_CK * step_C1, 0.0)
