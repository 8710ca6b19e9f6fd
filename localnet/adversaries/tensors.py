"""What dishonest miners make payloads from: dense tensors by name, and frames that say them."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from template.protocol.hashing import labelled_hash, uint_bytes
from template.protocol.payload import Payload, PayloadFormat, PayloadHeader, encode_payload
from template.training.model import Params

_SMALLEST_NORM = 1e-30


def dense(payload: Payload) -> Params:
    """What a payload says, zero where it says nothing."""
    tensors = {}
    for name, sparse in payload.tensors.items():
        tensors[name] = torch.zeros(sparse.shape)
        sparse.add_to(tensors[name], coefficient=1.0)
    return tensors


def frame_of(header: PayloadHeader, tensors: Mapping[str, Tensor], form: PayloadFormat) -> bytes:
    """A valid frame that says these, as far as the code can. ValueError on NaN or Inf."""
    return encode_payload(header, tensors, form)[0]


def reframed(header: PayloadHeader, payload: Payload, form: PayloadFormat) -> bytes:
    """The same body, byte for byte, under another header."""
    own = frame_of(header, zeros(form), form)
    return own[: len(own) - len(payload.body)] + bytes(payload.body)


def zeros(form: PayloadFormat) -> Params:
    return {name: torch.zeros(shape) for name, shape in form.shapes.items()}


def scaled(tensors: Mapping[str, Tensor], factor: float) -> Params:
    return {name: factor * tensor for name, tensor in tensors.items()}


def mean(several: Sequence[Mapping[str, Tensor]]) -> Params:
    """Element by element; ValueError if there are none."""
    if not several:
        raise ValueError("the mean of nothing")
    return {name: torch.stack([one[name] for one in several]).mean(0) for name in several[0]}


def spread(several: Sequence[Mapping[str, Tensor]]) -> Params:
    """Standard deviation, element by element, over all of them; 0 for a single one."""
    return {
        name: torch.stack([one[name] for one in several]).std(0, unbiased=False)
        for name in several[0]
    }


def noise(form: PayloadFormat, seed: int) -> Params:
    """Standard normal values, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(form.shapes[n], generator=generator) for n in form.names}


def noise_seed(hotkey: str, window: int) -> int:
    """Another one for each hotkey and window."""
    digest = labelled_hash("misbehaviour", hotkey.encode("ascii"), uint_bytes(window))
    return int.from_bytes(digest[:7], "little")


def at_norms(
    header: PayloadHeader,
    tensors: Mapping[str, Tensor],
    norms: Mapping[str, float],
    form: PayloadFormat,
) -> Params:
    """The tensors so scaled that what a frame keeps of each has this norm; zeros stay zeros."""
    kept = encode_payload(header, tensors, form)[1]
    return {
        name: tensor * (norms[name] / max(kept[name].norm, _SMALLEST_NORM))
        for name, tensor in tensors.items()
    }


def places(tensor: Tensor) -> Tensor:
    """1.0 where the tensor is not zero."""
    return (tensor != 0).to(torch.float32)


def deviation(tensor: Tensor) -> float:
    """Standard deviation of the values that are not zero; 0 for fewer than two."""
    kept = tensor[tensor != 0]
    return float(kept.std()) if kept.numel() > 1 else 0.0


def said_by(payloads: Iterable[Payload]) -> dict[str, Tensor]:
    """Name -> bool: where any of the payloads says something."""
    said: dict[str, Tensor] = {}
    for payload in payloads:
        for name, tensor in dense(payload).items():
            said[name] = said.get(name, torch.zeros_like(tensor, dtype=torch.bool)) | (tensor != 0)
    return said
