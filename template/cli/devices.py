"""Whether this machine can have a device: known before torch, which takes seconds, loads."""

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from template.errors import ConfigError

CUDA_LIBRARY: Final = "libcuda.so.1"
AMD_DRIVER: Final = Path("/dev/kfd")
"""Builds of torch for AMD call their devices cuda too."""


XPU_LIBRARY: Final = "libze_loader.so.1"


def has_driver(kind: str) -> bool:
    """Whether a driver through which torch may find devices of a kind is on this machine."""
    if kind == "mps":
        return sys.platform == "darwin"
    try:
        ctypes.CDLL(CUDA_LIBRARY if kind == "cuda" else XPU_LIBRARY)
    except OSError:
        return kind == "cuda" and AMD_DRIVER.exists()
    return True


_WITHOUT_DRIVER = {
    "cuda": f"this machine has no CUDA devices (no driver: {CUDA_LIBRARY} is not found)",
    "xpu": f"this machine has no Intel GPUs (no driver: {XPU_LIBRARY} is not found)",
    "mps": "this machine is no Mac",
}


def check_device(name: str, has_driver: Callable[[str], bool] = has_driver) -> None:
    """ConfigError for a device on a machine without its driver; torch counts the devices."""
    kind = name.partition(":")[0]
    if kind in _WITHOUT_DRIVER and not has_driver(kind):
        remedy = "name cpu or auto" if kind == "mps" else "install the driver, or name cpu or auto"
        raise ConfigError(f"--neuron.device {name}: {_WITHOUT_DRIVER[kind]}; {remedy}")
