"""What rounding theta to 24 bits does to learning, at worst: in every window.

    python -m benchmarks.evaluation.rounding         writes benchmarks/results/rounding.json

The localnet's model and four miners that wait for each other, for 24 windows. Runs of one seed
share theta_0, pages and orders. `rounded` has a checkpoint in every window, `plain` has none. The
first windows part by single bits, and training spreads these as any other difference; `spread`, a
plain run whose theta_0 differs in the last bit of every value, shows how far.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.evaluation.repetition import Learner
from benchmarks.learning.text import ROOT, TEXT
from simulation.world import hotkey_of
from template.commands.plan import RunChoices, load_plan, prepare_run
from template.data.corpus import Document, load_corpus
from template.data.tokenizer import ByteTokenizer
from template.protocol.payload import Payload, PayloadFormat
from template.protocol.quorum import Decision
from template.protocol.root import Member
from template.protocol.spec import RunSpec
from template.training.model import Params, tensor_shapes
from template.training.outer import first_state, outer_step
from template.training.scorer import Scorer
from template.training.theta0 import load_theta0

NUM_WINDOWS, NUM_MINERS, SEEDS = 24, 4, (1, 2, 3, 4, 5, 6)
HELD_OUT_PAGES = 800
NEVER = 10_000
REPORT = ROOT / "benchmarks" / "results" / "rounding.json"
ARMS = ("plain", "rounded", "spread")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """What all arms share."""

    spec: RunSpec
    theta0: Params
    text: np.ndarray
    held_out: np.ndarray


def ground() -> Ground:
    corpus, plan = load_corpus(TEXT), load_plan(ROOT / "runs" / "localnet.toml")
    choices = RunChoices(owner_hotkey=hotkey_of("owner"), start_block=100)
    run = prepare_run(plan, corpus, choices)
    theta0 = dict(load_theta0(lambda digest, _: run.blobs[digest], run.spec))
    tokens = run.spec.data.page_tokens
    held_out = _pages(corpus.held_out, tokens)[:HELD_OUT_PAGES]
    return Ground(
        spec=run.spec, theta0=theta0, text=_pages(corpus.train, tokens), held_out=held_out
    )


def _pages(documents: Sequence[Document], page_tokens: int) -> np.ndarray:
    flat = np.concatenate([ByteTokenizer().encode(document.text) for document in documents])
    whole = flat.size // page_tokens * page_tokens
    return flat[:whole].astype(np.int64).reshape(-1, page_tokens)


def losses(shared: Ground, arm: str, seed: int, num_windows: int = NUM_WINDOWS) -> list[float]:
    """Held-out loss after each window."""
    torch.manual_seed(seed)
    every = 1 if arm == "rounded" else NEVER
    spec = replace(shared.spec, checkpoint=replace(shared.spec.checkpoint, every_windows=every))
    form = PayloadFormat(
        run_id=spec.run_id, shapes=tensor_shapes(spec), top_k=spec.compression.top_k
    )
    random = np.random.default_rng(seed)
    theta0 = {name: tensor.clone() for name, tensor in shared.theta0.items()}
    if arm == "spread":
        for tensor in theta0.values():
            tensor.view(torch.int32).bitwise_xor_(1)
    state, scorer = first_state(theta0, spec.run_id), Scorer(spec, "cpu")
    miners = [Learner(spec=spec, form=form, text=shared.text) for _ in range(NUM_MINERS)]
    found = []
    for window in range(num_windows):
        shape = (NUM_MINERS, spec.training.pages_per_window)
        assigned = random.integers(0, len(shared.text), shape)
        sent = {
            uid: miner.send(window, miner.train(state, window, ids))
            for uid, (miner, ids) in enumerate(zip(miners, assigned, strict=True))
        }
        state = outer_step(state, _decision(window, sent), sent, spec)
        scorer.load(state.params)
        found.append(float(scorer.losses(shared.held_out).mean()))
    return found


def _decision(window: int, sent: Mapping[int, Payload]) -> Decision:
    members = tuple(
        Member(
            uid=uid,
            hotkey=f"m{uid}",
            public_key=bytes([uid]) * 32,
            coldkey=bytes([uid]) * 32,
            digest=bytes([uid]) * 32,
        )
        for uid in sent
    )
    return Decision(
        window=window,
        members=members,
        namers=dict.fromkeys(sent, ()),
        root=None,
        sample_digest=None,
        undelivered=(),
        dissenters=(),
        voting_stake_rao=1,
        reference_rao=1,
        no_op="",
    )


def report(folder: Path = REPORT) -> None:
    """Run every arm with every seed; a line each, and the record."""
    torch.set_num_threads(1)
    shared = ground()
    record: dict[str, dict[str, list[float]]] = {}
    for seed in SEEDS:
        record[str(seed)] = {arm: losses(shared, arm, seed) for arm in ARMS}
        last = {arm: round(found[-1], 5) for arm, found in record[str(seed)].items()}
        print(f"seed {seed}: held-out loss after {NUM_WINDOWS} windows: {last}", flush=True)
    folder.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    report()
