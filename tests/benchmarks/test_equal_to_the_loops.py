"""The benchmarks' lean models give what the real loops give, for the same payloads.

Three miners and one that sends noise play with a real validator. For each of its windows the
lean model gets the same parameters, pages and payloads, and must come to the same losses,
verdicts and next parameters. The outer step and all that follows from it are equal bit for bit.
Losses are float32 sums in another order, so they agree to 2e-6 of their value.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from benchmarks.attacks.model import LeanWorkers
from benchmarks.learning.judge import measure
from benchmarks.learning.messages import Message, SparseCodec
from benchmarks.learning.space import Space
from benchmarks.learning.strategies.ours import Ours
from benchmarks.learning.trial import Trial
from benchmarks.learning.workers import Workers, trial_plan
from evaluation import pace
from evaluation.history import Histories, past_of, select_windows
from evaluation.judge import judge
from evaluation.pace import pace_sample
from evaluation.verdict import NOT_SCORED
from evaluation.work import shown_to
from localnet.adversaries.catalogue import BEHAVIOURS
from simulation.swarm import (
    accepted,
    honest,
    neurons_of,
    open_world,
    run,
    synthetic_corpus,
    to_the_end,
)
from simulation.world import World, hotkey_of
from template.base.memory import ValidatorMemory
from template.base.policy import ValidatorPolicy
from template.base.validator import Validator
from template.commands.plan import RunChoices, prepare_run
from template.context import NodeContext
from template.peers.client import Peers
from template.protocol.keys import payload_key
from template.protocol.payload import (
    PayloadFormat,
    PayloadHeader,
    decode_payload,
    encode_payload_with_feedback,
)
from template.scoring.rules import judge_rules
from template.scoring.window import Scored
from template.sync.dataset import open_pages
from template.training.inner import InnerTrainer
from template.training.outer import OuterState

NUM_WINDOWS = 5
MINERS = ("m0", "m1", "m2")
NAMES = {"owner": 0, "val-a": 1000, **dict.fromkeys((*MINERS, "noise"), 0)}
TRIAL = Trial(
    strategy="ours",
    model="tiny",
    miners=4,
    inner_steps=4,
    rounds=NUM_WINDOWS,
    warmup_steps=4,
    inner_lr=1e-2,
    outer_lr=4.0,
    clip_factor=1.05,
)
LOSS_TOLERANCE = 2e-6


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A window as the validator scored it: its state, its result, and the frames by uid."""

    state: OuterState
    scored: Scored
    histories: Histories
    frames: dict[int, bytes]


class Observer(ValidatorPolicy):
    """The honest policy; keeps what each vote is made from."""

    def __init__(self, world: World, context: NodeContext) -> None:
        self.windows: list[Seen] = []
        self._world = world
        self.node = Validator(context, policy=self)

    def accepted_uids(self, scored: Scored, memory: ValidatorMemory, limit: int) -> frozenset[int]:
        frames = {
            verdict.uid: self._world.buckets[verdict.hotkey].get(
                payload_key(self._world.spec.run_id, verdict.window, bytes.fromhex(verdict.digest)),
                max_bytes=2**20,
            )
            for verdict in scored.verdicts
        }
        self.windows.append(
            Seen(
                state=self.node.follower.state,
                scored=scored,
                histories=select_windows(memory.histories, range(scored.verdicts[0].window)),
                frames=frames,
            )
        )
        return super().accepted_uids(scored, memory, limit)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True, kw_only=True)
class Played:
    """A run of the real loops."""

    world: World
    validator: Validator
    windows: list[Seen]
    pages_of: dict[int, np.ndarray]


