"""A swarm's validators: what they see, measure, remember, name and weigh.

Honest ones who see the same payloads come to the same, so that is worked out once. Undefended:
the first validator's word is the only one, and nothing is measured.

Legend: N parameters, S sequences of the pool.
"""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from benchmarks.attacks.actor import Actor
from benchmarks.attacks.council import BURN_UID, NUM_VALIDATORS, Council, Scene, Validator
from benchmarks.attacks.model import LeanWorkers
from benchmarks.learning.judge import measure
from benchmarks.learning.messages import Message
from benchmarks.learning.strategies.ours import Ours
from evaluation.conclusion import Registered, reputations_and_weights
from evaluation.history import Histories, add_window, mark_undelivered, past_of
from evaluation.judge import Measured, judge
from evaluation.overlap import Earlier, Places, find_overlaps, kept_positions, mark_applied
from evaluation.pace import Paces, add_pace, pace_of, pace_sample
from evaluation.verdict import NAMED, NOT_SCORED, Verdict
from evaluation.work import HELD_OUT
from template.data.assignment import claimed_pages
from template.protocol.hashing import labelled_hash, uint_bytes
from template.scoring.rules import looked_at, pay_rules

CLAIMED_PAGES, WORK_EFFECT = 96, 0.25
"""The model is a sixth of the localnet's, and shows half of the effect."""


@dataclass(kw_only=True)
class Outcome:
    """`shares`: of miners' pay, by uid, in every window. `named`: windows in which a uid's
    payload was applied. `statuses`: of its verdicts, in order. `dividends`: validators' pay in
    their order, in every window. `backdoor`: success rate of the trigger. `stopped`: the window
    in which every node stopped for good, None if none did. `verdicts`: of the last validator,
    window by window. `alphas`: of the step of every window.
    """

    held_out_loss: float = math.nan
    backdoor: float = math.nan
    named: dict[int, int] = field(default_factory=dict)
    statuses: dict[int, list[str]] = field(default_factory=dict)
    verdicts: list[Sequence[Verdict]] = field(default_factory=list)
    shares: list[Mapping[int, float]] = field(default_factory=list)
    dividends: list[tuple[float, ...]] = field(default_factory=list)
    stopped: int | None = None
    alphas: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """One window's payloads by uid, the pages they claim, and why those were refused that are no
    payloads. `keys`: hotkey of every uid.
    """

    messages: Mapping[int, Message]
    consumed: Mapping[int, np.ndarray]
    refused: Mapping[int, str]
    keys: Mapping[int, str]


@dataclass(kw_only=True)
class Notebook:
    """The memory of the validators without access to the payloads of the uids `hidden`."""

    hidden: frozenset[int]
    histories: Histories = field(default_factory=dict)
    paces: Paces = field(default_factory=dict)
    earlier: list[Earlier] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """An honest validator's verdicts, shares of pay and vote on alpha in a window."""

    verdicts: Sequence[Verdict]
    shares: Mapping[int, float]
    pace: int = 0

    @property
    def named(self) -> frozenset[int]:
        return frozenset(verdict.uid for verdict in self.verdicts if verdict.named)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """How a swarm is played.

    `refuses`: False names whatever can be decoded, after measuring. `guesses`: miners start from
    the update that they expect, by what was accepted last, as the neurons do; otherwise from the
    update itself. `paced`: validators move alpha by their votes, as the neurons do. `dishonest`:
    the first validator, if it is, and `stake` its share of the voting stake.
    """

    claimed_pages: int = CLAIMED_PAGES
    work_effect: float = WORK_EFFECT
    refuses: bool = True
    guesses: bool = False
    paced: bool = True
    dishonest: Validator | None = None
    stake: float = 1 / NUM_VALIDATORS


