"""A swarm of honest and dishonest miners, and validators who judge as the neurons do.

Miners wait for the update under way before their first step, so that there is no lag here.
Payloads, scoring, verdicts, pay and outer step are the project's own functions. Undefended:
everything that can be decoded is applied by a plain mean, and paid alike.

Legend: N parameters, S sequences of the pool, R miners.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.attacks.actor import Actor, View
from benchmarks.learning.messages import Message, SparseCodec
from benchmarks.learning.strategies.mean import Mean
from benchmarks.learning.strategies.ours import Ours
from benchmarks.learning.strategy import LocalUpdate
from benchmarks.learning.trial import Trial
from benchmarks.learning.workers import FINAL_PAGES, Workers
from evaluation.history import Histories, remember, work_states
from evaluation.judge import Measured, judge
from evaluation.log import conclude
from evaluation.overlap import Bits, Earlier, place_bits, repeats
from evaluation.verdict import NOT_SCORED, Verdict
from evaluation.work import HELD_OUT
from template.base.scoring import pay_rules
from template.data.assignment import claimed_pages
from template.protocol.hashing import labelled_hash, uint_bytes

BURN_UID = 255
LARGEST_PARAM = 8.0
"""A model beyond it is lost: nothing more is trained, and nobody paid."""
DIVERGED = 1e6
"""The loss of a model that has none, or a larger one; nats per byte."""
CLAIMED_PAGES, WORK_EFFECT = 32, 0.25
"""The model is a sixth of the localnet's, and shows half of the effect."""


@dataclass(kw_only=True)
class Outcome:
    """`shares`: of the weights, by uid, in every window. `named`: windows in which a uid's
    payload was applied. `statuses`: of its verdicts, in order.
    """

    held_out_loss: float = math.nan
    named: dict[int, int] = field(default_factory=dict)
    statuses: dict[int, list[str]] = field(default_factory=dict)
    shares: list[Mapping[int, float]] = field(default_factory=list)


