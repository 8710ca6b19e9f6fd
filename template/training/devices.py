"""Devices of torch by name: cpu, cuda, cuda:N, xpu, xpu:N and mps."""

import threading

import torch
from accelerate import Accelerator

from template.errors import ConfigError

KINDS = ("cuda", "xpu", "mps")
"""Kinds of accelerators, in the order in which `auto` looks for them."""
FUSED_ADAMW = ("cuda", "xpu", "mps")
"""Kinds with AdamW in one kernel. The CPU's has other bits, and gains little."""
_ACCELERATE = threading.Lock()
"""Accelerate empties the process's environment for a moment, which two threads must not do at once.
"""


def count_devices(kind: str) -> int:
    """Devices of a kind that torch sees on this machine."""
    if kind == "cpu":
        return 1
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    return torch.cuda.device_count() if kind == "cuda" else torch.xpu.device_count()


def find_device(name: str) -> str:
    """The torch device of a flag's value; ConfigError if this machine does not have it."""
    if name == "auto":
        return next((kind for kind in KINDS if count_devices(kind)), "cpu")
    kind, _, index = name.partition(":")
    found = count_devices(kind)
    if int(index or 0) >= found:
        raise ConfigError(
            f"--neuron.device {name}: torch sees {found} {kind.upper()} devices on this machine; "
            "name one of them, or cpu"
        )
    return name


def make_accelerator(name: str, precision: str) -> Accelerator:
    """Accelerate's view of one device; the caller places the model.

    Accelerate takes the current device of a kind, so the device of an index is made the current.
    """
    device = torch.device(find_device(name))
    if device.index is not None:
        (torch.cuda if device.type == "cuda" else torch.xpu).set_device(device)
    try:
        with _ACCELERATE:
            accelerator = Accelerator(
                cpu=device.type == "cpu", mixed_precision=precision, device_placement=False
            )
    except ValueError as error:
        raise ConfigError(
            f"--neuron.device {name}: cannot train in {precision} ({error}); name another device"
        ) from error
    if accelerator.device.type != device.type:
        raise ConfigError(
            f"--neuron.device {name}: this process already uses {accelerator.device.type}; leave "
            "other accelerators out of its sight (CUDA_VISIBLE_DEVICES), or name auto"
        )
    return accelerator


def device_name(device: torch.device) -> str:
    """The maker's name of a device; the kind for a device without one."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.xpu.get_device_name(device) if device.type == "xpu" else device.type


def peak_bytes(device: torch.device) -> int | None:
    """Most bytes of tensors on the device since `reset_peak`; None where torch does not count."""
    if device.type not in ("cuda", "xpu"):
        return None
    return int(torch.accelerator.max_memory_allocated(device))


def free_bytes(device: torch.device) -> int | None:
    """Bytes of the device that nobody uses; None where torch does not tell."""
    if device.type not in ("cuda", "xpu"):
        return None
    free, _total = torch.accelerator.get_memory_info(device)
    return int(free)


def reset_peak(device: torch.device) -> None:
    """Begin to count the device's peak anew."""
    if device.type in ("cuda", "xpu"):
        torch.accelerator.reset_peak_memory_stats(device)
