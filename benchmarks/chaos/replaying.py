"""Whether a process that never took part replays the run to the nodes' digest.

Owns the call of the replay tool and the reading of its one line. Does not own how a run is
replayed.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

MODULE: Final = "template.replay"
LIMIT_S: Final = 180.0
_TAIL_CHARS: Final = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """`equal`: None if the tool gave no answer, then `reason` says why; `said`: its line."""

    equal: bool | None
    reason: str
    said: Mapping[str, Any]


def replay(
    run_file: Path, netuid: int, endpoint: str, digests: Mapping[str, tuple[int, str]]
) -> Replayed:
    """Run the tool, and compare with what the nodes say they stand on in the end.

    `digests`: node -> (state window, digest), hex.
    """
    command = [sys.executable, "-m", MODULE, "--run", str(run_file), "--netuid", str(netuid)]
    command += ["--subtensor.network", endpoint]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return Replayed(equal=None, reason=f"no answer in {LIMIT_S:.0f} s", said={})
    said = last_object(done.stdout)
    if done.returncode or said is None:
        told = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][-_TAIL_CHARS:]
        return Replayed(
            equal=None, reason=f"exit status {done.returncode}: {told}", said=said or {}
        )
    return compare(said, digests)


def last_object(output: str) -> dict[str, Any] | None:
    """The JSON object on the last line; None if there is none."""
    lines = output.strip().splitlines()
    try:
        value = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def compare(said: Mapping[str, Any], digests: Mapping[str, tuple[int, str]]) -> Replayed:
    """Equal only if the replay and every node ended at one window and one digest."""
    ends = set(digests.values())
    mine = (said.get("window"), said.get("params_digest"))
    equal = ends == {mine}
    reason = "" if equal else f"replayed to {mine}, the nodes stand on {sorted(ends)}"
    return Replayed(equal=equal, reason=reason, said=said)
