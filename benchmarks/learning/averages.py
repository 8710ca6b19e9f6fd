"""Averages of a run's parameters over rounds: read out beside the run, which they do not change.

`ema m`: x <- m x + (1 - m) z after each round, z the run's parameters, from x = theta_0: the
evaluated sequence of primal averaging (GPA, arXiv 2512.17131, algorithm 1), here over rounds.
`mean k`: the plain mean of the last k rounds' parameters (LAWA, arXiv 2209.14981, section 3).
"""

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

KEPT_SHARES = (0.5, 0.75, 0.9)
LENGTHS = (2, 4, 8)


class Averages:
    """All averages of one run."""

    def __init__(self, params_N: Tensor) -> None:
        self._smooth = {share: params_N.clone() for share in KEPT_SHARES}
        self._last: deque[Tensor] = deque([params_N.clone()], maxlen=max(LENGTHS))

    def add(self, params_N: Tensor) -> None:
        """The parameters after one more round."""
        for share, smooth_N in self._smooth.items():
            smooth_N.lerp_(params_N, 1 - share)
        self._last.append(params_N.clone())

    def losses(self, loss_of: Callable[[Tensor], float]) -> dict[str, float]:
        """The loss of each average, by its name."""
        found = {f"ema {share:g}": loss_of(x_N) for share, x_N in self._smooth.items()}
        for length in LENGTHS:
            mean_N = torch.stack(list(self._last)[-length:]).mean(dim=0)
            found[f"mean {length}"] = loss_of(mean_N)
        return found