@pytest.fixture(scope="module")
def played(tmp_path_factory) -> Played:
    plan = trial_plan(TRIAL)
    plan["training"]["warm_start_steps"] = 20
    plan["evaluation"] |= {"claimed_pages": 8, "curve_pages": 16, "assignment_windows": 2}
    # Few steps from random, and words at random: pages of one's own show next to nothing.
    plan["evaluation"] |= {"naming_gain": 0.2, "naming_error": 0.45, "work_effect": 0.02}
    choices = RunChoices(owner_hotkey=hotkey_of("owner"), start_block=28)
    run_of = prepare_run(plan, synthetic_corpus(400_000), choices)
    world = open_world(World, neurons_of(NAMES), run_of)
    observers: list[Observer] = []

    def observed(context: NodeContext) -> Validator:
        observers.append(Observer(world, context))
        return observers[0].node

    drives = {
        **honest(*MINERS),
        "val-a": to_the_end(observed),
        "noise": to_the_end(BEHAVIOURS["garbage"].build),
    }
    folder = tmp_path_factory.mktemp("swarm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "PACE_Z", 0.0)  # so that alpha moves in a short run
        validator = run(world, drives, folder)["val-a"]
    context = world.context(hotkey_of("val-a"), folder / "reader")
    reader = open_pages(context, Peers(context))
    windows = observers[0].windows
    pages = {number: reader.pages(seen.scored.pool.ids_S) for number, seen in enumerate(windows)}
    return Played(world=world, validator=validator, windows=windows, pages_of=pages)


@pytest.fixture(scope="module")
def form(played: Played) -> PayloadFormat:
    workers = Workers(TRIAL)
    return PayloadFormat(
        run_id=played.world.spec.run_id, shapes=workers.space.shapes, top_k=TRIAL.top_k
    )


def _messages(seen: Seen, space: Space, form: PayloadFormat) -> dict[int, Message]:
    found = {}
    for uid, frame in seen.frames.items():
        tensors = decode_payload(frame, form).tensors
        dense_N = torch.zeros(space.num_elements)
        for name, view in space.views(dense_N).items():
            tensors[name].add_to(view, coefficient=1.0)
        found[uid] = Message(num_bytes=len(frame), dense=dense_N, steps=1, tensors=tensors)
    return found


def _ours_from(played: Played, workers: Workers, monkeypatch) -> Ours:
    """The lean outer step at the real run's theta_0."""
    theta0_N = workers.space.flat(played.windows[0].state.params)
    monkeypatch.setattr(workers, "_theta0_N", theta0_N)
    return Ours(workers)


def test_the_outer_step_is_the_real_one_bit_for_bit(played, form, monkeypatch) -> None:
    ours = _ours_from(played, Workers(TRIAL), monkeypatch)
    space, uids = ours.workers.space, accepted(played.validator)
    assert len(played.windows) == NUM_WINDOWS
    assert len({seen.state.exponent for seen in played.windows}) > 1
    numbers: list[int] = []
    for window, (seen, after) in enumerate(zip(played.windows, played.windows[1:], strict=False)):
        messages = _messages(seen, space, form)
        applied = [messages[uid] for uid in sorted(uids[window])]
        numbers.append(len(applied))
        params_N = space.flat(seen.state.params)
        assert ours.state_alpha == seen.state.alpha(ours.outer)
        after_N = ours.merge(params_N, applied, ours.state_alpha)
        ours.move_alpha(after.state.exponent - seen.state.exponent)
        assert torch.equal(after_N, space.flat(after.state.params))
        assert not torch.equal(after_N, params_N)
    assert min(numbers) >= 1, "a step in every window"
    assert max(numbers) >= 2, "steps of several payloads"


@pytest.mark.parametrize("kind", [pytest.param(Workers, marks=pytest.mark.slow), LeanWorkers])
def test_measurements_and_verdicts_are_the_real_ones(played, form, kind, monkeypatch) -> None:
    workers = kind(TRIAL)
    ours = _ours_from(played, workers, monkeypatch)
    evaluation, space = played.world.spec.evaluation, workers.space
    rules, uids = judge_rules(evaluation), accepted(played.validator)
    statuses = set()
    step_start_N = None
    for window, seen in enumerate(played.windows):
        messages = _messages(seen, space, form)
        beside, alpha = list(messages.values()), seen.state.alpha(ours.outer)
        steps = {
            uid: ours.scored(message, beside, alpha, evaluation.step_share)
            for uid, message in messages.items()
        }
        params_N = space.flat(seen.state.params)
        real = seen.scored.measured
        pages = played.pages_of[window]
        lean = measure(workers, params_N, pages, real.owners_S, steps, step_start_N)
        assert (lean.half_way_H is None) == (real.half_way_H is None) == (window == 0)
        if real.half_way_H is not None and lean.half_way_H is not None:
            np.testing.assert_allclose(lean.half_way_H, real.half_way_H, rtol=LOSS_TOLERANCE)
            lean_pace, real_pace = (pace_sample(0, each) for each in (lean, real))
            assert lean_pace.mean == pytest.approx(real_pace.mean, rel=0.02)
        step_start_N = params_N
        np.testing.assert_allclose(lean.before_SQ, real.before_SQ, rtol=LOSS_TOLERANCE)
        assert lean.after_KQ.keys() == real.after_KQ.keys() == set(NAMES_UIDS)
        for uid, losses_S in real.after_KQ.items():
            np.testing.assert_allclose(lean.after_KQ[uid], losses_S, rtol=LOSS_TOLERANCE)
            effect_S = losses_S - real.before_SQ[shown_to(real.owners_S, uid)]
            assert np.abs(lean.after_KQ[uid] - losses_S).max() < 0.01 * np.abs(effect_S).max()
        blanks = [
            replace(verdict, status=NOT_SCORED, gain=None, relative_gain=None)
            for verdict in seen.scored.verdicts
        ]
        verdicts = judge(blanks, lean, past_of(seen.histories, rules), rules)
        for mine, theirs in zip(verdicts, seen.scored.verdicts, strict=True):
            assert (mine.uid, mine.status) == (theirs.uid, theirs.status)
            assert mine.relative_gain == pytest.approx(theirs.relative_gain, abs=0.01)
        statuses |= {verdict.status for verdict in verdicts}
        ours.merge(params_N, [messages[uid] for uid in sorted(uids[window])], alpha)
    assert len(statuses) > 1, "useful payloads and noise"


NAMES_UIDS = tuple(uid for uid, name in enumerate(NAMES) if name in (*MINERS, "noise"))


@pytest.mark.parametrize("kind", [Workers, LeanWorkers])
def test_inner_steps_are_the_real_ones(kind) -> None:
    """One fused AdamW over a vector against the miner's, tensor by tensor, for two windows."""
    workers = kind(TRIAL)
    trainer, at_N = InnerTrainer(workers.spec, "cpu"), workers.theta0()
    for window in (1, 2):
        start_N = at_N.clone()
        first = window * TRIAL.inner_steps
        batches = [workers.draw(1, first + step) for step in range(TRIAL.inner_steps)]
        for step, pages in enumerate(batches):
            workers.step(at_N, 1, pages, workers.inner_lr(window, step))
        start = {name: view.clone() for name, view in workers.space.views(start_N).items()}
        result = trainer.train(start, window, batches, lambda: False)
        delta_N, real_N = start_N - at_N, workers.space.flat(result.pseudo_gradient)
        assert float((delta_N - real_N).norm()) < 1e-3 * float(real_N.norm())
        at_N = start_N - real_N


def test_payloads_are_the_real_ones_bit_for_bit(form) -> None:
    """The same pseudo-gradient and error feedback give the same body and the same remainder."""
    space = Workers(TRIAL).space
    generator = torch.Generator().manual_seed(3)
    delta_N = 1e-3 * torch.randn(space.num_elements, generator=generator)
    residual_N = 1e-3 * torch.randn(space.num_elements, generator=generator)
    feedback = {name: view.clone() for name, view in space.views(residual_N).items()}
    header = PayloadHeader(window=1, base_window=1, pages_consumed=32, public_key=bytes(32))
    frame = encode_payload_with_feedback(header, space.views(delta_N), feedback, form, TRIAL.decay)
    message = SparseCodec(space, TRIAL.top_k, TRIAL.decay).send(delta_N, residual_N, 1)
    assert bytes(decode_payload(frame, form).body) == message.body
    assert torch.equal(residual_N, space.flat(feedback))
