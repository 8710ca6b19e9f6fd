"""The operators' guides as programs: their shell blocks, and people who follow them.

Every ```bash block of a guide says in a comment above it, which a reader does not see, what a
test does with it:

    <!-- run: ROLES -->             ROLES ("owner", "validator, miner") run it
    <!-- background: ROLES -->      they start it and leave it running
    <!-- replace: WHAT, ROLES -->   it needs the world outside; the test does WHAT instead
    <!-- skip: REASON -->           nobody runs it here
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import HANG_S

ROOT = Path(__file__).parents[2]
ACTIONS = ("run", "background", "replace", "skip")

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (\w+): (.+?) -->\n\Z")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One shell block; `what` is what replaces it, or why it is skipped."""

    place: str
    action: str
    what: str
    roles: tuple[str, ...]
    text: str


def read_blocks(path: Path) -> list[Block]:
    """The shell blocks of a guide, in order. ValueError for one without a valid mark."""
    guide = path.read_text(encoding="utf-8")
    found = [match for match in _FENCE.finditer(guide) if match[1] in ("bash", "sh", "shell")]
    return [_block(path, guide, match) for match in found]


def _block(path: Path, guide: str, match: re.Match[str]) -> Block:
    place = f"{path.name}:{guide.count(chr(10), 0, match.start()) + 1}"
    mark = _MARK.search(guide[: match.start()])
    if mark is None or mark[1] not in ACTIONS:
        raise ValueError(f"{place}: a shell block without a mark: {match[2]}")
    action, rest = mark[1], mark[2]
    if action == "skip":
        return Block(place=place, action=action, what=rest, roles=(), text=match[2])
    parts = [part.strip() for part in rest.split(",")]
    what = parts.pop(0) if action == "replace" else ""
    return Block(place=place, action=action, what=what, roles=tuple(parts), text=match[2])


class Person:
    """Somebody with an empty home directory and a shell that remembers what it exported."""

    def __init__(self, name: str, role: str, folder: Path) -> None:
        self.name = name
        self.role = role
        self.home = folder / name
        self.home.mkdir(parents=True)
        self.log = self.home / "shell.log"
        self._exports = self.home / ".exports"
        self._exports.touch()
        self._children: list[subprocess.Popen[bytes]] = []

    def run(self, block: str) -> str:
        """Run a block as bash would run it typed in; its output. AssertionError if it fails."""
        started_s = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", self._script(block)],
            env=self._environment(),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=HANG_S,
            check=False,
        )
        with self.log.open("a") as log:
            log.write(f"$ {block}{done.stdout}({time.monotonic() - started_s:.1f} s)\n\n")
        assert done.returncode == 0, f"{self.name}: {block}\n{done.stdout}"
        return done.stdout

    def start(self, block: str) -> subprocess.Popen[bytes]:
        """Run a block in the background; its output goes to the log."""
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                ["bash", "-c", self._script(block)],
                env=self._environment(),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children.append(child)
        return child

    def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for child in self._children:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    child.wait(15)

    def exported(self, name: str) -> str:
        return self.run(f'printf %s "${name}"\n')

    def _script(self, block: str) -> str:
        exports = self._exports
        return f'set -euo pipefail\n. "{exports}"\n{block}\nexport -p > "{exports}"\n'

    def _environment(self) -> Mapping[str, str]:
        return {
            "HOME": str(self.home),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}",
            "COLUMNS": "150",
            "HF_HUB_OFFLINE": "1",
        }
