"""A neuron as a process of its own, with all that it printed.

Most are forked from a server that has loaded torch and the rest once: on two busy cores,
seven imports take a minute. The neuron's `main`, its signals, its exit and its files are those
of any process.
"""

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests.support.faults.subnet import NodeStart
from tests.support.waiting import wait_until

MODULES: Final = {"miner": "neurons.miner", "validator": "neurons.validator"}


@dataclass(frozen=True)
class Ended:
    """Exit status and printed text of an ended neuron."""

    status: int
    output: str


@cache
def warm_nursery() -> Any:
    """The server that neurons are forked from, with everything loaded."""
    nursery = multiprocessing.get_context("forkserver")
    nursery.set_forkserver_preload([*MODULES.values(), __name__])
    first = nursery.Process(target=int)
    first.start()
    first.join()
    return nursery


def _live(role: str, argv: list[str], env: dict[str, str], output_path: str) -> None:
    """The whole life of a forked neuron."""
    output = os.open(output_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.clear()
    os.environ.update(env)
    sys.exit(sys.modules[MODULES[role]].main(argv))


class NodeProcess:
    """Started at once; `output` is what it has printed so far, on both streams."""

    def __init__(self, node: NodeStart, output_path: Path) -> None:
        self.node = node
        self._output_path = output_path
        output_path.touch()
        self._start()

    def _start(self) -> None:
        args = (self.node.role, self.node.argv, self.node.environment(), str(self._output_path))
        self._process = warm_nursery().Process(target=_live, args=args)
        self._process.start()

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    @property
    def output(self) -> str:
        return self._output_path.read_text(encoding="utf-8", errors="replace")

    def lines(self, *words: str) -> list[str]:
        """Lines that have all of these words."""
        return [line for line in self.output.splitlines() if all(w in line for w in words)]

    def wait_for(self, *words: str) -> None:
        """Until a line has all of them; fails if the process ends without it."""

        def said() -> bool:
            has_ended = self.status is not None
            found = bool(self.lines(*words))
            assert found or not has_ended, self.output
            return found

        wait_until(said, every_s=0.05, describe=lambda: self.output)

    def end(self) -> int:
        """The exit status, once it has one."""
        wait_until(lambda: self.status is not None, every_s=0.05, describe=lambda: self.output)
        return int(str(self.status))

    def rows(self) -> list[dict[str, Any]]:
        """What it has logged in metrics.jsonl; a line that is not whole yet is left out."""
        path = self.node.state_dir / "metrics.jsonl"
        if not path.exists():
            return []
        whole = path.read_bytes().rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines() if line]

    def windows_with(self, key: str) -> list[int]:
        return [row["window"] for row in self.rows() if key in row]

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self) -> None:
        """For what is left when a test has failed."""
        if self.status is None:
            self._process.kill()
        wait_until(lambda: self.status is not None, every_s=0.01)


class ScriptProcess(NodeProcess):
    """The script itself, in a fresh interpreter, with more in its environment."""

    def __init__(self, node: NodeStart, output_path: Path, more: Mapping[str, str]) -> None:
        self._more = more
        super().__init__(node, output_path)

    def _start(self) -> None:
        with self._output_path.open("ab") as output:
            self._process = subprocess.Popen(
                self.node.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**self.node.environment(), **self._more},
            )

    @property
    def status(self) -> int | None:
        return self._process.poll()


def assert_discreet(output: str, node: NodeStart) -> None:
    """No traceback, and nothing that opens a bucket or a wallet."""
    assert "Traceback" not in output, output
    assert not [secret for secret in node.secrets if secret in output]
