"""AdamW, data-parallel: the mean gradient of all miners at every step, in float32.

The loss that low communication is measured against.
"""

import torch
from torch import Tensor

from benchmarks.learning.messages import FLOAT32_BYTES
from benchmarks.learning.strategy import PerStep
from benchmarks.learning.workers import Workers


class AdamWDataParallel(PerStep):
    """One optimiser, `miners` times the batch."""

    def __init__(self, workers: Workers) -> None:
        super().__init__(workers)
        self._optimizer = workers.adamw(torch.zeros(workers.space.num_elements))

    def step(self, params_N: Tensor, gradients_RN: Tensor, lr: float) -> None:
        (group,) = self._optimizer.param_groups
        (parameter,) = group["params"]
        parameter.data, group["lr"] = params_N, lr
        parameter.grad = gradients_RN.mean(dim=0)
        limit = self.workers.spec.training.max_gradient_norm
        torch.nn.utils.clip_grad_norm_(parameter, limit)
        self._optimizer.step()
        self.count([FLOAT32_BYTES * params_N.numel()] * self.trial.miners)
