"""Muon as the inner optimiser: hidden matrices by Muon, all else by the run's AdamW.

All else is the embedding, which is the output layer too, and the norms. Both have the same rate
and decay. Sources: Muon, kellerjordan.github.io/posts/muon; its step at the length of AdamW's,
Moonlight, arXiv 2502.16982, section 2.2; inside local steps, MuLoCo, arXiv 2505.23725.

Legend: N parameters, B matrices of one shape, S their short side, L their long one.
"""

from collections import defaultdict

import torch
from torch import Tensor

from benchmarks.learning.space import Space
from template.protocol.spec import RunSpec
from template.training.muon import RMS_OF_ADAMW, is_hidden, orthogonal, wide


class Muon:
    """The moments of one miner, and its steps on a flat vector.

    The arithmetic of the shipped miner's Muon (`template.training.muon`), whose parameters are no
    views of one vector.
    """

    def __init__(self, space: Space, spec: RunSpec, momentum: float) -> None:
        self._space, self._training, self._momentum = space, spec.training, momentum
        self._alike: dict[tuple[int, int], list[str]] = defaultdict(list)
        for name, shape in space.shapes.items():
            if is_hidden(name, shape):
                self._alike[min(shape), max(shape)].append(name)
        self._buffers_BSL = {
            sides: torch.zeros(len(names), *sides) for sides, names in self._alike.items()
        }
        self._others = [n for n, shape in space.shapes.items() if not is_hidden(n, shape)]
        zeros = space.views(torch.zeros(space.num_elements))
        self._adamw = torch.optim.AdamW(
            [torch.nn.Parameter(zeros[name]) for name in self._others],
            betas=(self._training.adam_beta1, self._training.adam_beta2),
            weight_decay=self._training.weight_decay,
            fused=True,
        )

    def step(self, params_N: Tensor, grad_N: Tensor, lr: float) -> None:
        """One step in place at rate `lr`; clips the gradient, in place, to the spec's norm."""
        whole = torch.nn.Parameter(params_N)
        whole.grad = grad_N
        torch.nn.utils.clip_grad_norm_(whole, self._training.max_gradient_norm)
        params, grads = self._space.views(params_N), self._space.views(grad_N)
        for sides, names in self._alike.items():
            self._turn(sides, [wide(params[n]) for n in names], [wide(grads[n]) for n in names], lr)
        (group,) = self._adamw.param_groups
        group["lr"] = lr
        for name, parameter in zip(self._others, group["params"], strict=True):
            parameter.data, parameter.grad = params[name], grads[name]
        self._adamw.step()

    def _turn(
        self, sides: tuple[int, int], params: list[Tensor], grads: list[Tensor], lr: float
    ) -> None:
        """Muon's step on all matrices of one shape."""
        grad_BSL = torch.stack(grads)
        buffer_BSL = self._buffers_BSL[sides].lerp_(grad_BSL, 1 - self._momentum)
        # Nesterov's look ahead, as torch.optim.Muon has it.
        update_BSL = orthogonal(grad_BSL.lerp(buffer_BSL, self._momentum))
        update_BSL *= lr * RMS_OF_ADAMW * max(sides) ** 0.5
        for param_SL, update_SL in zip(params, update_BSL, strict=True):
            param_SL.mul_(1 - lr * self._training.weight_decay).sub_(update_SL)
