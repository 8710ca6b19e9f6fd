"""The unmodified btcli, for tests: as an operator types it, or many commands at less cost.

`run_script` runs the installed script. `Btcli.run` forks each command off one process that
has imported btcli and built its 800 commands, which is nine tenths of what a call costs; from
there on btcli's own code parses, runs, prints and exits. Run as a script, this file is that
process.
"""

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT_S = 300
"""Ends a hang. This file is also a script, which imports no other of the tests."""
SCRIPT = Path(sys.executable).with_name("btcli")
U16_MAX = 65_535
TOLERANCE = 0.01
_ALONE = ("--fallback-endpoints", "none", "--archive-endpoints", "none")


@dataclass(frozen=True, kw_only=True)
class Ran:
    """Exit status, standard output and standard error of a command."""

    status: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """The JSON on standard output of a command that ended well."""
        assert self.status == 0, f"btcli exited {self.status}: {self.out}{self.err}"
        return json.loads(self.out)

    @property
    def refusal(self) -> dict[str, Any]:
        """Message, code and, from the chain, name of the error that a command ended with.

        A refusal of the chain stands in the result on standard output, one of the SDK before
        anything is sent alone on standard error.
        """
        assert self.status == 1, f"btcli exited {self.status}: {self.out}{self.err}"
        return dict(json.loads(self.out)["error"] if self.out else json.loads(self.err))


def environment(home: Path) -> dict[str, str]:
    """A stranger's environment: own home, no settings of btcli, a wide terminal."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("BT_")}
    return {**kept, "HOME": str(home), "COLUMNS": "150"}


def run_script(*words: str, home: Path, endpoint: str | None = None) -> Ran:
    """Run the installed script."""
    network = () if endpoint is None else ("-n", endpoint, *_ALONE)
    done = subprocess.run(
        [str(SCRIPT), *words, *network],
        env=environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return Ran(status=done.returncode, out=done.stdout, err=done.stderr)


class Btcli:
    """Runs commands against one chain. Close it."""

    def __init__(self, home: Path, endpoint: str | None = None) -> None:
        self.home = home
        self.endpoint = endpoint
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__))],
            env=environment(home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=LIMIT_S)

    def run(self, *words: str) -> Ran:
        """Run a command and wait for its end; one that hangs ends with status -14 (SIGALRM)."""
        network = () if self.endpoint is None else ("-n", self.endpoint, *_ALONE)
        request = {
            "words": [*words, *network],
            "out": str(self.home / "out.txt"),
            "err": str(self.home / "err.txt"),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        out, err = (self.home / "out.txt").read_text(), (self.home / "err.txt").read_text()
        return Ran(status=status, out=out, err=err)

    def json(self, *words: str) -> Any:
        """The value that a command prints with --json; AssertionError if it fails."""
        return self.run(*words, "--json").value

    def submit(self, *words: str) -> dict[str, Any]:
        """The result of a command that changes the chain and must succeed."""
        result = dict(self.json(*words, "-y"))
        assert result["success"], result
        return result

    def refuse(self, *words: str) -> dict[str, Any]:
        """The error of a command that changes the chain and must fail."""
        return self.run(*words, "-y", "--json").refusal


def weights_by_btcli(endpoint: str, netuid: int, home: Path) -> dict[int, dict[int, float]]:
    """`weight_rows` of what the installed script prints for `btcli query weights --json`."""
    words = ("query", "weights", "--netuid", str(netuid), "--json")
    return weight_rows(run_script(*words, home=home, endpoint=endpoint).value)


def weight_rows(shown: Mapping[str, Mapping[str, float]]) -> dict[int, dict[int, float]]:
    """Validator's uid -> uid -> share, as btcli shows them: u16 on chain, each row scaled to the
    sum 1."""
    return {int(uid): {int(to): share for to, share in row.items()} for uid, row in shown.items()}


def metagraph_by_btcli(endpoint: str, netuid: int, home: Path) -> dict[str, Any]:
    """`btcli query metagraph --json`: columns by uid, among them hotkeys, total_stake in rao and
    incentives in parts of 65,535. It has no weights."""
    words = ("query", "metagraph", "--netuid", str(netuid), "--json")
    return dict(run_script(*words, home=home, endpoint=endpoint).value)


def report_differences(
    report: Mapping[str, Any], rows: Mapping[int, Mapping[int, float]], graph: Mapping[str, Any]
) -> list[str]:
    """What btcli shows otherwise than a localnet's report says; [] if nothing.

    `rows` and `graph` are those of the two functions above, asked while the chain still runs,
    after the neurons have ended. `weight` of the report is the mean of the validators' rows
    by their total stake; `incentive` is the chain's. Stakes go on growing after the report is
    read, so both may be off by TOLERANCE; hotkeys may not, and what is zero in one must be zero
    in the other.
    """
    means = _mean_weights(rows, graph["total_stake"])
    found = []
    for neuron in report["neurons"]:
        uid, name = neuron["uid"], neuron["name"]
        if uid is None or graph["hotkeys"][uid] != neuron["hotkey"]:
            found.append(f"{name}: the report has uid {uid}, btcli another hotkey there")
            continue
        shown = {"weight": means.get(uid, 0.0), "incentive": graph["incentives"][uid] / U16_MAX}
        for key, value in shown.items():
            reported = neuron[key] or 0.0
            if abs(value - reported) > TOLERANCE or (value == 0) != (reported == 0):
                found.append(f"{name}: {key} is {reported} in the report, {value} in btcli")
    return found


def _mean_weights(
    rows: Mapping[int, Mapping[int, float]], stake_rao: list[int]
) -> dict[int, float]:
    total_rao = sum(stake_rao[uid] for uid in rows)
    means: dict[int, float] = {}
    for uid, row in rows.items():
        for destination, share in row.items():
            part = share * stake_rao[uid] / total_rao if total_rao else 0.0
            means[destination] = means.get(destination, 0.0) + part
    return means


def _serve() -> None:
    """Fork a command for each line of standard input and answer with its exit status."""
    from bittensor.cli.main import app
    from bittensor.cli.prompt import run_app
    from typer.main import get_command

    # `run_app` takes a built command as well, whatever its signature says.
    command: Any = get_command(app)
    # Or each command takes a quarter of a second at its end to collect what it inherited.
    gc.freeze()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become_command(json.loads(line))
            run_app(command)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _become_command(request: dict[str, Any]) -> None:
    signal.alarm(LIMIT_S)
    sys.argv = [str(SCRIPT), *request["words"]]
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, name in ((1, "out"), (2, "err")):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(request[name], flags, 0o600), descriptor)


if __name__ == "__main__":
    _serve()
