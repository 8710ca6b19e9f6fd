"""Comparing states of a run."""

import dataclasses

from template.protocol.root import tensors_digest
from template.training.outer import OuterState


def equal_states(one: OuterState, other: OuterState) -> bool:
    """Whether two states are the same in every field, tensors to the bit."""
    fields = [f.name for f in dataclasses.fields(OuterState) if f.compare and f.name != "params"]
    same_tensors = tensors_digest(one.params) == tensors_digest(other.params)
    return same_tensors and all(getattr(one, f) == getattr(other, f) for f in fields)
