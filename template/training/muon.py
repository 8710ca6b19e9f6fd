"""Muon: steps on hidden matrices along the momentum with all its singular values moved near 1.

Sources: Muon, kellerjordan.github.io/posts/muon; the length of a step, Moonlight, arXiv 2502.16982,
section 2.2; as an inner optimizer, MuLoCo, arXiv 2505.23725. `torch.optim.Muon` with
`match_rms_adamw` computes the same, but takes single matrices and always bfloat16, which a CPU may
have to emulate: contrib/DECISIONS.md has the measured times.

Legend: B matrices of one shape, S their short side, L their long side.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from template.protocol.spec.training import TrainingSpec

MOMENTUM: Final = "exp_avg"
"""The state of a matrix: an average of its gradients, as AdamW's first moment."""
COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
PASSES: Final = 5
"""Of Newton's and Schulz's iteration."""
MIN_NORM: Final = 1e-7
RMS_OF_ADAMW: Final = 0.2
"""Root mean square of an AdamW update at rate 1, about; all four numbers as in torch's Muon."""
TOGETHER: Final = 2**22
"""Elements of matrices that are turned in one go: small ones gain by it, large ones only cost."""
_NOT_HIDDEN: Final = ("embed_tokens", "lm_head")


def is_hidden(name: str, shape: Sequence[int]) -> bool:
    """Whether Muon takes the tensor: a matrix between activations, or one matrix per expert."""
    return len(shape) in (2, 3) and not any(part in name for part in _NOT_HIDDEN)


class Muon:
    """Momentum of named matrices, and steps in place on their gradients."""

    def __init__(self, named: Mapping[str, nn.Parameter], spec: TrainingSpec) -> None:
        self._momentum, self._decay = spec.muon_momentum, spec.weight_decay
        self._parameters = tuple(named.values())
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """A step of every matrix that has a gradient."""
        found = [p for p in self._parameters if p.grad is not None]
        for parameters in _together(found):
            wholes = [self._whole(self._advance(parameter)) for parameter in parameters]
            updates = _unstacked(orthogonal(_stacked(wholes)), wholes)
            for parameter, update in zip(parameters, updates, strict=True):
                length = lr * RMS_OF_ADAMW * max(update.shape[-2:]) ** 0.5
                parameter.mul_(1 - lr * self._decay)
                parameter.sub_(self._own(update, parameter), alpha=length)

    def _advance(self, parameter: nn.Parameter) -> Tensor:
        """Take the gradient into the momentum; the momentum one step ahead, as Nesterov's."""
        momentum, gradient = self._momentum, parameter.grad
        assert gradient is not None
        if parameter not in self.state:
            self.state[parameter] = {MOMENTUM: torch.zeros_like(parameter)}
        average = self.state[parameter][MOMENTUM].lerp_(gradient, 1 - momentum)
        return gradient.lerp(average, momentum)

    def _whole(self, tensor: Tensor) -> Tensor:
        """The whole matrix: of a rank, more than its own rows."""
        return tensor

    def _own(self, update: Tensor, _parameter: nn.Parameter) -> Tensor:
        """The part of an update that moves the parameter here."""
        return update


def orthogonal(matrices_BSL: Tensor) -> Tensor:
    """Each matrix with its singular values moved near 1 (0.5 to 1.5), by Newton and Schulz."""
    a, b, c = COEFFICIENTS
    norm_B11 = torch.linalg.matrix_norm(matrices_BSL, keepdim=True)
    x_BSL = matrices_BSL / norm_B11.clamp(min=MIN_NORM)
    for _ in range(PASSES):
        gram_BSS = x_BSL @ x_BSL.mT
        gram_BSS = torch.baddbmm(gram_BSS, gram_BSS, gram_BSS, beta=b, alpha=c)
        x_BSL = torch.baddbmm(x_BSL, gram_BSS, x_BSL, beta=a)
    return x_BSL


def _together(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters with matrices of the same sides, up to `TOGETHER` elements or one parameter."""
    alike: dict[tuple[int, ...], list[nn.Parameter]] = {}
    for parameter in parameters:
        alike.setdefault(tuple(sorted(parameter.shape[-2:])), []).append(parameter)
    for group in alike.values():
        taken: list[nn.Parameter] = []
        for parameter in group:
            if taken and sum(p.numel() for p in taken) + parameter.numel() > TOGETHER:
                yield taken
                taken = []
            taken.append(parameter)
        yield taken


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """All matrices, the short side first: [B, S, L]."""
    return torch.cat([wide(t).reshape(-1, *wide(t).shape[-2:]) for t in tensors])


def _unstacked(matrices_BSL: Tensor, like: Sequence[Tensor]) -> Iterator[Tensor]:
    """The same matrices in the shapes of the tensors that were stacked."""
    counts = [t.numel() // matrices_BSL[0].numel() for t in like]
    for part, tensor in zip(matrices_BSL.split(counts), like, strict=True):
        turned = part.view(wide(tensor).shape)
        yield turned.mT if _is_tall(tensor) else turned


def _is_tall(tensor: Tensor) -> bool:
    return tensor.shape[-2] > tensor.shape[-1]


def wide(tensor: Tensor) -> Tensor:
    """The matrix or its transpose, the short side first; a view."""
    return tensor.mT if _is_tall(tensor) else tensor
