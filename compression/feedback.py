"""Error feedback: carry the unsent part of a pseudo-gradient over to the next window.

Source: SparseLoCo (arXiv 2508.15706), algorithm 1; DeMo (arXiv 2411.19870) without the DCT.
"""

from torch import Tensor

from compression.sparse import SparseTensor


def accumulate(residual: Tensor, pseudo_gradient: Tensor, decay: float) -> Tensor:
    """Add this window's pseudo-gradient to the decayed error feedback: decay * e + delta.

    Both tensors are float32 of the same shape; `decay` in [0, 1), 0 forgets the past. Pure.
    ValueError if the shapes differ or the decay is out of range.
    """
    if residual.shape != pseudo_gradient.shape:
        raise ValueError(
            f"shapes differ: {tuple(residual.shape)} and {tuple(pseudo_gradient.shape)}"
        )
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"decay is {decay}: decay must be in [0, 1)")
    return residual.mul(decay).add_(pseudo_gradient)


def residual_after(accumulated: Tensor, sent: SparseTensor) -> Tensor:
    """The new error feedback: `accumulated` minus the sent values. Pure."""
    residual = accumulated.clone()
    sent.add_to(residual, coefficient=-1.0)
    return residual
