"""How much of a window a miner trains: on a slow line and a slow disk, in lanes and in turn.

`python -m benchmarks.pace.lanes` measures the share of wall time in inner steps of two miners of
one run: one works in lanes (`template.base.lanes`), the other does one thing after another. The
line and the disk take the shares of a window that `tessera plan` says of 72 B on eight B200 at
110/500 Mb/s; the model is small, and stands for one on a device: an inner step takes time and no
core, and training shares no memory with the rest.

Writes benchmarks/results/lanes.json.
"""

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks.pace.world import PacedWorld, Slowness, slow_disk, waited_s
from simulation.swarm import (
    ROOT,
    accepted,
    digests,
    honest,
    metrics,
    neurons_of,
    open_world,
    small_plan,
    synthetic_corpus,
)
from simulation.swarm import run as run_swarm
from simulation.world import hotkey_of
from template.cli.plan_flags import read_plan_or_spec
from template.commands.plan import RunChoices, prepare_run
from template.planning import covenant
from template.planning.case import Case
from template.planning.hardware import usual_machine
from template.planning.miner import FETCH, SAVE_BEFORE, UPLOAD, miner_window
from template.training.model import payload_bytes, tensor_shapes

RESULT: Final = Path(__file__).parents[1] / "results" / "lanes.json"
STAKES: Final = {"owner": 0, "val-a": 1000, "m0": 0, "m1": 0}
LANES, TURN = "m0", "m1"
BLOCKS, BLOCK_S = 115, 0.13
"""The schedule is that of runs/72b.toml, in hundredths of its time."""
PLAN: Final[dict[str, object]] = {
    "model__hidden_size": 32,
    "model__intermediate_size": 64,
    "training__inner_steps": 40,
    "training__batch_pages": 2,
    "schedule__blocks_per_window": BLOCKS,
    "schedule__upload_blocks": 20,
    "schedule__scoring_blocks": 70,
    "schedule__vote_margin_blocks": 20,
    "schedule__finality_lag_blocks": 5,
    "schedule__tempo_blocks": 360,
    "evaluation__min_relative_gain": 0.0,
}


def shares_of_72b() -> dict[str, float]:
    """Shares of a window at 72 B, by the planner: upload, fetching, saving theta's size once."""
    case = Case(
        spec=read_plan_or_spec(ROOT / "runs" / "72b.toml"),
        machine=usual_machine("b200", 8),
        line=covenant.LINE,
    )
    window = miner_window(case)
    return {
        name: window.seconds_of((phase,)) / window.window_s
        for name, phase in {"upload": UPLOAD, "fetch": FETCH, "save": SAVE_BEFORE}.items()
    }


def measure(windows: int, shares: dict[str, float], folder: Path) -> dict[str, Any]:
    """Utilisation of both miners, window by window."""
    prepared = prepare_run(
        small_plan(**PLAN, schedule__num_windows=windows),
        synthetic_corpus(),
        RunChoices(owner_hotkey=hotkey_of("owner"), start_block=40),
    )
    spec, window_s = prepared.spec, BLOCKS * BLOCK_S
    num_bytes = payload_bytes(spec)
    theta_bytes = 4 * sum(math.prod(shape) for shape in tensor_shapes(spec).values())
    PacedWorld.block_s = BLOCK_S
    PacedWorld.slow = frozenset(map(hotkey_of, (LANES, TURN)))
    PacedWorld.beside = frozenset({hotkey_of(LANES)})
    PacedWorld.slowness = Slowness(
        up_s=shares["upload"] * window_s / num_bytes,
        down_s=shares["fetch"] * window_s / num_bytes,  # there is one other payload
        disk_s=shares["save"] * window_s / theta_bytes,
    )
    world = open_world(PacedWorld, neurons_of(STAKES), prepared)
    world.time.block = 20  # the owner's record is final
    with slow_disk(PacedWorld.slowness.disk_s):
        nodes = run_swarm(world, honest("val-a", LANES, TURN), folder)
    assert len(digests(nodes)) == 1, "the nodes end at one model"
    assert all(waited_s[what] for what in ("up", "down", "disk")), waited_s
    taken = accepted(nodes["val-a"])
    return {
        name: {
            "utilisation": metrics(nodes[name]).series("utilisation"),
            "steps": metrics(nodes[name]).series("inner_steps"),
            "accepted": sum(uid in uids for uids in taken.values()),
        }
        for name, uid in ((LANES, 2), (TURN, 3))
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pace.lanes", description=__doc__)
    parser.add_argument("--windows", type=int, default=8)
    windows = parser.parse_args().windows
    shares = shares_of_72b()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(windows, shares, Path(folder))
    for name, what in ((LANES, "in lanes"), (TURN, "in turn")):
        # The first windows have neither decisions nor previews; the last ends the run.
        steady = [value for window, value in found[name]["utilisation"].items() if window >= 3]
        found[name]["steady"] = round(statistics.median(steady), 4)
        print(
            f"{what}: {found[name]['steady']:.1%} of wall time in inner steps (median of "
            f"{len(steady)} windows), {found[name]['accepted']} of {windows} payloads accepted"
        )
    record = {"shares": shares, "waited_s": dict(waited_s), "window_s": BLOCKS * BLOCK_S, **found}
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    print(RESULT)


if __name__ == "__main__":
    main()
