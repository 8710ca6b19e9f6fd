"""Is a plan stable at lag one? Real neurons play the localnet's plan in one process.

Four honest miners, one miner that sends noise at honest norms, and one validator, on the
world of `simulation`: no chain, no buckets, and no time lost to training, so that miners know
the update under way before their first step. Prints a line for each window, then a summary.

    python -m benchmarks.learning.plan_stability --seed 0
    python -m benchmarks.learning.plan_stability --set outer.outer_lr=1.0 \\
        --set compression.error_feedback_decay=0.95 --set evaluation.step_share=0.25
"""

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.learning.text import TEXT
from benchmarks.learning.workers import PLAN
from localnet.adversaries.catalogue import BEHAVIOURS
from simulation.swarm import accepted, honest, metrics, neurons_of, open_world, run, to_the_end
from simulation.world import World, hotkey_of
from template.commands.plan import RunChoices, load_plan, prepare_run
from template.data.corpus import load_corpus

OWNER, VALIDATOR, NOISE = "owner", "val-a", "noise"
HONEST = ("m0", "m1", "m2", "m3")
NAMES = {OWNER: 0, VALIDATOR: 1000, **dict.fromkeys((*HONEST, NOISE), 0)}
"""Name -> stake in TAO; uids are in this order."""
UIDS = {name: uid for uid, name in enumerate(NAMES)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Played:
    """A run of a plan. All by window: loss of theta after the window, accepted uids, the
    validator's verdicts (rows of its log), and its weights by uid, one entry for each setting.
    """

    losses: Mapping[int, float]
    accepted: Mapping[int, set[int]]
    verdicts: Mapping[int, Sequence[Mapping[str, Any]]]
    weights: Sequence[Mapping[int, float]]


def play(plan: Mapping[str, Any], seed: int, text: Path = TEXT) -> Played:
    """Run the plan to its end; the seed draws theta_0."""
    choices = RunChoices(owner_hotkey=hotkey_of(OWNER), start_block=28, seed=seed)
    world = open_world(World, neurons_of(NAMES), prepare_run(plan, load_corpus(text), choices))
    drives = {**honest(VALIDATOR, *HONEST), NOISE: to_the_end(BEHAVIOURS["garbage"].build)}
    with tempfile.TemporaryDirectory() as folder:
        validator = run(world, drives, Path(folder))[VALIDATOR]
        lines = (validator.context.state_dir / "verdicts.jsonl").read_text().splitlines()
    verdicts: dict[int, list[Mapping[str, Any]]] = {}
    for row in map(json.loads, lines):
        if row.get("kind") == "verdict":
            verdicts.setdefault(row["window"], []).append(row)
    losses = metrics(validator).series("held_out_loss")
    return Played(
        losses={window: float(str(loss)) for window, loss in losses.items()},
        accepted=accepted(validator),
        verdicts=verdicts,
        weights=world.ledger.weights.get(hotkey_of(VALIDATOR), []),
    )


def lines_of(played: Played) -> list[str]:
    """A line for each window, then the summary."""
    honest_uids, noise = {UIDS[name] for name in HONEST}, UIDS[NOISE]
    lines = []
    for window, uids in sorted(played.accepted.items()):
        rows = played.verdicts.get(window, [])
        gains = {row["uid"]: round(row["relative_gain"] or 0.0, 2) for row in rows}
        work = {row["uid"]: round(row["work_effect"] or 0.0, 2) for row in rows}
        loss = played.losses[window + 2]
        lines.append(
            f"window {window}: held-out loss {loss:.3f}, accepted {sorted(uids)}, "
            f"relative gains {gains}, work {work}"
        )
    counts = [len(uids & honest_uids) for _, uids in sorted(played.accepted.items())]
    last = played.weights[-1] if played.weights else {}
    paid = [{uid for uid, share in row.items() if share > 0} for row in played.weights]
    lines.append(
        f"final loss {played.losses[max(played.losses)]:.3f}; honest payloads accepted {counts}; "
        f"honest miners without weight at the end "
        f"{len(honest_uids - {uid for uid, share in last.items() if share > 0})}; noise accepted "
        f"in {sum(noise in uids for uids in played.accepted.values())} windows, paid in "
        f"{sum(noise in uids for uids in paid)} settings of weights"
    )
    return lines


def main(argv: list[str]) -> None:
    """Play the plan and print the lines."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.learning.plan_stability", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=NUMBER")
    parser.add_argument("--text", type=Path, default=TEXT)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    logging.getLogger("template").setLevel(logging.ERROR)
    plan = load_plan(PLAN)
    for change in arguments.set:
        key, _, number = change.partition("=")
        section, _, name = key.partition(".")
        plan[section][name] = type(plan[section][name])(number)
    for line in lines_of(play(plan, arguments.seed, arguments.text)):
        print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