class Panel:
    """The validators of one run; `outcome` holds the result."""

    def __init__(
        self,
        workers: LeanWorkers,
        ours: Ours,
        roster: Sequence[Actor],
        setting: Setting,
    ) -> None:
        self.outcome, self._setting = Outcome(), setting
        self._workers, self._ours, self._roster = workers, ours, roster
        evaluation = replace(
            workers.spec.evaluation,
            claimed_pages=setting.claimed_pages,
            work_effect=setting.work_effect,
        )
        self._spec = replace(workers.spec, evaluation=evaluation)
        self._rules = pay_rules(self._spec)
        self._validators = [
            setting.dishonest or Validator(),
            *([Validator()] * (NUM_VALIDATORS - 1)),
        ]
        self._council = Council(len(roster), self._spec.outer.quorum_rules(), setting.stake)
        hidden = [_hidden_from(number, roster) for number in range(NUM_VALIDATORS)]
        alike = {uids: Notebook(hidden=uids) for uids in hidden}
        self.notebooks = [alike[uids] for uids in hidden]
        self._consensus: Mapping[int, float] = {}
        self._step_start_N: Tensor | None = None
        self.pace = 0
        """The move of alpha by the last decision."""

    @property
    def histories(self) -> Histories:
        """What the last validator remembers, and most of the others."""
        return self.notebooks[-1].histories

    def decide(
        self, number: int, params_N: Tensor, sent: Sent, step_start_N: Tensor | None = None
    ) -> set[int]:
        """Uids whose payloads are to be applied, or that nobody has; pays for the window.

        `step_start_N`: the parameters before the last step, if that step applied a payload.
        """
        is_voting = self._setting.paced and number < self._spec.outer.alpha_windows
        self._step_start_N = step_start_N if is_voting else None
        found: dict[frozenset[int], Finding] = {}
        for book in self.notebooks:
            if book.hidden not in found:
                found[book.hidden] = self._find(number, params_N, sent, book)
        findings = [found[book.hidden] for book in self.notebooks]
        self.outcome.verdicts.append(findings[-1].verdicts)
        for verdict in findings[-1].verdicts:
            self.outcome.statuses.setdefault(verdict.uid, []).append(verdict.status)
        scenes = [
            self._scene(finding, sent.messages.keys() - book.hidden, sent.refused.keys())
            for finding, book in zip(findings, self.notebooks, strict=True)
        ]
        pairs = list(zip(self._validators, scenes, strict=True))
        pay = self._council.pay([validator.weighs(scene) for validator, scene in pairs])
        self._consensus = pay.consensus
        self.outcome.shares.append(pay.shares)
        self.outcome.dividends.append(pay.dividends)
        named = [validator.names(scene) for validator, scene in pairs]
        missing = [validator.misses(scene) for validator, scene in pairs]
        paces = [finding.pace for finding in findings]
        decision = self._council.decide(number, named, missing, paces, scenes[0].committed)
        self.pace = decision.pace
        accepted = {member.uid for member in decision.members}
        lost = [sent.keys[member.uid] for member in decision.undelivered]
        for book in {id(book): book for book in self.notebooks}.values():
            book.histories = mark_undelivered(book.histories, number, lost)
            book.earlier = mark_applied(book.earlier, number, {sent.keys[uid] for uid in accepted})
        return accepted

    def obey(self, sent: Sent) -> set[int]:
        """`decide` where the first validator's word is all, and it takes whatever comes."""
        alike = dict.fromkeys(sent.messages, 1.0 / max(1, len(sent.messages)))
        named = [_verdict(0, uid, sent, "named") for uid in sent.messages]
        scene = self._scene(Finding(verdicts=named, shares=alike), sent.messages.keys(), ())
        self.outcome.shares.append(self._validators[0].weighs(scene))
        return set(self._validators[0].names(scene))

    def _scene(self, finding: Finding, delivered: Iterable[int], refused: Iterable[int]) -> Scene:
        committed = frozenset(range(len(self._roster)))
        return Scene(
            named=finding.named,
            shares=finding.shares,
            committed=committed,
            delivered=frozenset(delivered),
            missing=committed.difference(delivered, refused),
            friends=frozenset(uid for uid, a in enumerate(self._roster) if a.dishonest(0)),
            seen=self._consensus,
        )

    def _find(self, number: int, params_N: Tensor, sent: Sent, book: Notebook) -> Finding:
        seen = {uid: m for uid, m in sent.messages.items() if uid not in book.hidden}
        sent = replace(sent, messages=seen)
        places = {uid: self._places(message) for uid, message in seen.items()}
        limit = self._spec.evaluation.max_overlap
        overlaps = find_overlaps(places, sent.keys, book.earlier, limit)
        repeated = overlaps.repeats.keys()
        measured = self._measure(number, params_N, sent, repeated)
        blanks = [
            replace(
                _verdict(number, uid, sent, "overlap" if uid in repeated else NOT_SCORED),
                alike=overlaps.alike.get(uid, ()),
                width=actor.width_in(number),
            )
            for uid, actor in enumerate(self._roster)
        ]
        past = past_of(book.histories, self._rules.judge)
        verdicts = judge(blanks, measured, past, self._rules.judge)
        if not self._setting.refuses:
            verdicts = tuple(replace(v, status=NAMED) if v.measured else v for v in verdicts)
        book.histories = add_window(book.histories, number, verdicts, self._rules.length)
        uids = {key: uid for uid, key in sent.keys.items()}
        registered = Registered(uids=uids, burn_uid=BURN_UID)
        _, shares = reputations_and_weights(book.histories, number, registered, self._rules)
        sample = pace_sample(self._ours.state.exponent, measured)
        book.paces = add_pace(book.paces, number, sample, self._rules.length)
        finding = Finding(verdicts=verdicts, shares=shares, pace=pace_of(book.paces))
        oldest = number - self._spec.outer.max_staleness - 2
        book.earlier = [e for e in book.earlier if e.window >= oldest] + [
            Earlier(window=number, author=sent.keys[uid], places=places[uid], applied=False)
            for uid in seen
        ]
        return finding

    def _measure(self, number: int, params_N: Tensor, sent: Sent, repeated: Set[int]) -> Measured:
        evaluation, trial = self._spec.evaluation, self._workers.trial
        seed = labelled_hash("attacks", uint_bytes(trial.seed), uint_bytes(number))
        pages = [self._workers.scoring_pages(number)]
        owners = [HELD_OUT] * evaluation.held_out_pages
        for uid in sent.messages:
            consumed = sent.consumed[uid]
            places = claimed_pages(
                seed,
                np.arange(len(consumed)),
                looked_at(evaluation, self._roster[uid].width_in(number)),
                self._spec.data.segment_pages,
            )
            pages.append(consumed[places])
            owners += [uid] * places.size
        beside = list(sent.messages.values())
        steps = {
            uid: self._ours.scored(message, beside, self._ours.state_alpha, evaluation.step_share)
            for uid, message in sent.messages.items()
            if uid not in repeated
        }
        pool, owners_S = np.concatenate(pages), np.array(owners)
        return measure(self._workers, params_N, pool, owners_S, steps, self._step_start_N)

    def _places(self, message: Message) -> Places:
        places = message.dense.nonzero()[:, 0].numpy()
        return kept_positions([(0, places)], self._workers.space.num_elements)


def _verdict(number: int, uid: int, sent: Sent, status: str) -> Verdict:
    """Before its figures; who sent nothing that can be scored is told why."""
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


def _hidden_from(validator: int, roster: Sequence[Actor]) -> frozenset[int]:
    """Uids whose payloads this validator cannot fetch."""
    seen_by = {uid: actor.seen_by for uid, actor in enumerate(roster)}
    return frozenset(
        uid for uid, seen in seen_by.items() if seen is not None and validator not in seen
    )
