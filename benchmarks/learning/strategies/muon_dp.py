"""Muon, data-parallel: the mean gradient of all miners at every step, in float32.

The second loss that low communication is measured against (arXiv 2505.23725, section 4).
"""

from torch import Tensor

from benchmarks.learning.messages import FLOAT32_BYTES
from benchmarks.learning.strategy import PerStep
from benchmarks.learning.workers import Workers


class MuonDataParallel(PerStep):
    """One optimiser, `miners` times the batch."""

    def __init__(self, workers: Workers) -> None:
        super().__init__(workers)
        self._optimizer = workers.muon()

    def step(self, params_N: Tensor, gradients_RN: Tensor, lr: float) -> None:
        self._optimizer.step(params_N, gradients_RN.mean(dim=0), lr)
        self.count([FLOAT32_BYTES * params_N.numel()] * self.trial.miners)
