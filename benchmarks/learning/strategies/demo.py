"""DeMo-like (arXiv 2411.19870): what is large in each miner's momentum, at every step.

Without its DCT and with the project's codec: momentum <- decay * momentum + gradient, the
top-k leaves it and is sent, and the sign of the mean moves the parameters. Decoupled weight
decay as in AdamW.
"""

import torch
from torch import Tensor

from benchmarks.learning.messages import SparseCodec
from benchmarks.learning.strategy import PerStep
from benchmarks.learning.workers import Workers


class Demo(PerStep):
    """The momentum is the codec's residual."""

    def __init__(self, workers: Workers) -> None:
        super().__init__(workers)
        trial = self.trial
        self._codec = SparseCodec(workers.space, trial.top_k, trial.decay, trial.bits)
        self._momentum_RN = self.zeros()

    def step(self, params_N: Tensor, gradients_RN: Tensor, lr: float) -> None:
        messages = [
            self._codec.send(gradient_N, momentum_N, 1)
            for gradient_N, momentum_N in zip(gradients_RN, self._momentum_RN, strict=True)
        ]
        direction_N = torch.stack([message.dense for message in messages]).mean(dim=0).sign()
        params_N *= 1 - lr * self.workers.spec.training.weight_decay
        params_N -= lr * direction_N
        self.count([message.num_bytes for message in messages])
