"""One window as all validators together tell it: who says what of a payload, and by what stake.

Pure. Validators away from the majority's root measured another model, so their word counts for
nothing where others have spoken.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from evaluation.rules import PayRules
from evaluation.verdict import MISSING, NOT_DRAWN, NOT_SCORED, Verdict
from template.public.books import Book, open_book
from template.public.causes import told_status
from template.public.facts import Judgement, LogState, ReadLog, RunFacts, WindowFacts
from template.public.statements import ValidatorRow
from template.scoring.rules import pay_rules

UNTOLD = (NOT_SCORED, NOT_DRAWN, "unheard_of")
"""Statuses that do not say whether the payload could be fetched."""


class RunView:
    """The facts of a run with each validator's book, opened once."""

    def __init__(self, facts: RunFacts) -> None:
        self.facts = facts
        self._books: dict[str, Book] = {}
        self._views: dict[int, WindowView] = {}

    @cached_property
    def validators(self) -> frozenset[str]:
        """Hotkeys that act as validators: with a vote, a log or weights in these facts.

        A permit alone says nothing: a miner gets one for the alpha that it has earned.
        """
        facts, windows = self.facts, self.facts.windows.values()
        acting = {vote.hotkey for window in windows for vote in window.votes}
        acting |= {hotkey for window in windows for hotkey in window.judgements()}
        permitted = facts.subnet.validators()
        acting |= {n.hotkey for n in permitted if facts.subnet.weights.get(n.uid)}
        return frozenset(acting or {neuron.hotkey for neuron in permitted})

    def rules(self, window: int) -> PayRules:
        """The rules of scoring and pay of a window."""
        return pay_rules(self.facts.run.at(window))

    def book(self, validator: str) -> Book:
        if validator not in self._books:
            logs = (w.judgements().get(validator) for w in self.facts.windows.values())
            found = [judgement for judgement in logs if judgement is not None]
            self._books[validator] = open_book(found, self.rules)
        return self._books[validator]

    def paid_uid(self, judgement: Judgement, hotkey: str) -> int | None:
        """The uid that a log pays a hotkey at; None where it pays the hotkey nothing.

        By the log's own map: a uid of another time may be another hotkey's. The owner's hotkey has
        the uid that the log burns at.
        """
        if self.holds(hotkey, judgement.burn_uid) and judgement.burn_uid == self.owner_uid:
            return judgement.burn_uid
        return judgement.uids.get(hotkey)

    def share_of(self, judgement: Judgement, hotkey: str) -> float:
        """A hotkey's share of the pay by a log."""
        uid = self.paid_uid(judgement, hotkey)
        return 0.0 if uid is None else judgement.shares.get(uid, 0.0)

    @property
    def owner_uid(self) -> int | None:
        return self.facts.subnet.owner_uid

    def holds(self, hotkey: str, uid: int | None) -> bool:
        """Whether a uid is a hotkey's now: uids are given to newcomers again."""
        neuron = self.facts.subnet.neurons.get(hotkey)
        return neuron is not None and neuron.uid == uid

    def window(self, window: int) -> "WindowView":
        if window not in self._views:
            self._views[window] = WindowView(self, self.facts.windows[window])
        return self._views[window]


