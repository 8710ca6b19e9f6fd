"""A case played by real neurons in one process: the localnet's plan and text, on a chain of blocks.

Miners differ in inner steps, width and part of the model. What validators write to the chain as
weights is the pay.
"""

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.learning.text import ROOT, TEXT
from benchmarks.pay.cases import FIRST, INNER_STEPS, USUAL, Case, Machine
from benchmarks.pay.prices import FIELDS
from simulation.swarm import (
    Drive,
    digests,
    honest,
    neurons_of,
    open_world,
    run,
    to_the_end,
)
from simulation.world import FakeChain, Ledger, World, hotkey_of
from template.base.miner import Miner
from template.base.work import HonestWork
from template.commands.plan import PreparedRun, RunChoices, load_plan, prepare_run
from template.context import NodeContext
from template.data.corpus import load_corpus
from template.training.options import InnerOptions

VALIDATOR: Final = "val-a"
FULL: Final = ("m0", "m1", "m2")
HALF, QUARTER, WIDE, PART = "half", "quarter", "wide", "part"
POINTS: Final = {
    **dict.fromkeys(FULL, USUAL),
    HALF: "0.5 of the steps",
    QUARTER: "0.25 of the steps",
    WIDE: "width 2",
    PART: "one of 2 parts of the model",
}
"""Miner -> name of its point of the curve."""
STEPS: Final = {HALF: INNER_STEPS // 2, QUARTER: round(INNER_STEPS / 4)}
STAKES: Final = {"owner": 0, VALIDATOR: 1000, **dict.fromkeys(POINTS, 0)}
"""Name -> stake; uids are in this order."""
TEMPO_BLOCKS: Final = 29
"""Weights are written once a tempo: about once a window of 28 blocks."""


class DatedChain(FakeChain):
    """A hotkey's view of a ledger that notes each row of its weights in `written`."""

    def __init__(self, ledger: Ledger, hotkey: str, written: list[tuple[int, dict[int, float]]]):
        super().__init__(ledger, hotkey)
        self._written = written

    def set_weights(self, weights: Mapping[int, float]) -> None:
        super().set_weights(weights)
        self._written.append((self.head(), dict(weights)))


class DatedWorld(World):
    """`written`: block, and shares by uid, of each row of the validator's weights."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.written: list[tuple[int, dict[int, float]]] = []

    def chain(self, hotkey: str) -> FakeChain:
        if hotkey != hotkey_of(VALIDATOR):
            return super().chain(hotkey)
        return DatedChain(self.ledger, hotkey, self.written)


def cut_after(steps: int) -> Drive:
    """A miner whose windows have time for so many inner steps."""

    class Cut(HonestWork):
        def batches(self, base: int) -> Iterator[np.ndarray]:
            yield from islice(super().batches(base), steps)

    return to_the_end(lambda context: Miner(context, work=Cut))


def with_options(options: InnerOptions) -> Drive:
    """A miner with choices of its own."""

    def make(context: NodeContext) -> Miner:
        return Miner(replace(context, inner=options))

    return to_the_end(make)


def drives() -> dict[str, Drive]:
    """How each neuron runs."""
    return {
        **honest(VALIDATOR, *FULL),
        **{name: cut_after(steps) for name, steps in STEPS.items()},
        WIDE: with_options(InnerOptions(width=2)),
        PART: with_options(InnerOptions(parts=2)),
    }


def prepared(case: Case) -> PreparedRun:
    plan = load_plan(ROOT / "runs" / "localnet.toml")
    plan["schedule"] |= {"num_windows": case.windows, "tempo_blocks": TEMPO_BLOCKS}
    choices = RunChoices(owner_hotkey=hotkey_of("owner"), start_block=28, seed=case.seed)
    return prepare_run(plan, load_corpus(TEXT), choices)


def play(case: Case) -> dict[str, Any]:
    """`shares`: of pay after each window of the run, by miner; those of windows without new weights
    repeat the weights that stand. AssertionError if the neurons end at different models.
    """
    start_s = time.perf_counter()
    world = open_world(DatedWorld, neurons_of(STAKES), prepared(case))
    with tempfile.TemporaryDirectory() as folder:
        nodes = run(world, drives(), Path(folder))
        assert len(digests(nodes)) == 1, "the nodes end at one model"
        lines = (nodes[VALIDATOR].context.state_dir / "verdicts.jsonl").read_text().splitlines()
    verdicts = [row for row in map(json.loads, lines) if row["kind"] == "verdict"]
    schedule = world.spec.schedule.schedule()
    written = [(schedule.window_of(block), weights) for block, weights in world.written]
    uids = [list(STAKES).index(name) for name in POINTS]
    return {
        "machines": [asdict(machine) for machine in machines(verdicts)],
        "shares": standing(written, uids, case.windows),
        "verdicts": [
            [lines_of(verdicts, window, uid) for uid in uids] for window in range(case.windows)
        ],
        "seconds": time.perf_counter() - start_s,
    }


def machines(verdicts: Iterable[Mapping[str, Any]]) -> list[Machine]:
    """The machines in the order of `POINTS`. Work is steps times width times the share of the model
    that a payload trains, on average over the counted windows.
    """
    listed = list(verdicts)
    made = []
    for name, point in POINTS.items():
        mine = [v for v in listed if v["hotkey"] == hotkey_of(name) and v["window"] >= FIRST]
        factors = [v["width"] * v["model_share"] for v in mine if v["pages_consumed"]]
        steps = STEPS.get(name, INNER_STEPS) / INNER_STEPS
        made.append(Machine(name=point, work=steps * float(np.mean(factors))))
    return made


def standing(
    written: Sequence[tuple[int, Mapping[int, float]]], uids: Sequence[int], windows: int
) -> list[list[float]]:
    """Shares of the uids by the newest weights of each window; 0 before the first.

    `written`: window and shares by uid, oldest first.
    """
    rows = []
    for window in range(windows):
        known = [weights for since, weights in written if since <= window]
        rows.append([known[-1].get(uid, 0.0) if known else 0.0 for uid in uids])
    return rows


def lines_of(verdicts: Iterable[Mapping[str, Any]], window: int, uid: int) -> list[Any]:
    """A verdict's line in the record, as in the suite's; empty without a verdict."""
    found = [v for v in verdicts if (v["window"], v["uid"]) == (window, uid)]
    return [found[-1][name] for name in FIELDS] if found else []
