"""SparseLoCo as in the paper (arXiv 2508.15706, equation 2): the mean over all miners."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.learning.messages import Message
from benchmarks.learning.strategy import LocalUpdate


def weighted_mean(messages: Sequence[Message], weighting: str) -> Tensor:
    """The mean of the payloads, each as one or by the inner steps behind it; [N]."""
    weights = torch.tensor([float(m.steps) if weighting == "tokens" else 1.0 for m in messages])
    return weights @ torch.stack([m.dense for m in messages]) / weights.sum()


class Mean(LocalUpdate):
    """theta - alpha * mean of the payloads."""

    def merge(self, params_N: Tensor, messages: Sequence[Message], alpha: float) -> Tensor:
        return params_N - alpha * weighted_mean(messages, self.trial.weighting)