@dataclass(frozen=True)
class WindowView:
    """One window. Not slotted: the cached properties lie in its dictionary."""

    run: RunView
    facts: WindowFacts

    @cached_property
    def stakes_rao(self) -> dict[str, int]:
        """Validator's hotkey -> stake, of the votes if they are known, else of now."""
        voters = {vote.hotkey: vote.stake_rao for vote in self.facts.votes}
        permitted = self.run.facts.subnet.validators()
        now = {n.hotkey: n.stake_rao for n in permitted if n.hotkey in self.run.validators}
        return {**now, **voters}

    @cached_property
    def judgements(self) -> Mapping[str, Judgement]:
        """Of validators with the majority, most stake first; of all where none of those has one."""
        found = self.facts.judgements()
        agreeing = {h: j for h, j in found.items() if self._agrees(h)}
        chosen = agreeing or found
        order = sorted(chosen, key=lambda h: (-self.stakes_rao.get(h, 0), h))
        return {hotkey: chosen[hotkey] for hotkey in order}

    def _agrees(self, hotkey: str) -> bool:
        vote = self.facts.vote_of(hotkey)
        return vote is None if not self.facts.votes else vote is not None and vote.agrees

    @cached_property
    def reference(self) -> str | None:
        """The validator whose log the payslip follows: the most stake, and a book without gaps."""
        whole = [h for h in self.judgements if self.window in self.run.book(h).pages]
        return next(iter(whole), next(iter(self.judgements), None))

    @property
    def window(self) -> int:
        return self.facts.window

    def verdicts(self, uid: int) -> dict[str, Verdict]:
        """Validator's hotkey -> verdict on the payload of a uid."""
        return {h: j.verdicts[uid] for h, j in self.judgements.items() if uid in j.verdicts}

    def status(self, uid: int) -> str | None:
        """The status with most stake behind it; a validator that could not tell counts last.

        "unheard_of" for words that are no status of a verdict.
        """
        weighted: dict[str, int] = defaultdict(int)
        for hotkey, verdict in self.verdicts(uid).items():
            weighted[told_status(verdict.status)] += self.stakes_rao.get(hotkey, 0)
        if not weighted:
            return None
        return max(weighted, key=lambda s: (s not in UNTOLD, weighted[s], s))

    def speaker(self, uid: int) -> Verdict | None:
        """The verdict with that status of the validator with most stake; the reference's first."""
        found, status = self.verdicts(uid), self.status(uid)
        reference = self.reference
        if reference in found and told_status(found[reference].status) == status:
            return found[reference]
        return next((v for v in found.values() if told_status(v.status) == status), None)

    def committed_uid(self, hotkey: str) -> int | None:
        """The uid with a payload of this hotkey on chain; by the logs where the chain forgot."""
        for uid, member in self.facts.committed.items():
            if member.hotkey == hotkey:
                return uid
        if self.facts.committed or self.facts.votes:
            return None
        for judgement in self.judgements.values():
            for uid, verdict in judgement.verdicts.items():
                if verdict.hotkey == hotkey:
                    return uid
        return None

    def stake_naming(self, uid: int) -> int:
        return sum(v.stake_rao for v in self.facts.votes if v.agrees and uid in v.named)

    def stake_missing(self, uid: int) -> int:
        votes = (v for v in self.facts.votes if v.agrees)
        return sum(v.stake_rao for v in votes if uid in v.missing and uid not in v.named)

    def rows(self, uid: int | None, hotkey: str = "") -> tuple[ValidatorRow, ...]:
        """Every validator on the payload of a hotkey at a uid, most stake first."""
        subnet, total = self.run.facts.subnet, sum(self.stakes_rao.values())
        uids = {neuron.hotkey: neuron.uid for neuron in subnet.neurons.values()}
        uids |= {vote.hotkey: vote.uid for vote in self.facts.votes}
        order = sorted(self.stakes_rao, key=lambda h: (-self.stakes_rao[h], h))
        told = (self._row(uid, h, uids[h], total) for h in order if h in uids)
        return tuple(told if uid is None else (self._with_pay(row, uid, hotkey) for row in told))

    def _with_pay(self, row: ValidatorRow, uid: int, miner: str) -> ValidatorRow:
        """With a miner's share by the validator's log, and its weight by the validator now.

        Without weight where the validator's or the miner's uid is another hotkey's by now.
        """
        run, judgement = self.run, self.facts.judgements().get(row.hotkey)
        weights = run.facts.subnet.weights.get(row.uid)
        is_of_now = run.holds(miner, uid) and run.holds(row.hotkey, row.uid)
        return replace(
            row,
            logged_share=None if judgement is None else run.share_of(judgement, miner),
            weight=weights.get(uid, 0.0) if weights and is_of_now else None,
        )

    def _row(self, uid: int | None, hotkey: str, validator_uid: int, total: int) -> ValidatorRow:
        """Without pay, which is the miner's and not the uid's."""
        read = self.facts.logs.get(hotkey, ReadLog(state=LogState.NOT_ASKED))
        judgement = read.judgement if read.state.counts else None
        verdict = None if judgement is None or uid is None else judgement.verdicts.get(uid)
        return ValidatorRow(
            uid=validator_uid,
            hotkey=hotkey,
            stake_share=self.stakes_rao[hotkey] / total if total else 0.0,
            vote=self._vote_on(uid, hotkey),
            log=read.state.value,
            log_detail=read.detail,
            fetched=self._fetched(uid, hotkey, verdict),
            status="" if verdict is None else told_status(verdict.status),
            detail="" if verdict is None else verdict.detail,
            gain=None if verdict is None else verdict.gain,
            gain_error=None if verdict is None else verdict.gain_standard_error,
            logged_share=None,
            weight=None,
        )

    def _vote_on(self, uid: int | None, hotkey: str) -> str:
        if self.facts.outcome is None or (self.facts.chain_fault and not self.facts.votes):
            return "unknown"
        vote = self.facts.vote_of(hotkey)
        if vote is None:
            return "no vote"
        if uid is not None and uid in vote.named:
            return "named"
        return "missing" if uid is not None and uid in vote.missing else "neither"

    def _fetched(self, uid: int | None, hotkey: str, verdict: Verdict | None) -> bool | None:
        if verdict is not None and told_status(verdict.status) not in UNTOLD:
            return verdict.status not in MISSING
        vote = self.facts.vote_of(hotkey)
        if vote is None or uid is None:
            return None
        if uid in vote.named:
            return True
        return False if uid in vote.missing else None
