"""Machines of unequal pace on one model, in virtual time; the protocol's lag, starts and step.

In every window there are two moments: at `catch_up_step` of H, when miners learn the update of
the window before, and at the end, when payloads of that window are sent.

Legend: N parameters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.learning.messages import Message
from benchmarks.learning.space import Space
from benchmarks.learning.strategies.ours import Ours
from benchmarks.learning.workers import Workers
from benchmarks.pace.machines import Machine, Race, page_weight
from benchmarks.pace.parts import PartTrainer, merge_parts, send_part
from benchmarks.pace.pay import Payroll, mean_gains
from template.training.outer import staleness_weight

EPS = 1e-6
"""Of an inner step: what rounding may take off a sum of times."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """A payload: who sent it, in which window, from which base, with which claim and part."""

    miner: int
    window: int
    base: int
    claimed: float
    message: Message
    part: int = 0

    @property
    def staleness(self) -> int:
        return self.window - self.base


@dataclass(kw_only=True, slots=True)
class Round:
    """A miner's inner loop under way."""

    start_N: Tensor
    place_N: Tensor
    base: int
    since: float
    duration: float
    steps: int
    step: int = 0
    part: int = 0

    def due(self, time: float) -> int:
        """Inner steps made by a moment."""
        passed = (time - self.since) / self.duration * self.steps
        return min(self.steps, math.floor(passed + EPS))


@dataclass(kw_only=True, slots=True)
class Account:
    """What one miner did: batches trained and sent, seconds at work in windows, payloads."""

    trained: int = 0
    sent: int = 0
    busy: float = 0.0
    payloads: int = 0
    rounds: int = field(default=0, repr=False)


class UnequalOurs(Ours):
    """The project's outer step with a weight for each payload."""

    shares: Sequence[float] | None = None

    def _shares(self, messages: Sequence[Message]) -> Sequence[float]:  # type: ignore[override]
        return super()._shares(messages) if self.shares is None else self.shares

    def step(
        self, params_N: Tensor, sent: Sequence[Sent], race: Race, last_N: Tensor | None
    ) -> Tensor:
        """The parameters after the payloads of one window."""
        messages = [one.message for one in sent]
        if race.corrects and last_N is not None:
            messages = [
                corrected(one.message, last_N, self.workers.space) if one.staleness else one.message
                for one in sent
            ]
        weights = [page_weight(one.claimed, race.weighting) for one in sent]
        scale = len(weights) / sum(weights) if race.divides == "sum" and weights else 1.0
        self.shares = [
            weight * scale * staleness_weight(one.staleness, race.staleness_decay)
            for weight, one in zip(weights, sent, strict=True)
        ]
        return self.merge(params_N, messages, self.trial.outer_lr)


def corrected(message: Message, last_N: Tensor, space: Space) -> Message:
    """Without what points against the last update, tensor by tensor; [N] in `dense`.

    Values alone change: at the payload's own places.
    """
    tensors, dense_N = {}, torch.zeros_like(message.dense)
    last = space.views(last_N)
    for name, view in space.views(dense_N).items():
        sparse = message.tensors[name]
        along = last[name].reshape(-1)[sparse.indices]
        dot, square = float(sparse.values @ along), float(along @ along)
        values = sparse.values - (dot / square) * along if dot < 0 < square else sparse.values
        tensors[name] = replace(sparse, values=values)
        tensors[name].add_to(view, coefficient=1.0)
    return replace(message, dense=dense_N, tensors=tensors)


