"""A wall clock that is off, for one process: `libfaketime`, preloaded."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def clock_library() -> Path | None:
    """libfaketime's shared object; None where the package is not installed."""
    try:
        package = distribution("libfaketime")
    except PackageNotFoundError:
        return None
    found = [file for file in package.files or () if file.name == "libfaketime.so.1"]
    return Path(str(package.locate_file(found[0]))) if found else None


def clock_off(seconds: int) -> dict[str, str]:
    """Variables of a process whose wall clock, not the monotonic one, is off."""
    return {
        "LD_PRELOAD": str(clock_library()),
        "FAKETIME": f"{seconds:+d}s",
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "1",
    }
