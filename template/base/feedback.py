"""Error feedback: the part of a miner's pseudo-gradients that no accepted payload carries."""

from collections.abc import Mapping

import torch
from torch import Tensor

from template.protocol.payload import (
    Payload,
    PayloadFormat,
    PayloadHeader,
    encode_payload_with_feedback,
)
from template.training.model import Params

RETURNED_SHARE = 0.5
"""Share of a payload without acceptance that returns to error feedback. A payload that comes again
two windows late is partly out of date; by measurement half learns faster than all, and no slower
than nothing (D121).
"""


class ErrorFeedback:
    """One float32 tensor per parameter, on the CPU. Source: EF-SGD (arXiv 1901.09847)."""

    def __init__(self, form: PayloadFormat, decay: float, saved: Mapping[str, Tensor]) -> None:
        """Starts from `saved`; a tensor missing there starts from zeros."""
        self._form, self._decay = form, decay
        missing = {name: shape for name, shape in form.shapes.items() if name not in saved}
        zeros = {name: torch.zeros(shape) for name, shape in missing.items()}
        self.tensors: Params = {**zeros, **saved}
        self.revision: object = object()
        """Another object after every change of the tensors."""

    def follow(self, form: PayloadFormat, decay: float) -> None:
        """Encode by another spec of the run from now on."""
        self._form, self._decay = form, decay

    def encode(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        """The frame of decay * feedback + delta; the feedback keeps the rest.

        ValueError on NaN or Inf: the feedback is then lost.
        """
        self.revision = object()
        return encode_payload_with_feedback(header, deltas, self.tensors, self._form, self._decay)

    def keep(self, deltas: Mapping[str, Tensor]) -> None:
        """Keep a whole pseudo-gradient for the next payload."""
        self.revision = object()
        for name, delta in deltas.items():
            self.tensors[name] += delta

    def take_back(self, payload: Payload) -> None:
        """Return `RETURNED_SHARE` of a payload's content."""
        self.revision = object()
        for name, sparse in payload.tensors.items():
            sparse.add_to(self.tensors[name], coefficient=RETURNED_SHARE)
