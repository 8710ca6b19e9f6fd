"""How a machine runs the inner loop: the operator's choices. None of them is shared by nodes, and
none changes what is trained beyond the rounding of floats. Imports no torch.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class InnerOptions:
    """`micro_batch`: pages of one forward and backward pass; None finds the most that fit.

    `checkpoints_activations` computes activations twice instead of keeping them. `compiles`:
    torch.compile. `peak_tflops`: the device's peak in 10^12 floating-point operations a second, for
    the model FLOPs utilization; None looks the device up.
    """

    micro_batch: int | None = None
    checkpoints_activations: bool = False
    compiles: bool = False
    peak_tflops: float | None = None
