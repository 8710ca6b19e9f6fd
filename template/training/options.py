"""How a machine runs the inner loop: the operator's choices. None of them is shared by nodes, and
none changes what is trained beyond the rounding of floats. Imports no torch.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class InnerOptions:
    """`micro_batch`: pages of one forward and backward pass; None finds the most that fit.

    `checkpoints_activations` computes activations twice instead of keeping them. `compiles`:
    torch.compile. `peak_tflops`: the device's peak in 10^12 floating-point operations a second, for
    the model FLOPs utilization; None looks the device up. `width`: pages of a step, in multiples of
    the run's; 0 takes as many as the machine can. `parts`: into so many parts the model is cut, of
    which one is trained a window; 1 trains all of it.
    """

    micro_batch: int | None = None
    checkpoints_activations: bool = False
    compiles: bool = False
    peak_tflops: float | None = None
    width: int = 1
    parts: int = 1


DEFAULT_OPTIONS = InnerOptions()
