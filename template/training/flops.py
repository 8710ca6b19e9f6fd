"""Model FLOPs utilization: the share of a device's peak that goes into the model's own arithmetic.

Source of the count: PaLM (arXiv 2204.02311), appendix B. Work done twice by activation
checkpointing does not count, so checkpointing lowers the utilization.
"""

from template.protocol.spec import RunSpec
from template.protocol.spec.model import count_active_parameters

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
    "RTX 3090": (71.0, 35.6),
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


def peak_tflops(device_name: str, precision: str) -> float | None:
    """A known device's peak in 10^12 operations a second; None for an unknown device."""
    for part, (bf16, float32) in PEAK_TFLOPS.items():
        if part in device_name:
            return bf16 if precision == "bf16" else float32
    return None
