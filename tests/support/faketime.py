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


def clock_from(path: Path) -> dict[str, str]:
    """Variables of a process whose wall clock follows a file, which `set_clock` writes."""
    variables = clock_off(0)
    del variables["FAKETIME"]
    return {**variables, "FAKETIME_TIMESTAMP_FILE": str(path)}


def set_clock(path: Path, seconds: int) -> None:
    """Let the wall clock be off by so many seconds from now on."""
    new = path.with_name(path.name + ".new")
    new.write_text(f"{seconds:+d}s\n")
    new.replace(path)
