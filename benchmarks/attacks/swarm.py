"""A swarm of honest and dishonest miners, and validators who judge as the neurons do.

Miners wait for the update under way before their first step, so that there is no lag here.
Payloads, scoring, verdicts, votes, pay and outer step are the project's own functions.
Undefended: everything that can be decoded is applied by a plain mean, and paid alike; a
dishonest validator's word is the only one.

Legend: N parameters, R miners.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.attacks.actor import Actor, Malformed, View
from benchmarks.attacks.frames import frame_of
from benchmarks.attacks.model import LeanWorkers
from benchmarks.attacks.panel import Outcome, Panel, Sent, Setting
from benchmarks.attacks.trigger import success_rate
from benchmarks.learning.messages import Message, SparseCodec
from benchmarks.learning.strategies.mean import Mean
from benchmarks.learning.strategies.ours import Ours
from benchmarks.learning.strategy import LocalUpdate
from benchmarks.learning.trial import Trial
from benchmarks.learning.workers import FINAL_PAGES, Workers
from evaluation.history import Histories
from template.base.feedback import RETURNED_SHARE
from template.errors import PayloadError
from template.protocol.payload import PayloadFormat, decode_payload

SETTING = Setting()
LARGEST_PARAM = 8.0
"""A model beyond it is lost: nothing more is trained, and nobody paid."""
DIVERGED = 1e6
"""The loss of a model that has none, or a larger one; nats per byte."""


class Swarm:
    """One run; `play` is all of it. `rule`: of the step, if it is not to be the usual one."""

    make_workers: Callable[[Trial], LeanWorkers] = LeanWorkers

    def __init__(
        self,
        trial: Trial,
        roster: Sequence[Actor],
        *,
        defended: bool = True,
        rule: Callable[[Workers], LocalUpdate] | None = None,
        setting: Setting = SETTING,
    ) -> None:
        self.workers = self.make_workers(replace(trial, miners=len(roster)))
        self.trial, self.roster, self.defended = self.workers.trial, roster, defended
        ours = Ours(self.workers)
        self._rule: LocalUpdate = ours if defended else Mean(self.workers)
        if rule is not None:
            self._rule = rule(self.workers)
            ours = self._rule if isinstance(self._rule, Ours) else ours
        self._ours = ours
        self.panel = Panel(self.workers, ours, roster, setting)
        self._codec = SparseCodec(self.workers.space, trial.top_k, trial.decay, trial.bits)
        self._residual_RN = self._rule.zeros()
        self._thetas: list[Tensor] = []
        self._guesses = setting.guesses
        self._accepted: list[frozenset[int]] = []
        self._before_N = self.workers.theta0()
        self._state_before = ours.state
        self._last: dict[int, Message] = {}
        self._update_N = torch.zeros(self.workers.space.num_elements)

    @property
    def outcome(self) -> Outcome:
        return self.panel.outcome

    @property
    def histories(self) -> Histories:
        """What most validators remember."""
        return self.panel.histories

    def play(self) -> Outcome:
        params_N = self.run()
        loss = self.workers.held_out_loss(params_N, FINAL_PAGES // 2)
        self.outcome.held_out_loss = min(loss, DIVERGED) if math.isfinite(loss) else DIVERGED
        self.outcome.backdoor = success_rate(self.workers, params_N)
        return self.outcome

    def run(self) -> Tensor:
        """All windows; the parameters after the last one."""
        *_, params_N = self.windows()
        return params_N

    def windows(self) -> Iterator[Tensor]:
        """The parameters after each window."""
        params_N = self.workers.theta0()
        for number in range(self.trial.rounds):
            lost = not float(params_N.abs().max()) < LARGEST_PARAM
            if lost or self.outcome.stopped is not None:
                self.outcome.shares.append({})
            else:
                params_N = self._round(number, params_N)
            yield params_N

    def _round(self, number: int, params_N: Tensor) -> Tensor:
        oldest_base = max(actor.stale for actor in self.roster)
        self._thetas = [*self._thetas, params_N][-1 - oldest_base :]
        sent = self._through_the_door(number, *self._send(number, params_N))
        if self.outcome.stopped is not None:
            self.outcome.shares.append({})
            return params_N
        if self.defended:
            stepped = bool(self._accepted and self._accepted[-1])
            step_start_N = self._before_N if stepped else None
            named = self.panel.decide(number, params_N, sent, step_start_N)
        else:
            named = self.panel.obey(sent)
        if not named <= sent.messages.keys():
            self.outcome.stopped = number
            return params_N
        for uid, message in sent.messages.items():
            if uid in named:
                self.outcome.named[uid] = self.outcome.named.get(uid, 0) + 1
            elif self.roster[uid].feeds_back:
                self._residual_RN[uid] += RETURNED_SHARE * message.dense
        self._accepted = [*self._accepted, frozenset(named)][-2:]
        self._before_N, self._state_before = params_N, self._ours.state
        accepted = [sent.messages[uid] for uid in sorted(named)]
        alpha = self._ours.state_alpha
        self.outcome.alphas.append(alpha)
        after_N = self._rule.merge(params_N, accepted, alpha) if accepted else params_N
        self._ours.move_alpha(self.panel.pace)
        self._last, self._update_N = dict(sent.messages), params_N - after_N
        return after_N

    def _send(
        self, number: int, params_N: Tensor
    ) -> tuple[dict[int, Message], dict[int, np.ndarray]]:
        """Payloads and claimed pages of all miners, by uid."""
        messages: dict[int, Message] = {}
        consumed: dict[int, np.ndarray] = {}
        order = sorted(range(len(self.roster)), key=lambda uid: self.roster[uid].colludes)
        for uid in order:
            actor = self.roster[uid]
            view = self._view(number, uid, params_N, messages)
            consumed[uid] = actor.pages(self._assigned(number, uid, actor), view)
            residual_N = self._residual_RN[uid] if actor.feeds_back else torch.zeros_like(params_N)
            honest = self._codec.send(view.delta_N, residual_N, 1)
            message = actor.send(honest, view)
            if message is not None:
                messages[uid] = message
            elif actor.feeds_back:
                self._residual_RN[uid] += honest.dense
        return messages, consumed

    def _view(self, number: int, uid: int, params_N: Tensor, sent: Mapping[int, Message]) -> View:
        actor = self.roster[uid]
        rng = np.random.default_rng((self.trial.seed, number, uid))
        start_N = self._start(uid, self._thetas[max(0, len(self._thetas) - 1 - actor.stale)])
        end_N = self._trained(number, uid, start_N, rng)
        honest = {u: m for u, m in sent.items() if type(self.roster[u]) is Actor}
        return View(
            number=number,
            uid=uid,
            params_N=params_N,
            delta_N=start_N - end_N,
            last=self._last,
            update_N=self._update_N,
            honest_now=honest if actor.colludes else {},
            sent_now=dict(sent),
            workers=self.workers,
            codec=self._codec,
            rng=rng,
        )

    def _start(self, uid: int, params_N: Tensor) -> Tensor:
        """Where a miner starts that has the payloads under way, and not yet the votes on them."""
        if not self._guesses or len(self._accepted) < 2:
            return params_N
        expected, accepted = self._accepted[0] | {uid}, self._accepted[1]
        guess = sorted(expected & self._last.keys())
        if guess == sorted(accepted):
            return params_N
        messages = [self._last[each] for each in guess]
        return self._ours.foretell(self._state_before, self._before_N, messages)

    def _trained(self, number: int, uid: int, start_N: Tensor, rng: np.random.Generator) -> Tensor:
        actor, first = self.roster[uid], number * self.trial.inner_steps
        width = actor.width_in(number)
        steps = range(round(actor.share_in(number) * self.trial.inner_steps))
        sources = [actor.source(uid, step) for step in steps]
        batches = [
            actor.taken(self.workers.draw(whose, first + index, width), rng)
            for whose, index in sources
        ]
        rates = [self.workers.inner_lr(number, step) for step in steps]
        return self.workers.trained(start_N, uid, batches, rates)

    def _assigned(self, number: int, uid: int, actor: Actor) -> np.ndarray:
        """The pages that it claims, int64 [pages, tokens]: those its steps drew, or would have."""
        share = actor.share_in(number) if actor.claims is None else actor.claims
        first, width = number * self.trial.inner_steps, actor.width_in(number)
        steps = max(1, round(share * self.trial.inner_steps))
        return np.concatenate(
            [self.workers.draw(uid, first + step, width) for step in range(steps)]
        )

    def _through_the_door(
        self, number: int, messages: Mapping[int, Message], consumed: Mapping[int, np.ndarray]
    ) -> Sent:
        """Frames of those who damage theirs go through the project's decoder; undefended, through
        one without checks, which some of them stop.
        """
        passed, refused = dict(messages), {}
        for uid, message in messages.items():
            actor = self.roster[uid]
            if not isinstance(actor, Malformed):
                continue
            if self.defended:
                refused[uid] = self._refusal(number, actor, message)
                del passed[uid]
                continue
            dense_N = actor.unchecked(message)
            if dense_N is None:
                self.outcome.stopped = number
            else:
                passed[uid] = replace(message, dense=dense_N)
        keys = {uid: actor.hotkey(uid, number) for uid, actor in enumerate(self.roster)}
        return Sent(messages=passed, consumed=consumed, refused=refused, keys=keys)

    def _refusal(self, number: int, actor: Malformed, message: Message) -> str:
        """The decoder's reason; RuntimeError if it has none, since the suite knows of no such."""
        space = self.workers.space
        run_id, top_k = self.workers.spec.run_id, self.trial.top_k
        form = PayloadFormat(run_id=run_id, shapes=space.shapes, top_k=top_k)
        try:
            decode_payload(actor.damaged(frame_of(message, number, space, form), form), form)
        except PayloadError as error:
            return error.reason
        raise RuntimeError(f"{type(actor).__name__}: the decoder took a malformed payload")
