"""Muon, data-parallel: the mean gradient of all miners at every step, in float32.

The second loss that low communication is measured against (arXiv 2505.23725, section 4).
"""

import numpy as np
from torch import Tensor

from benchmarks.learning.messages import FLOAT32_BYTES
from benchmarks.learning.strategy import Strategy
from benchmarks.learning.workers import Workers


class MuonDataParallel(Strategy):
    """One optimiser, `miners` times the batch: one pass, which is the mean of the miners'."""

    def __init__(self, workers: Workers) -> None:
        super().__init__(workers)
        self._optimizer = workers.muon()

    def round(self, number: int, params_N: Tensor) -> Tensor:
        params_N = params_N.clone()
        workers, trial = self.workers, self.trial
        for step in range(trial.inner_steps):
            drawn = number * trial.inner_steps + step
            pages = np.concatenate([workers.draw(m, drawn) for m in range(trial.miners)])
            gradient_N = workers.gradient(params_N, pages)
            self._optimizer.step(params_N, gradient_N, workers.inner_lr(number, step))
            self.count([FLOAT32_BYTES * params_N.numel()] * trial.miners)
        return params_N
