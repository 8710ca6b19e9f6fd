"""SparseLoCo as in its published code: each coordinate's mean over those who sent it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.learning.messages import Message
from benchmarks.learning.strategy import LocalUpdate


class Senders(LocalUpdate):
    """theta - alpha * sum / number of senders, coordinate by coordinate."""

    def merge(self, params_N: Tensor, messages: Sequence[Message], alpha: float) -> Tensor:
        total_N = torch.stack([message.dense for message in messages]).sum(dim=0)
        senders_N = torch.zeros_like(total_N)
        counts = self.workers.space.views(senders_N)
        for message in messages:
            for name, sparse in message.tensors.items():
                counts[name].view(-1)[sparse.indices] += 1.0
        return params_N - alpha * total_N / senders_N.clamp(min=1.0)