class Swarm:
    """One run; `play` is all of it. `rule`: of the step, if it is not to be the usual one."""

    def __init__(
        self,
        trial: Trial,
        roster: Sequence[Actor],
        *,
        defended: bool = True,
        rule: Callable[[Workers], LocalUpdate] | None = None,
    ) -> None:
        self.workers = Workers(replace(trial, miners=len(roster)))
        self.trial, self.roster, self.defended = self.workers.trial, roster, defended
        self._ours = Ours(self.workers)
        self._rule: LocalUpdate = self._ours if defended else Mean(self.workers)
        if rule is not None:
            self._rule = rule(self.workers)
            self._ours = self._rule if isinstance(self._rule, Ours) else self._ours
        self._codec = SparseCodec(self.workers.space, trial.top_k, trial.decay, trial.bits)
        self._evaluation = replace(
            self.workers.spec.evaluation, claimed_pages=CLAIMED_PAGES, work_effect=WORK_EFFECT
        )
        self._rules = pay_rules(replace(self.workers.spec, evaluation=self._evaluation))
        weights = replace(self._rules.weights, burn_uid=BURN_UID)
        self._rules = replace(self._rules, weights=weights)
        self._residual_RN = self._rule.zeros()
        self.histories: Histories = {}
        self._earlier: list[Earlier] = []
        self._last: dict[int, Message] = {}
        self._update_N = torch.zeros(self.workers.space.num_elements)
        self.outcome = Outcome()

    def play(self) -> Outcome:
        params_N = self.workers.theta0()
        for number in range(self.trial.rounds):
            if not float(params_N.abs().max()) < LARGEST_PARAM:
                self.outcome.shares.append({})
                continue
            params_N = self._round(number, params_N)
        loss = self.workers.held_out_loss(params_N, FINAL_PAGES // 2)
        self.outcome.held_out_loss = min(loss, DIVERGED) if math.isfinite(loss) else DIVERGED
        return self.outcome

    def _round(self, number: int, params_N: Tensor) -> Tensor:
        consumed: dict[int, np.ndarray] = {}
        sent: dict[int, Message] = {}
        order = sorted(range(len(self.roster)), key=lambda uid: self.roster[uid].colludes)
        for uid in order:
            actor = self.roster[uid]
            view = self._view(number, uid, params_N, sent)
            own = self._assigned(number, uid, actor)
            consumed[uid] = actor.pages(own, view)
            residual_N = self._residual_RN[uid] if actor.feeds_back else torch.zeros_like(params_N)
            honest = self._codec.send(view.delta_N, residual_N, 1)
            message = actor.send(honest, view)
            if message is not None:
                sent[uid] = message
            elif actor.feeds_back:
                self._residual_RN[uid] += honest.dense
        named = self._judge(number, params_N, sent, consumed)
        for uid, message in sent.items():
            if uid not in named and self.roster[uid].feeds_back:
                self._residual_RN[uid] += message.dense
        accepted = [sent[uid] for uid in sorted(named)]
        after_N = (
            self._rule.merge(params_N, accepted, self.trial.outer_lr) if accepted else params_N
        )
        self._last, self._update_N = sent, params_N - after_N
        return after_N

    def _view(self, number: int, uid: int, params_N: Tensor, sent: Mapping[int, Message]) -> View:
        actor, steps = self.roster[uid], self._steps(self.roster[uid])
        place_N = params_N.clone()
        for step in range(steps):
            whose, index = actor.source(uid, step)
            pages = self.workers.draw(whose, number * self.trial.inner_steps + index)
            self.workers.step(place_N, uid, pages, self.workers.inner_lr(number, step))
        honest = {u: m for u, m in sent.items() if type(self.roster[u]) is Actor}
        return View(
            number=number,
            uid=uid,
            params_N=params_N,
            delta_N=params_N - place_N,
            last=self._last,
            update_N=self._update_N,
            honest_now=honest if actor.colludes else {},
            sent_now=dict(sent),
            workers=self.workers,
            codec=self._codec,
            rng=np.random.default_rng((self.trial.seed, number, uid)),
        )

    def _steps(self, actor: Actor) -> int:
        return round(actor.share * self.trial.inner_steps)

    def _assigned(self, number: int, uid: int, actor: Actor) -> np.ndarray:
        """The pages that it claims, int64 [pages, tokens]: those its steps drew, or would have."""
        share = actor.share if actor.claims is None else actor.claims
        first = number * self.trial.inner_steps
        steps = max(1, round(share * self.trial.inner_steps))
        return np.concatenate([self.workers.draw(uid, first + step) for step in range(steps)])

    def _judge(
        self,
        number: int,
        params_N: Tensor,
        sent: Mapping[int, Message],
        consumed: Mapping[int, np.ndarray],
    ) -> set[int]:
        """Uids whose payloads are applied; pays everybody for the window."""
        if not self.defended:
            self.outcome.shares.append(dict.fromkeys(sent, 1.0 / max(1, len(sent))))
            self._count(sent)
            return set(sent)
        evaluation = self._evaluation
        seed = labelled_hash("attacks", uint_bytes(self.trial.seed), uint_bytes(number))
        pages, owners = [self.workers.scoring_pages(number)], [HELD_OUT] * evaluation.held_out_pages
        for uid in sent:
            count = evaluation.claimed_pages
            places = claimed_pages(seed, np.arange(len(consumed[uid])), count)
            pages.append(consumed[uid][places])
            owners += [uid] * places.size
        pool = np.concatenate(pages)
        repeated = self._repeats(sent)
        alpha, share = self.trial.outer_lr, evaluation.step_share
        measured = Measured(
            owners_S=np.array(owners),
            before_S=self.workers.losses(params_N, pool),
            after_S={
                uid: self.workers.losses(
                    params_N - self._ours.scored(message, sent.values(), alpha, share), pool
                )
                for uid, message in sent.items()
                if uid not in repeated
            },
        )
        blanks = [
            self._blank(number, uid, uid in sent, uid in repeated)
            for uid in range(len(self.roster))
        ]
        states = work_states(self.histories, self._rules.judge.work)
        verdicts = judge(blanks, measured, states, self._rules.judge)
        self.histories = remember(self.histories, number, verdicts, self._rules.length)
        uids = {str(uid): uid for uid in range(len(self.roster))}
        _, shares = conclude(self.histories, number, uids, self._rules)
        self.outcome.shares.append(shares)
        for verdict in verdicts:
            self.outcome.statuses.setdefault(verdict.uid, []).append(verdict.status)
        named = {verdict.uid for verdict in verdicts if verdict.named}
        self._count(named)
        self._remember_places(number, sent, named)
        return named

    def _repeats(self, sent: Mapping[int, Message]) -> set[int]:
        bits = {uid: self._bits(message) for uid, message in sent.items()}
        authors = {uid: str(uid) for uid in sent}
        return set(repeats(bits, authors, self._earlier, self._evaluation.max_overlap))

    def _bits(self, message: Message) -> Bits:
        places = message.dense.nonzero()[:, 0].numpy()
        return place_bits([(0, places)], self.workers.space.num_elements)

    def _remember_places(self, number: int, sent: Mapping[int, Message], named: set[int]) -> None:
        oldest = number - self.workers.spec.outer.max_staleness - 2
        self._earlier = [e for e in self._earlier if e.window >= oldest]
        self._earlier += [
            Earlier(window=number, author=str(uid), bits=self._bits(m), named=uid in named)
            for uid, m in sent.items()
        ]

    def _blank(self, number: int, uid: int, delivered: bool, repeated: bool) -> Verdict:
        status = "overlap" if repeated else NOT_SCORED if delivered else "not_delivered"
        return Verdict(window=number, uid=uid, hotkey=str(uid), digest="", status=status)

    def _count(self, uids: Iterable[int]) -> None:
        for uid in uids:
            self.outcome.named[uid] = self.outcome.named.get(uid, 0) + 1
