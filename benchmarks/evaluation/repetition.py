"""How much of a miner's payload can a stranger compute, who repeats the training?

    python -m benchmarks.evaluation.repetition         eight windows (two minutes)

Payloads of the localnet's plan. The stranger knows start, assigned pages, rules, AdamW moments and
error feedback: all that follows from public objects. Each row is the overlap of kept positions with
the miner's payload, window by window: with the miner's order of the pages; with an order of its
own; the mean of four such trainings; with other pages; and with the nearest of three honest rivals.
The plan's limit is `evaluation.max_overlap`. Writes benchmarks/results/repetition.json.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from benchmarks.evaluation.loss_tolerance import OWNER, ROOT, TEXT
from evaluation.overlap import Places
from template.base.feedback import ErrorFeedback
from template.base.work import BLOCKS_PER_WINDOW, MAX_BLOCK_STEPS
from template.commands.plan import RunChoices, load_plan, prepare_run
from template.data.assignment import SEED_BYTES, shuffled_blocks
from template.data.corpus import Document, load_corpus
from template.protocol.payload import Payload, PayloadFormat, PayloadHeader, decode_payload
from template.protocol.root import Member
from template.protocol.spec import RunSpec
from template.scoring.footprint import footprint_of, places_in
from template.training.inner import InnerTrainer
from template.training.model import Params, tensor_shapes
from template.training.outer import OuterState, expected_params, first_state
from template.training.theta0 import load_theta0

RESULT = ROOT / "benchmarks" / "results" / "repetition.json"
NUM_WINDOWS, NUM_MINERS, NUM_GUESSES = 8, 4, 4
SAME, GUESS, MEAN, OTHER, RIVAL = (
    "same order of the pages",
    "another order",
    "mean of four other orders",
    "other pages",
    "nearest honest rival",
)


@dataclass(kw_only=True)
class Learner:
    """A miner's trainer and error feedback; `copy` is what a stranger has computed of both."""

    spec: RunSpec
    form: PayloadFormat
    text: np.ndarray
    trainer: InnerTrainer = field(init=False)
    feedback: ErrorFeedback = field(init=False)

    def __post_init__(self) -> None:
        self.trainer = InnerTrainer(self.spec, "cpu")
        self.feedback = self._feedback({})

    def copy(self) -> "Learner":
        other = Learner(spec=self.spec, form=self.form, text=self.text)
        other.trainer.load_moments({k: v.clone() for k, v in self.trainer.moments().items()})
        other.feedback = self._feedback({k: v.clone() for k, v in self.feedback.tensors.items()})
        return other

    def train(self, state: OuterState, window: int, ids: np.ndarray) -> Params:
        """The pseudo-gradient of the pages in this order."""
        step = self.spec.training.batch_pages
        batches = (self.text[ids[i : i + step]] for i in range(0, ids.size, step))
        result = self.trainer.train(state.params, window, batches, lambda: False)
        return dict(result.pseudo_gradient)

    def send(self, window: int, delta: Params) -> Payload:
        """The payload; error feedback keeps the rest."""
        header = PayloadHeader(
            window=window, base_window=window, pages_consumed=0, public_key=bytes(32)
        )
        return decode_payload(self.feedback.encode(header, delta), self.form)

    def _feedback(self, saved: dict[str, Tensor]) -> ErrorFeedback:
        return ErrorFeedback(self.form, self.spec.compression.error_feedback_decay, saved)


def measure(num_windows: int) -> dict[str, list[float]]:
    """Kind of training -> overlap with the first miner's payload, per window."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    corpus, plan = load_corpus(TEXT), load_plan(ROOT / "runs" / "localnet.toml")
    run = prepare_run(plan, corpus, RunChoices(owner_hotkey=OWNER, start_block=100))
    spec, random = run.spec, np.random.default_rng(3)
    form = PayloadFormat(
        run_id=spec.run_id, shapes=tensor_shapes(spec), top_k=spec.compression.top_k
    )
    text = _pages(corpus.train, spec.data.page_tokens)
    theta0 = load_theta0(lambda digest, _: run.blobs[digest], spec)
    state = first_state(theta0, spec.run_id)
    miners = [Learner(spec=spec, form=form, text=text) for _ in range(NUM_MINERS)]
    found: dict[str, list[float]] = {kind: [] for kind in (SAME, GUESS, MEAN, OTHER, RIVAL)}
    for window in range(num_windows):
        shape = (NUM_MINERS, spec.training.pages_per_window)
        assigned = random.integers(0, len(text), shape)
        trained = [_shuffled(ids, random, spec) for ids in assigned]
        stranger = miners[0].copy()
        orders = [_shuffled(assigned[0], random, spec) for _ in range(NUM_GUESSES)]
        guesses = [stranger.copy().train(state, window, ids) for ids in orders]
        mean = {n: torch.stack([g[n] for g in guesses]).mean(dim=0) for n in guesses[0]}
        others = stranger.copy().train(state, window, random.integers(0, len(text), shape[1]))
        same = stranger.copy().train(state, window, trained[0])
        sent = [
            miner.send(window, miner.train(state, window, ids))
            for miner, ids in zip(miners, trained, strict=True)
        ]
        repeated: dict[str, Params] = {SAME: same, GUESS: guesses[0], MEAN: mean, OTHER: others}
        own = _places(sent[0], form)
        for kind, delta in repeated.items():
            payload = stranger.copy().send(window, delta)
            found[kind].append(_share(own, _places(payload, form)))
        found[RIVAL].append(max(_share(own, _places(p, form)) for p in sent[1:]))
        members = [_member(uid, payload) for uid, payload in enumerate(sent)]
        params = expected_params(state, members, dict(enumerate(sent)), spec)
        state = first_state(params, spec.run_id)
        print(window, {kind: shares[-1] for kind, shares in found.items()}, flush=True)
    return found


def _shuffled(ids: np.ndarray, random: np.random.Generator, spec: RunSpec) -> np.ndarray:
    """A miner's private order: blocks of the inner steps that a full loop shuffles together."""
    steps = min(MAX_BLOCK_STEPS, spec.training.inner_steps // BLOCKS_PER_WINDOW)
    return shuffled_blocks(ids, random.bytes(SEED_BYTES), steps * spec.training.batch_pages)


def _places(payload: Payload, form: PayloadFormat) -> Places:
    return places_in(footprint_of(payload, form), form, 0, lambda _window: bytes(32))


def _share(one: Places, other: Places) -> float:
    return round(np.intersect1d(one, other).size / min(one.size, other.size), 3)


def _pages(documents: Sequence[Document], page_tokens: int) -> np.ndarray:
    text = b"".join(document.text for document in documents)
    tokens = np.frombuffer(text, dtype=np.uint8)
    whole = len(tokens) // page_tokens * page_tokens
    return tokens[:whole].reshape(-1, page_tokens).astype(np.int64)


def _member(uid: int, payload: Payload) -> Member:
    return Member(
        uid=uid,
        hotkey=str(uid),
        public_key=payload.header.public_key,
        coldkey=uid.to_bytes(32, "little"),
        digest=bytes(32),
    )


def main() -> None:
    """Measure and write the result."""
    RESULT.write_text(json.dumps(measure(NUM_WINDOWS), indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