class Course:
    """One race from theta_0 to its last window."""

    def __init__(self, race: Race) -> None:
        self.race, self.trial = race, race.trial
        self.workers = Workers(race.trial)
        self.rule = UnequalOurs(self.workers)
        self.codec = self.rule.codec(self.trial.top_k)
        self.parts = PartTrainer(self.workers, race.forgets)
        self.payroll = Payroll(self.workers) if race.pays else None
        self.accounts = [Account() for _ in race.machines]
        self._rounds: list[Round | None] = [None] * len(race.machines)
        self._under_way: list[Sent] = []
        self._last_N: Tensor | None = None
        self._seen: dict[str, list[float]] = {}

    @property
    def sent_last(self) -> list[Sent]:
        """The payloads of the last window."""
        return self._under_way

    def paid(self) -> dict[str, list[float]]:
        """Each miner's share of pay, and the mean gain of its payloads; empty without pay."""
        if self.payroll is None:
            return {}
        count = len(self.race.machines)
        return {
            "pay": self.payroll.shares(count),
            "gains": mean_gains(self.payroll.gains, count),
        }

    def notes(self) -> dict[str, list[float]]:
        """What was seen on the way, by name: means over the run."""
        return {name: [sum(v) / len(v)] for name, v in self._seen.items() if v}

    @property
    def middle(self) -> float:
        """The moment in a window when the others' payloads of the window before are there."""
        return self.trial.catch_up_step / self.trial.inner_steps

    def window(self, number: int, params_N: Tensor) -> Tensor:
        """The next theta; `params_N` is that of the window."""
        self._begin(number, params_N)
        if self.trial.lag == 0:
            self._work(number + 1)
            self._under_way = self._send(number)
            after_N, self._under_way = self._merge(params_N), []
            return after_N
        self._work(number + self.middle)
        after_N = self._merge(params_N)
        for machine, one in zip(self.race.machines, self._rounds, strict=True):
            if one is not None and machine.moves:
                one.place_N += after_N - one.start_N
                one.start_N = after_N
        self._work(number + 1)
        self._under_way = self._send(number)
        return after_N

    def finish(self, params_N: Tensor) -> Tensor:
        """The parameters with what is under way."""
        return self._merge(params_N)

    def _merge(self, params_N: Tensor) -> Tensor:
        if not self._under_way:
            return params_N
        if self.payroll is not None:
            self._pay(self.payroll, params_N)
        if any(machine.parts > 1 for machine in self.race.machines):
            after_N = merge_parts(self.rule, params_N, self._under_way)
        else:
            after_N = self.rule.step(params_N, self._under_way, self.race, self._last_N)
        self._look(params_N - after_N)
        self._last_N = params_N - after_N
        return after_N

    def _pay(self, payroll: Payroll, params_N: Tensor) -> None:
        """Scores what is under way, at the shared part of a payload's full step."""
        scored = self.workers.spec.evaluation.step_share * self.trial.outer_lr
        pages = self.trial.batch_pages * self.trial.inner_steps
        gains = payroll.window(
            self._under_way[0].window,
            params_N,
            {one.miner: scored * one.message.dense for one in self._under_way},
            {one.miner: round(one.claimed * pages) for one in self._under_way},
        )
        whole = [gains[m] for m in gains if self.race.machines[m].parts == 1]
        for one in self._under_way:
            if whole and self.race.machines[one.miner].parts > 1:
                share = gains[one.miner] * len(whole) / sum(whole)
                self._note(f"gain of part {one.part} over a whole one's", share)

    def _note(self, name: str, value: float) -> None:
        self._seen.setdefault(name, []).append(value)

    def _look(self, step_N: Tensor) -> None:
        """Notes the cosine of stale and of fresh payloads with the last step, and weights."""
        shares = self.rule.shares
        if shares is not None and len(shares) == len(self._under_way):
            for one, share in zip(self._under_way, shares, strict=True):
                self._note(f"share of miner {one.miner}", share / sum(shares))
        if self._last_N is not None:
            for one in self._under_way:
                kind = "stale" if one.staleness else "fresh"
                dense_N = one.message.dense
                cosine = float(torch.nn.functional.cosine_similarity(dense_N, self._last_N, dim=0))
                self._note(f"{kind} cosine with the last step", cosine)
                self._note(f"{kind} norm", float(dense_N.norm()))

    def _begin(self, number: int, params_N: Tensor) -> None:
        own = {one.miner: one.message for one in self._under_way}
        for miner, machine in enumerate(self.race.machines):
            if self._rounds[miner] is not None or not machine.starts_in(number):
                continue
            start_N = params_N.clone()
            if self.trial.eager and miner in own:
                start_N -= self.trial.outer_lr * self.trial.eager * own[miner].dense
            account = self.accounts[miner]
            before = account.rounds * machine.share
            after = before + machine.share
            steps = math.floor(after * self.trial.inner_steps + EPS) - math.floor(
                before * self.trial.inner_steps + EPS
            )
            account.rounds += 1
            self._rounds[miner] = Round(
                start_N=start_N,
                place_N=start_N.clone(),
                base=number,
                since=number,
                duration=machine.busy_windows,
                steps=steps,
                part=self._draw_part(number, miner, machine),
            )

    def _draw_part(self, number: int, miner: int, machine: Machine) -> int:
        return int(
            np.random.default_rng((7, self.trial.seed, miner, number)).integers(machine.parts)
        )

    def _work(self, time: float) -> None:
        for miner, (machine, one) in enumerate(zip(self.race.machines, self._rounds, strict=True)):
            if one is None:
                continue
            for step in range(one.step, one.due(time)):
                self._one_step(miner, machine, one, step)
            one.step = max(one.step, one.due(time))

    def _one_step(self, miner: int, machine: Machine, one: Round, step: int) -> None:
        account, inner = self.accounts[miner], self.trial.inner_steps
        pages = self.workers.draw(miner, account.trained // machine.width, machine.width)
        if machine.windows == 1 and machine.share == 1.0:
            lr = self.workers.inner_lr(one.base, step)
        else:
            moment = one.since + one.duration * step / one.steps
            lr = self.workers.inner_lr(int(moment), math.floor((moment % 1) * inner + EPS))
        lr *= machine.rate
        if machine.parts > 1:
            self.parts.step(one.place_N, miner, (one.part, machine.parts), pages, lr, step == 0)
        else:
            self.workers.step(one.place_N, miner, pages, lr)
        account.trained += machine.width
        account.busy += one.duration / one.steps

    def _send(self, number: int) -> list[Sent]:
        sent = []
        for miner, (machine, one) in enumerate(zip(self.race.machines, self._rounds, strict=True)):
            if one is None or one.step < one.steps or number < one.base + machine.windows - 1:
                continue
            delta_N, residual_N = one.start_N - one.place_N, self.rule.residual_RN[miner]
            if machine.parts > 1:
                message = send_part(
                    self.workers, delta_N, residual_N, (one.part, machine.parts), one.steps
                )
            else:
                message = self.codec.send(delta_N, residual_N, one.steps)
            claimed = machine.claimed * one.steps / self.trial.inner_steps
            sent.append(
                Sent(
                    miner=miner,
                    window=number,
                    base=one.base,
                    claimed=claimed,
                    message=message,
                    part=one.part,
                )
            )
            self._rounds[miner] = None
            self.accounts[miner].sent += machine.width * one.steps
            self.accounts[miner].payloads += 1
        return sent
