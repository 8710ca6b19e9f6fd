"""How a machine runs the inner loop: the operator's choices. None of them is shared by nodes, and
none changes what is trained beyond the rounding of floats. Imports no torch.
"""

from dataclasses import dataclass
from typing import Literal

Frozen = Literal["bf16", "host"]


@dataclass(frozen=True, kw_only=True, slots=True)
class InnerOptions:
    """`micro_batch`: pages of one forward and backward pass; None finds the most that fit.

    `checkpoints_activations` computes activations twice instead of keeping them. `compiles`:
    torch.compile. `peak_tflops`: the device's peak in 10^12 floating-point operations a second, for
    the model FLOPs utilization; None looks the device up.

    `parts`: the model is cut into so many block ranges, of which one trains in a window; 1: the
    whole model trains. `frozen`: where the matrices of the other ranges lie, on the device or
    ("host") in the host's memory, from where a layer at a time comes to the device; activations are
    then computed twice.

    `width`: pages of a step, in multiples of the run's; 0 takes as many as the machine can.
    `windows`: a payload may take so many windows; 1 sends at each deadline what there is.
    """

    micro_batch: int | None = None
    checkpoints_activations: bool = False
    compiles: bool = False
    peak_tflops: float | None = None
    width: int = 1
    windows: int = 1
    parts: int = 1
    frozen: Frozen = "bf16"

    @property
    def streams(self) -> bool:
        """Whether frozen layers come from the host's memory."""
        return self.parts > 1 and self.frozen == "host"


DEFAULT_OPTIONS = InnerOptions()
