"""A swarm of honest and dishonest miners, and validators who judge as the neurons do.

Miners wait for the update under way before their first step, so that there is no lag here.
Payloads, scoring, verdicts, votes, pay and outer step are the project's own functions.
Undefended: everything that can be decoded is applied by a plain mean, and paid alike; a
dishonest validator's word is the only one.

Legend: N parameters, S sequences of the pool, R miners.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.attacks.actor import Actor, Malformed, View
from benchmarks.attacks.council import BURN_UID, NUM_VALIDATORS, Council, Pay, Scene, Validator
from benchmarks.attacks.frames import frame_of
from benchmarks.attacks.model import LeanWorkers
from benchmarks.attacks.trigger import success_rate
from benchmarks.learning.messages import Message, SparseCodec
from benchmarks.learning.strategies.mean import Mean
from benchmarks.learning.strategies.ours import Ours
from benchmarks.learning.trial import Trial
from benchmarks.learning.workers import FINAL_PAGES
from evaluation.history import Histories, remember, work_states
from evaluation.judge import Measured, judge
from evaluation.log import conclude
from evaluation.overlap import Bits, Earlier, place_bits, repeats
from evaluation.verdict import NOT_SCORED, Verdict
from evaluation.work import HELD_OUT
from template.base.scoring import pay_rules
from template.data.assignment import claimed_pages
from template.errors import PayloadError
from template.protocol.hashing import labelled_hash, uint_bytes
from template.protocol.payload import PayloadFormat, decode_payload
from template.protocol.quorum import QuorumRules

LARGEST_PARAM = 8.0
"""A model beyond it is lost: nothing more is trained, and nobody paid."""
DIVERGED = 1e6
"""The loss of a model that has none, or a larger one; nats per byte."""
CLAIMED_PAGES, WORK_EFFECT = 32, 0.25
"""The model is a sixth of the localnet's, and shows half of the effect."""


@dataclass(kw_only=True)
class Outcome:
    """`shares`: of miners' pay, by uid, in every window. `named`: windows in which a uid's
    payload was applied. `statuses`: of its verdicts, in order. `dividends`: validators' pay in
    their order, in every window. `backdoor`: success rate of the trigger. `stopped`: the window
    in which every node stopped for good, None if none did.
    """

    held_out_loss: float = math.nan
    backdoor: float = math.nan
    named: dict[int, int] = field(default_factory=dict)
    statuses: dict[int, list[str]] = field(default_factory=dict)
    shares: list[Mapping[int, float]] = field(default_factory=list)
    dividends: list[tuple[float, ...]] = field(default_factory=list)
    stopped: int | None = None


@dataclass(kw_only=True)
class Notebook:
    """What validators remember who see the same payloads."""

    histories: Histories = field(default_factory=dict)
    earlier: list[Earlier] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """One window's payloads by uid, the pages they claim, and why those were refused that are no
    payloads. `keys`: hotkey of every uid.
    """

    messages: Mapping[int, Message]
    consumed: Mapping[int, np.ndarray]
    refused: Mapping[int, str]
    keys: Mapping[int, str]


