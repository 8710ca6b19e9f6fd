"""Error feedback that attackers keep themselves, because a swarm's would also take what they copy.

Legend: N parameters.
"""

import torch
from torch import Tensor

from benchmarks.attacks.actor import View
from benchmarks.learning.messages import Message


class LeftOver:
    """What was trained and not sent yet: the error feedback of one actor, or of a team together."""

    def __init__(self) -> None:
        self.left_N: Tensor | None = None

    def add(self, delta_N: Tensor, decay: float) -> None:
        left_N = torch.zeros_like(delta_N) if self.left_N is None else self.left_N
        self.left_N = decay * left_N + delta_N

    def next(self, view: View) -> Message:
        """The largest values as a payload. ValueError before the first `add`."""
        if self.left_N is None:
            raise ValueError("nothing was trained: the first to send must add its training")
        message = view.encoded(self.left_N)
        self.left_N = self.left_N - message.dense
        return message

    def add_and_send(self, view: View) -> Message:
        """The payload of an actor alone: its training of this window, and what was left."""
        self.add(view.delta_N, view.workers.trial.decay)
        return self.next(view)
