"""The tensors of dishonest payloads, and their frames: pure, for real neurons and simulations.

An attack's arithmetic stands here once, on one tensor of any shape: a real neuron calls it for
each tensor of the model, a simulation for all parameters in one vector.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from template.protocol.hashing import labelled_hash, uint_bytes
from template.protocol.payload import Payload, PayloadFormat, PayloadHeader, encode_payload
from template.training.model import Params

_SMALLEST_NORM = 1e-30

INNER_PRODUCT_FACTOR = -10.0
HIJACK_FACTOR = -3.0
LITTLE_DEVIATIONS = 1.5
COPY_NOISE = 0.5
COPY_SHARE = 0.4


def average(rows: Sequence[Tensor]) -> Tensor:
    """The mean of tensors of one shape. Raises RuntimeError without any."""
    return torch.stack(list(rows)).mean(dim=0)


def turn_against_mean(rows: Sequence[Tensor]) -> Tensor:
    """Minus ten times the mean (arXiv 1903.03936, epsilon 10)."""
    return INNER_PRODUCT_FACTOR * average(rows)


def shift_mean_a_little(rows: Sequence[Tensor]) -> Tensor:
    """The mean less 1.5 standard deviations (arXiv 1902.06156), element by element."""
    stacked = torch.stack(list(rows))
    return stacked.mean(dim=0) - LITTLE_DEVIATIONS * stacked.std(dim=0, unbiased=False)


def add_noise(copied: Tensor, noise: Tensor, share: float) -> Tensor:
    """A copy plus standard normal `noise` times `share` deviations, at nonzero values only."""
    return copied + share * deviation(copied) * places(copied) * noise


def keep_part(copied: Tensor, keep: Tensor, filler: Tensor) -> Tensor:
    """The copied values where the bool tensor `keep` says so, else `filler`."""
    return torch.where(keep, copied, filler)


def avoid_places(tensor: Tensor, others: Iterable[Tensor]) -> Tensor:
    """The tensor, zero at every nonzero place of the others."""
    for other in others:
        tensor = tensor * (other == 0)
    return tensor


def reverse_update(update: Tensor) -> Tensor:
    """Minus three times the last update: colluders choose the update's coordinates alike."""
    return HIJACK_FACTOR * update


def dense(payload: Payload) -> Params:
    """A payload as dense float32 tensors, zero at the places left out."""
    tensors = {}
    for name, sparse in payload.tensors.items():
        tensors[name] = torch.zeros(sparse.shape)
        sparse.add_to(tensors[name], coefficient=1.0)
    return tensors


def frame_of(header: PayloadHeader, tensors: Mapping[str, Tensor], form: PayloadFormat) -> bytes:
    """A valid frame of these tensors, as exact as the code allows. ValueError on NaN or Inf."""
    return encode_payload(header, tensors, form)[0]


def reframed(header: PayloadHeader, payload: Payload, form: PayloadFormat) -> bytes:
    """A payload's body, byte for byte, under another header."""
    own = frame_of(header, zeros(form), form)
    return own[: len(own) - len(payload.body)] + bytes(payload.body)


def zeros(form: PayloadFormat) -> Params:
    return {name: torch.zeros(shape) for name, shape in form.shapes.items()}


def scaled(tensors: Mapping[str, Tensor], factor: float) -> Params:
    return {name: factor * tensor for name, tensor in tensors.items()}


def for_each_name(
    combine: Callable[[Sequence[Tensor]], Tensor], several: Sequence[Mapping[str, Tensor]]
) -> Params:
    """Combine the tensors of each name; every mapping has the names of the first."""
    return {name: combine([one[name] for one in several]) for name in several[0]}


def noise(form: PayloadFormat, seed: int) -> Params:
    """Standard normal values, a function of the seed."""
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(form.shapes[n], generator=generator) for n in form.names}


def noise_seed(hotkey: str, window: int) -> int:
    """A seed of 56 bits, a function of hotkey and window."""
    digest = labelled_hash("misbehaviour", hotkey.encode("ascii"), uint_bytes(window))
    return int.from_bytes(digest[:7], "little")


def at_norms(
    header: PayloadHeader,
    tensors: Mapping[str, Tensor],
    norms: Mapping[str, float],
    form: PayloadFormat,
) -> Params:
    """Scale each tensor so that its values kept by a frame have this norm; zeros stay zeros."""
    kept = encode_payload(header, tensors, form)[1]
    return {
        name: tensor * (norms[name] / max(kept[name].norm, _SMALLEST_NORM))
        for name, tensor in tensors.items()
    }


def places(tensor: Tensor) -> Tensor:
    """1.0 at nonzero places, else 0.0."""
    return (tensor != 0).to(torch.float32)


def deviation(tensor: Tensor) -> float:
    """Standard deviation of the nonzero values; 0 for fewer than two."""
    kept = tensor[tensor != 0]
    return float(kept.std()) if kept.numel() > 1 else 0.0
