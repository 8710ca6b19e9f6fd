"""Cost of a window in the real loops of one process, beside the lean models of the benchmarks.

    python -m benchmarks.world_cost        CPU seconds, a table in benchmarks/results/world_cost.md

Equal model, pages, inner steps and number of miners on both sides. `Loops` are real neurons
(`simulation.swarm`): a window's cost is the difference between a longer and a shorter run, so
that joining does not count. Parts are single functions on the same inputs.
"""

import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.attacks import suite
from benchmarks.attacks.actor import Actor
from benchmarks.attacks.model import LeanWorkers
from benchmarks.attacks.panel import CLAIMED_PAGES, WORK_EFFECT
from benchmarks.attacks.swarm import Swarm
from benchmarks.learning.rules import RULES
from benchmarks.learning.text import ROOT, TEXT
from benchmarks.learning.trial import Trial
from benchmarks.learning.workers import Workers, trial_plan
from simulation.swarm import honest, neurons_of, open_world, run
from simulation.world import World, hotkey_of
from template.commands.plan import RunChoices, prepare_run
from template.data.corpus import load_corpus
from template.training.inner import InnerTrainer
from template.training.scorer import Scorer

MINERS = 8
SHORT, LONG = 2, 6
"""Windows of the two runs whose difference counts."""
REPEATS = 3
REPORT = ROOT / "benchmarks" / "results" / "world_cost.md"
ATTACKS = replace(
    suite.Case(attack="", miners=MINERS, attackers=0, seed=1, defended=True).trial, warm_steps=0
)
LEARNING = Trial(strategy="ours", miners=MINERS, min_divisor=4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """CPU seconds of the same work, by the lean model and by the project's own code."""

    name: str
    lean_s: float
    real_s: float

    @property
    def ratio(self) -> float:
        return self.real_s / self.lean_s


def cpu_s(call: Callable[[], object]) -> float:
    """CPU seconds of all threads of this process during one call."""
    gc.collect()
    start_s = time.process_time()
    call()
    return time.process_time() - start_s


def least_cpu_s(call: Callable[[], object]) -> float:
    """The least of several calls: other programs can only add."""
    return min(cpu_s(call) for _ in range(REPEATS))


def loops_s(trial: Trial, validators: int, *, claimed: int) -> float:
    """CPU seconds of a window in the real loops."""

    def play(windows: int) -> float:
        plan = trial_plan(trial)
        plan["training"]["warm_start_steps"] = 0
        plan["evaluation"] |= {"claimed_pages": claimed, "work_effect": WORK_EFFECT}
        plan["schedule"]["num_windows"] = windows
        voters = {f"val-{number}": 1000 - number for number in range(validators)}
        names = {"owner": 0, **voters, **{f"m{number}": 0 for number in range(MINERS)}}
        choices = RunChoices(owner_hotkey=hotkey_of("owner"), start_block=28, seed=trial.seed)
        prepared = prepare_run(plan, load_corpus(TEXT), choices)
        world = open_world(World, neurons_of(names), prepared)
        drives = honest(*(name for name in names if name != "owner"))
        with tempfile.TemporaryDirectory() as folder:
            return cpu_s(lambda: run(world, drives, Path(folder)))

    return (play(LONG) - play(SHORT)) / (LONG - SHORT)


def lean_attacks_s() -> float:
    """CPU seconds of a window in the swarm of the attack suite."""

    def play(windows: int) -> float:
        swarm = Swarm(replace(ATTACKS, rounds=windows), [Actor() for _ in range(MINERS)])
        return cpu_s(swarm.run)

    return (play(LONG) - play(SHORT)) / (LONG - SHORT)


def lean_learning_s() -> float:
    """CPU seconds of a round of the learning benchmark."""

    def play(rounds: int) -> float:
        strategy = RULES["ours"](Workers(LEARNING))
        params_N = strategy.workers.theta0()

        def rounds_of() -> None:
            at_N = params_N
            for number in range(rounds):
                at_N = strategy.round(number, at_N)

        return cpu_s(rounds_of)

    return (play(LONG) - play(SHORT)) / (LONG - SHORT)


def inner_costs(trial: Trial, make: Callable[[Trial], Workers]) -> tuple[Cost, Cost]:
    """One miner's inner steps of a window, and one scoring pass."""
    workers = make(trial)
    start_N, space = workers.theta0(), workers.space
    trainer, scorer = InnerTrainer(workers.spec, "cpu"), Scorer(workers.spec, "cpu")
    batches = [workers.draw(0, step) for step in range(trial.inner_steps)]
    start = {name: view.clone() for name, view in space.views(start_N).items()}
    pages = workers.random_pages(np.random.default_rng(0), 320)
    scorer.load(start)

    def lean_steps() -> None:
        at_N = start_N.clone()
        for step, batch in enumerate(batches):
            workers.step(at_N, 0, batch, workers.inner_lr(1, step))

    name = f"{make.__name__}, {space.num_elements:,} parameters"
    return (
        Cost(
            name=f"{trial.inner_steps} inner steps ({name}; InnerTrainer)",
            lean_s=least_cpu_s(lean_steps),
            real_s=least_cpu_s(lambda: trainer.train(start, 1, batches, lambda: False)),
        ),
        Cost(
            name=f"losses of 320 pages ({name}; Scorer)",
            lean_s=least_cpu_s(lambda: workers.losses(start_N, pages)),
            real_s=least_cpu_s(lambda: scorer.losses(pages)),
        ),
    )


def measure() -> list[Cost]:
    """All rows of the table."""
    lean_s, learning_s = lean_attacks_s(), lean_learning_s()
    return [
        Cost(
            name=f"window of the attack suite, {MINERS} miners, 1 validator",
            lean_s=lean_s,
            real_s=loops_s(ATTACKS, 1, claimed=CLAIMED_PAGES),
        ),
        Cost(
            name=f"window of the attack suite, {MINERS} miners, 4 validators",
            lean_s=lean_s,
            real_s=loops_s(ATTACKS, 4, claimed=CLAIMED_PAGES),
        ),
        Cost(
            name=f"round of the learning benchmark, {MINERS} miners; loops with 1 validator",
            lean_s=learning_s,
            real_s=loops_s(LEARNING, 1, claimed=0),
        ),
        *inner_costs(ATTACKS, LeanWorkers),
        *inner_costs(LEARNING, Workers),
    ]


def main() -> None:
    """Measure, print and write the table."""
    torch.set_num_threads(1)
    rows = [f"| {c.name} | {c.lean_s:.3f} | {c.real_s:.3f} | {c.ratio:.1f} |" for c in measure()]
    lines = [
        "CPU seconds of all threads, one torch thread (`python -m benchmarks.world_cost`).",
        "",
        "| the same work | lean, s | real, s | real / lean |",
        "|---|---|---|---|",
        *rows,
    ]
    REPORT.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
