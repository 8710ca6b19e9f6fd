"""Comparing states of a run."""

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from compression import round_to_short
from template.protocol.root import tensors_digest
from template.training.outer import OuterState


def equal_states(one: OuterState, other: OuterState) -> bool:
    """Whether two states are the same in every field, tensors to the bit."""
    fields = [f.name for f in dataclasses.fields(OuterState) if f.compare and f.name != "params"]
    same_tensors = tensors_digest(one.params) == tensors_digest(other.params)
    return same_tensors and all(getattr(one, f) == getattr(other, f) for f in fields)


def short(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies rounded to 24 bits, as every theta with a checkpoint is."""
    copies = {name: tensor.clone() for name, tensor in params.items()}
    for tensor in copies.values():
        round_to_short(tensor)
    return copies
