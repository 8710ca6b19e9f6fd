"""A headless Chromium on this machine, if there is one: screenshots, and what its console says."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
LIMIT_S = 120
CONSOLE = re.compile(r":CONSOLE[:(]|Uncaught|Refused to|Failed to load resource")


@dataclass(frozen=True)
class Look:
    """What a look at a page left. `dom`: the document as the browser built it."""

    dom: str
    console: list[str]


def find_browser() -> str | None:
    """The program, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def look_at(browser: str, url: str, profile: Path) -> Look:
    """Load a page and return its document, with every line about the console."""
    argv = [*_argv(browser, profile), "--dump-dom", url]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    lines = [line for line in done.stderr.splitlines() if CONSOLE.search(line)]
    return Look(dom=done.stdout, console=lines)


def take_picture(
    browser: str, url: str, path: Path, profile: Path, *, width: int, height: int
) -> None:
    """A PNG of a page at a window of so many CSS pixels."""
    size = [f"--window-size={width},{height}", "--hide-scrollbars", f"--screenshot={path}"]
    argv = [*_argv(browser, profile), *size, url]
    subprocess.run(argv, capture_output=True, timeout=LIMIT_S, check=True)


def _argv(browser: str, profile: Path) -> list[str]:
    # Root of a container has no sandbox of its own; the pages are files of this test.
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    return [browser, *flags, f"--user-data-dir={profile}"]