class Swarm:
    """One run; `play` is all of it. `dishonest`: the first validator, if it is, and `stake` its
    share of the voting stake.
    """

    def __init__(
        self,
        trial: Trial,
        roster: Sequence[Actor],
        *,
        defended: bool = True,
        dishonest: Validator | None = None,
        stake: float = 1 / NUM_VALIDATORS,
    ) -> None:
        self.workers = LeanWorkers(replace(trial, miners=len(roster)))
        self.trial, self.roster, self.defended = self.workers.trial, roster, defended
        self._ours = Ours(self.workers)
        self._rule = self._ours if defended else Mean(self.workers)
        self._codec = SparseCodec(self.workers.space, trial.top_k, trial.decay, trial.bits)
        self._evaluation = replace(
            self.workers.spec.evaluation, claimed_pages=CLAIMED_PAGES, work_effect=WORK_EFFECT
        )
        self._rules = pay_rules(replace(self.workers.spec, evaluation=self._evaluation))
        weights = replace(self._rules.weights, burn_uid=BURN_UID)
        self._rules = replace(self._rules, weights=weights)
        self._validators = [dishonest or Validator(), *([Validator()] * (NUM_VALIDATORS - 1))]
        self._dishonest = dishonest
        self._council = Council(len(roster), _quorum(self.workers), stake)
        self._hidden = [self._hidden_from(number) for number in range(NUM_VALIDATORS)]
        self._notebooks = {hidden: Notebook() for hidden in self._hidden}
        self._consensus: Mapping[int, float] = {}
        self._residual_RN = self._rule.zeros()
        self._thetas: list[Tensor] = []
        self._last: dict[int, Message] = {}
        self._update_N = torch.zeros(self.workers.space.num_elements)
        self.outcome = Outcome()

    @property
    def histories(self) -> Histories:
        """What the last validator remembers, and most of the others."""
        return self._notebooks[self._hidden[-1]].histories

    def play(self) -> Outcome:
        params_N = self.run()
        loss = self.workers.held_out_loss(params_N, FINAL_PAGES // 2)
        self.outcome.held_out_loss = min(loss, DIVERGED) if math.isfinite(loss) else DIVERGED
        self.outcome.backdoor = success_rate(self.workers, params_N)
        return self.outcome

    def run(self) -> Tensor:
        """All windows; the parameters after the last one."""
        params_N = self.workers.theta0()
        for number in range(self.trial.rounds):
            lost = not float(params_N.abs().max()) < LARGEST_PARAM
            if lost or self.outcome.stopped is not None:
                self.outcome.shares.append({})
                continue
            params_N = self._round(number, params_N)
        return params_N

    def _round(self, number: int, params_N: Tensor) -> Tensor:
        consumed: dict[int, np.ndarray] = {}
        messages: dict[int, Message] = {}
        self._thetas = [*self._thetas, params_N][-1 - self._oldest_base :]
        order = sorted(range(len(self.roster)), key=lambda uid: self.roster[uid].colludes)
        for uid in order:
            actor = self.roster[uid]
            view = self._view(number, uid, params_N, messages)
            own = self._assigned(number, uid, actor)
            consumed[uid] = actor.pages(own, view)
            residual_N = self._residual_RN[uid] if actor.feeds_back else torch.zeros_like(params_N)
            honest = self._codec.send(view.delta_N, residual_N, 1)
            message = actor.send(honest, view)
            if message is not None:
                messages[uid] = message
            elif actor.feeds_back:
                self._residual_RN[uid] += honest.dense
        sent = self._through_the_door(number, messages, consumed)
        if self.outcome.stopped is not None:
            self.outcome.shares.append({})
            return params_N
        named = self._decide(number, params_N, sent)
        if not named <= sent.messages.keys():
            self.outcome.stopped = number
            return params_N
        for uid, message in sent.messages.items():
            if uid not in named and self.roster[uid].feeds_back:
                self._residual_RN[uid] += message.dense
        self._count(named)
        accepted = [sent.messages[uid] for uid in sorted(named)]
        after_N = (
            self._rule.merge(params_N, accepted, self.trial.outer_lr) if accepted else params_N
        )
        self._last, self._update_N = dict(sent.messages), params_N - after_N
        return after_N

    @property
    def _oldest_base(self) -> int:
        return max(actor.stale for actor in self.roster)

    def _view(self, number: int, uid: int, params_N: Tensor, sent: Mapping[int, Message]) -> View:
        actor = self.roster[uid]
        rng = np.random.default_rng((self.trial.seed, number, uid))
        start_N = self._thetas[max(0, len(self._thetas) - 1 - actor.stale)]
        steps = range(round(actor.share_in(number) * self.trial.inner_steps))
        sources = [actor.source(uid, step) for step in steps]
        first = number * self.trial.inner_steps
        batches = [
            actor.taken(self.workers.draw(whose, first + index), rng) for whose, index in sources
        ]
        rates = [self.workers.inner_lr(number, step) for step in steps]
        end_N = self.workers.trained(start_N, uid, batches, rates)
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

    def _assigned(self, number: int, uid: int, actor: Actor) -> np.ndarray:
        """The pages that it claims, int64 [pages, tokens]: those its steps drew, or would have."""
        share = actor.share_in(number) if actor.claims is None else actor.claims
        first = number * self.trial.inner_steps
        steps = max(1, round(share * self.trial.inner_steps))
        return np.concatenate([self.workers.draw(uid, first + step) for step in range(steps)])

    def _through_the_door(
        self, number: int, messages: Mapping[int, Message], consumed: Mapping[int, np.ndarray]
    ) -> Sent:
        """Frames of those who damage theirs go through the project's decoder; undefended, through
        one without checks.
        """
        passed, refused = dict(messages), {}
        spec, space = self.workers.spec, self.workers.space
        form = PayloadFormat(run_id=spec.run_id, shapes=space.shapes, top_k=self.trial.top_k)
        for uid, message in messages.items():
            actor = self.roster[uid]
            if not isinstance(actor, Malformed):
                continue
            if not self.defended:
                dense_N = actor.unchecked(message)
                if dense_N is None:
                    self.outcome.stopped = number
                else:
                    passed[uid] = replace(message, dense=dense_N)
                continue
            try:
                decode_payload(actor.damaged(frame_of(message, number, space, form), form), form)
            except PayloadError as error:
                refused[uid] = error.reason
                del passed[uid]
        keys = {uid: actor.hotkey(uid, number) for uid, actor in enumerate(self.roster)}
        return Sent(messages=passed, consumed=consumed, refused=refused, keys=keys)

    def _decide(self, number: int, params_N: Tensor, sent: Sent) -> set[int]:
        """Uids whose payloads are applied, more than there are if one is missing everywhere; pays
        everybody for the window.
        """
        committed = frozenset(range(len(self.roster)))
        if not self.defended:
            delivered = frozenset(sent.messages)
            alike = dict.fromkeys(delivered, 1.0 / max(1, len(delivered)))
            scene = self._scene(delivered, alike, committed, delivered, alike)
            lead = self._validators[0]
            self.outcome.shares.append(lead.weighs(scene))
            return set(lead.names(scene))
        found = {
            hidden: self._found(number, params_N, _without(sent, hidden), book)
            for hidden, book in self._notebooks.items()
        }
        scenes = [
            self._scene(
                *found[hidden], committed, frozenset(sent.messages) - hidden, self._consensus
            )
            for hidden in self._hidden
        ]
        pairs = list(zip(self._validators, scenes, strict=True))
        pay = self._council.pay([validator.weighs(scene) for validator, scene in pairs])
        self._pay(pay)
        votes = [validator.names(scene) for validator, scene in pairs]
        return self._council.accepted(number, votes, committed)

    def _pay(self, pay: Pay) -> None:
        self._consensus = pay.consensus
        self.outcome.shares.append(pay.shares)
        self.outcome.dividends.append(pay.dividends)

    def _scene(
        self,
        named: frozenset[int],
        shares: Mapping[int, float],
        committed: frozenset[int],
        delivered: frozenset[int],
        seen: Mapping[int, float],
    ) -> Scene:
        friends = frozenset(uid for uid, actor in enumerate(self.roster) if actor.dishonest(0))
        return Scene(
            named=named,
            shares=shares,
            committed=committed,
            delivered=delivered,
            friends=friends,
            seen=seen,
        )

    def _found(
        self, number: int, params_N: Tensor, sent: Sent, book: Notebook
    ) -> tuple[frozenset[int], Mapping[int, float]]:
        """What an honest validator names, and its weights, from the payloads that it sees."""
        repeated = self._repeats(sent, book)
        measured = self._measure(number, params_N, sent, repeated)
        blanks = [self._blank(number, uid, sent, repeated) for uid in range(len(self.roster))]
        states = work_states(book.histories, self._rules.judge.work)
        verdicts = judge(blanks, measured, states, self._rules.judge)
        book.histories = remember(book.histories, number, verdicts, self._rules.length)
        uids = {key: uid for uid, key in sent.keys.items()}
        _, shares = conclude(book.histories, number, uids, self._rules)
        for verdict in verdicts if book is self._notebooks[self._hidden[-1]] else ():
            self.outcome.statuses.setdefault(verdict.uid, []).append(verdict.status)
        named = frozenset(verdict.uid for verdict in verdicts if verdict.named)
        self._remember_places(number, sent, named, book)
        return named, shares

    def _measure(self, number: int, params_N: Tensor, sent: Sent, repeated: set[int]) -> Measured:
        evaluation = self._evaluation
        seed = labelled_hash("attacks", uint_bytes(self.trial.seed), uint_bytes(number))
        pages, owners = [self.workers.scoring_pages(number)], [HELD_OUT] * evaluation.held_out_pages
        for uid in sent.messages:
            consumed = sent.consumed[uid]
            places = claimed_pages(seed, np.arange(len(consumed)), evaluation.claimed_pages)
            pages.append(consumed[places])
            owners += [uid] * places.size
        pool = np.concatenate(pages)
        alpha, share = self.trial.outer_lr, evaluation.step_share
        beside = list(sent.messages.values())
        return Measured(
            owners_S=np.array(owners),
            before_S=self.workers.losses(params_N, pool),
            after_S={
                uid: self.workers.losses(
                    params_N - self._ours.scored(message, beside, alpha, share), pool
                )
                for uid, message in sent.messages.items()
                if uid not in repeated
            },
        )

    def _repeats(self, sent: Sent, book: Notebook) -> set[int]:
        bits = {uid: self._bits(message) for uid, message in sent.messages.items()}
        return set(repeats(bits, sent.keys, book.earlier, self._evaluation.max_overlap))

    def _bits(self, message: Message) -> Bits:
        places = message.dense.nonzero()[:, 0].numpy()
        return place_bits([(0, places)], self.workers.space.num_elements)

    def _remember_places(
        self, number: int, sent: Sent, named: frozenset[int], book: Notebook
    ) -> None:
        oldest = number - self.workers.spec.outer.max_staleness - 2
        book.earlier = [e for e in book.earlier if e.window >= oldest]
        book.earlier += [
            Earlier(window=number, author=sent.keys[uid], bits=self._bits(m), named=uid in named)
            for uid, m in sent.messages.items()
        ]

    def _blank(self, number: int, uid: int, sent: Sent, repeated: set[int]) -> Verdict:
        status = "overlap" if uid in repeated else NOT_SCORED
        if uid not in sent.messages:
            status = sent.refused.get(uid, "not_delivered")
        return Verdict(
            window=number,
            uid=uid,
            hotkey=sent.keys[uid],
            digest="",
            status=status,
            pages_consumed=len(sent.consumed[uid]),
        )

    def _hidden_from(self, validator: int) -> frozenset[int]:
        """Uids whose payloads this validator cannot fetch."""
        seen_by = {uid: actor.seen_by for uid, actor in enumerate(self.roster)}
        return frozenset(
            uid for uid, seen in seen_by.items() if seen is not None and validator not in seen
        )

    def _count(self, uids: Iterable[int]) -> None:
        for uid in uids:
            self.outcome.named[uid] = self.outcome.named.get(uid, 0) + 1


def _without(sent: Sent, hidden: frozenset[int]) -> Sent:
    """What a validator sees who cannot fetch the hidden ones' payloads."""
    if not hidden:
        return sent
    seen = {uid: message for uid, message in sent.messages.items() if uid not in hidden}
    return replace(sent, messages=seen)


def _quorum(workers: LeanWorkers) -> QuorumRules:
    outer = workers.spec.outer
    return QuorumRules(
        peers_per_step=outer.peers_per_step,
        min_quorum_percent=outer.min_quorum_percent,
        quorum_windows=outer.quorum_windows,
    )
