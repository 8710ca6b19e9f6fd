"""Whether this machine can have a CUDA device: known before torch, which takes seconds, loads."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Final

from template.errors import ConfigError

CUDA_LIBRARY: Final = "libcuda.so.1"
AMD_DRIVER: Final = Path("/dev/kfd")
"""Builds of torch for AMD call their devices cuda too."""


def has_driver() -> bool:
    """Whether a driver that torch may find CUDA devices through is on this machine."""
    try:
        ctypes.CDLL(CUDA_LIBRARY)
    except OSError:
        return AMD_DRIVER.exists()
    return True


def check_device(name: str, has_driver: Callable[[], bool] = has_driver) -> None:
    """ConfigError for a CUDA device on a machine without a driver; torch counts the devices."""
    if name.startswith("cuda") and not has_driver():
        raise ConfigError(
            f"--neuron.device {name}: this machine has no CUDA devices (no driver: {CUDA_LIBRARY} "
            "is not found); install the driver, or name cpu or auto"
        )
