"""The mean's direction at the payloads' mean length, tensor by tensor.

After the merge of Decoupled DiLoCo (arXiv 2604.21428): payloads that hardly overlap have a
mean that is shorter than any of them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.learning.messages import Message
from benchmarks.learning.strategies.mean import weighted_mean
from benchmarks.learning.strategy import LocalUpdate


class NormMatched(LocalUpdate):
    """theta - alpha * mean * (mean of the norms / norm of the mean)."""

    def merge(self, params_N: Tensor, messages: Sequence[Message], alpha: float) -> Tensor:
        mean_N = weighted_mean(messages, self.trial.weighting)
        parts = [self.workers.space.views(message.dense) for message in messages]
        for name, mean in self.workers.space.views(mean_N).items():
            radius = torch.stack([part[name].norm() for part in parts]).mean()
            mean *= radius / mean.norm().clamp(min=1e-30)
        return params_N - alpha * mean_N
