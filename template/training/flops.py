"""Model FLOPs utilization: the share of a device's peak that goes into the model's own arithmetic.

Source of the count: PaLM (arXiv 2204.02311), appendix B. Work done twice by activation
checkpointing does not count, so checkpointing lowers the utilization.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence

from template.protocol.spec import RunSpec
from template.protocol.spec.model import ModelSpec, count_active_parameters

_LAYER = re.compile(r"\.layers\.(\d+)\.")
_EXPERTS = ".experts."

PEAK_TFLOPS = {
    "B200": (2250.0, 75.0),
    "H200": (989.0, 67.0),
    "H100 PCIe": (756.0, 51.0),
    "H100": (989.0, 67.0),
    "A100": (312.0, 19.5),
    "L40S": (362.0, 91.6),
    "L4": (121.0, 30.3),
    "RTX 5090": (209.5, 104.8),
    "RTX 4090": (165.2, 82.6),
    "RTX 4060 Ti": (44.1, 22.1),
    "RTX 4060": (30.2, 15.1),
    "RTX 3090": (71.0, 35.6),
    "RTX 3060 Ti": (32.4, 16.2),
    "RTX 3060": (25.4, 12.7),
    "A6000": (154.8, 38.7),
    "MI300X": (1307.0, 163.4),
}
"""Part of a device's name -> peak in bf16 and in float32, from the makers' data sheets, without
sparsity. The first match counts."""


def flops_per_token(spec: RunSpec) -> int:
    """Floating-point operations of a forward and a backward pass, for each token of a page."""
    model = spec.model
    width = model.num_attention_heads * model.head_width
    attention = 12 * model.num_hidden_layers * width * spec.data.page_tokens
    return 6 * count_active_parameters(model) + attention


def range_flops_per_token(
    spec: RunSpec, shapes: Mapping[str, Sequence[int]], trained: Collection[str]
) -> int:
    """The same where only the named tensors train; `shapes` of all, in the forward pass's order.

    Forward through the whole model; backward to the activations from the top down to the first
    trained tensor, and to the weights of the trained tensors. As `flops_per_token` if all train.
    """
    model, (lookup, *others) = spec.model, shapes
    # A look-up costs nothing; a tied embedding is the output layer too.
    multiplied = [*others, lookup] if model.tie_word_embeddings else others
    active = [_active(math.prod(shapes[name]), name, model) for name in multiplied]
    own = sum(count for name, count in zip(multiplied, active, strict=True) if name in trained)
    reached = 0
    if lookup not in trained:
        reached = min(multiplied.index(name) for name in trained)
    layers = {found.group(1) for n in multiplied[reached:] if (found := _LAYER.search(n))}
    of_layer = 4 * model.num_attention_heads * model.head_width * spec.data.page_tokens
    attention = of_layer * (model.num_hidden_layers + 2 * len(layers))
    return 2 * (sum(active) + sum(active[reached:]) + own) + attention


def _active(count: int, name: str, model: ModelSpec) -> int:
    """Values of a tensor in a token's multiplications: of experts, the token's."""
    if _EXPERTS not in name:
        return count
    return count * model.num_experts_per_tok // model.num_experts


def peak_tflops(device_name: str, precision: str) -> float | None:
    """A known device's peak in 10^12 operations a second; None for an unknown device."""
    for part, (bf16, float32) in PEAK_TFLOPS.items():
        if part in device_name:
            return bf16 if precision == "bf16" else float32
    return None
