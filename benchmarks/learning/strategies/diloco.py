"""DiLoCo (arXiv 2311.08105): dense float32 pseudo-gradients, outer Nesterov momentum 0.9."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.learning.messages import DenseCodec, Message
from benchmarks.learning.strategies.mean import weighted_mean
from benchmarks.learning.strategy import LocalUpdate
from benchmarks.learning.workers import Workers

MOMENTUM = 0.9


class DiLoCo(LocalUpdate):
    """velocity <- 0.9 velocity + mean; theta - alpha * (mean + 0.9 velocity)."""

    def __init__(self, workers: Workers) -> None:
        super().__init__(workers)
        self._velocity_N = torch.zeros(workers.space.num_elements)

    def codec(self, top_k: int) -> DenseCodec:
        return DenseCodec()

    def merge(self, params_N: Tensor, messages: Sequence[Message], alpha: float) -> Tensor:
        mean_N = weighted_mean(messages, self.trial.weighting)
        self._velocity_N = MOMENTUM * self._velocity_N + mean_N
        return params_N - alpha * (mean_N + MOMENTUM * self._velocity_N)
