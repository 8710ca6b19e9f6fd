"""Auditing a validator: are the losses in its verdict logs those of the public objects?

An auditor joins the run as a newcomer does, follows it without a word, and measures each window
again at the parameters at which it was scored. Integers, ids and seeds must be equal; losses may
differ by `evaluation.loss_tolerance`. What only the validator can know (what its requests were
answered, how much time it had) is said to be its word and not called wrong.
"""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from evaluation.verdict import MEASURED, NOT_SCORED
from evaluation.verdict_log import WindowLog
from evaluation.verify import (
    LogHistory,
    compare_losses,
    compare_pages,
    compare_uids,
    find_skipped,
    uids_in_pool_order,
    worst_difference,
)
from template.audit.findings import (
    Findings,
    compare_committed,
    compare_drawn,
    compare_headers,
    compare_status,
    compare_vote,
    compare_words,
    different_digest,
    was_in_hand,
)
from template.audit.remeasure import Checked, Rescorer, said_header
from template.chain.ballots import read_ballot, read_candidates, read_records
from template.context import ReadContext
from template.errors import ChainError
from template.peers.client import FETCH_THREADS, Peers
from template.protocol.payload import Payload, PayloadHeader
from template.protocol.quorum import decide
from template.protocol.record import ROOT_BYTES, Vote
from template.protocol.root import Member, sample_digest
from template.scoring.rules import admits_claim, pay_rules
from template.scoring.window import Pool
from template.sync.bootstrap import Bootstrap
from template.sync.dataset import open_pages
from template.sync.follower import Follower

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Window:
    """What the chain holds on a window. `votes`: by hotkey, of those that voted on it."""

    members: Mapping[int, Member]
    votes: Mapping[str, Vote]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Opened:
    """The payloads that the validator opened, in its order, as far as they are to be had."""

    headers: Mapping[Member, PayloadHeader]
    payloads: Mapping[int, Payload]

    @property
    def num_missing(self) -> int:
        return len(self.headers) - len(self.payloads)


class Auditor:
    """Stands at theta_{w+1} to audit window w; `advance` moves it on.

    `remember` tells it of windows before the first one audited: what is paid, who comes first
    and what repeats an earlier payload depends on them.
    """

    def __init__(self, context: ReadContext, validator: str, newest: int) -> None:
        """Join at theta_newest or before."""
        self._context, self._validator = context, validator
        self.peers = Peers(context)
        self.follower = Follower(
            context, self.peers, Bootstrap(context, self.peers).published_or_first_state(newest)
        )
        self._scorer = Rescorer(context, self.peers, open_pages(context, self.peers))
        self._rules = pay_rules(context.spec)
        self._past = LogHistory()
        self._lost: dict[int, frozenset[str]] = {}
        self._gaps: set[int] = set()

    @property
    def next_window(self) -> int:
        """The window that can be audited now."""
        return self.follower.next_window

    def wait(self) -> None:
        """Until the votes on the next window are final; what may be gone later is fetched now."""
        context, window = self._context, self.next_window
        vote_block = context.schedule.vote_block(window)
        context.waiter.until_finalized(context.schedule.held_out_block(window))
        if context.waiter.recent_head() < vote_block:
            members = read_candidates(context.chain, context.schedule, window).values()
            self.peers.refresh()
            fetched = self.peers.fetch_payloads(
                list(members), window, lambda: context.waiter.recent_head() >= vote_block
            )
            for member in members:
                frame = fetched[member.uid]
                if isinstance(frame, bytes):
                    self.follower.keep(window, member.digest, frame)
        context.waiter.until_finalized(vote_block)

    def advance(self) -> None:
        """Follow the run by one window, whose votes must be final."""
        decision = self.follower.advance()
        self._lost[decision.window] = frozenset(m.hotkey for m in decision.undelivered)
        self._scorer.decided(decision.window, {m.hotkey for m in decision.members})

    @property
    def num_remembered(self) -> int:
        """Windows before the first one, of which the logs matter."""
        return self._rules.length

    def remember(self, said: WindowLog) -> None:
        """A window before, of which nothing is judged."""
        length = self._context.spec.outer.max_staleness + 2
        if said.window >= self.next_window - length:
            try:
                place = self._read(said.window)
                drawn, _ = self._scorer.drawn(said.window, list(place.members.values()))
                checked = self._check(said, place, drawn)
                ballot = read_ballot(self._context.chain, self._context.schedule, said.window)
            except ChainError as error:
                log.debug("payloads of window %d cannot be known: %s", said.window, error)
                self._gaps.add(said.window)
            else:
                self._keep(said, checked)
                decision = decide(ballot, (), self._context.spec.outer.quorum_rules())
                self._scorer.decided(said.window, {m.hotkey for m in decision.members})
        self._learn(said)

    def audit(self, said: WindowLog, data: bytes) -> Findings:
        """Compare a log of window `next_window`, whose votes must be final; `data`: its bytes."""
        found, place = Findings(window=said.window), self._read(said.window)
        self._compare_chain(said, place, found)
        order, left_out = self._scorer.drawn(said.window, list(place.members.values()))
        checked = self._check(said, place, order)
        not_drawn = {member.uid for member in left_out}
        for verdict in said.verdicts:
            compare_words(verdict, found)
            if verdict.uid not in place.members:
                continue
            if compare_drawn(verdict, verdict.uid not in not_drawn, found):
                namers = sum(
                    verdict.uid in vote.uids
                    for hotkey, vote in place.votes.items()
                    if hotkey != self._validator
                )
                known, forgets = checked.get(verdict.uid), self._forgets(said.window)
                compare_status(verdict, known, forgets, namers, found)
        opened = self._opened(said, order, checked, found)
        pool = self._compare_pool(said, opened, found)
        if pool is not None:
            self._compare_losses(said, opened, pool, found)
        vote = place.votes.get(self._validator)
        self._compare_vote(said, vote, found)
        if vote is not None:
            found.wrong += different_digest(said.window, data, vote.log_digest)
        self._compare_undelivered(said, found)
        self._compare_what_follows(said, found)
        self._keep(said, checked)
        self._learn(said)
        return found

    def _read(self, window: int) -> _Window:
        context = self._context
        records = read_records(context.chain, context.schedule.vote_block(window))
        return _Window(
            members=read_candidates(context.chain, context.schedule, window),
            votes={
                hotkey: record.vote
                for hotkey, record in records.items()
                if record.vote is not None and record.vote.window == window
            },
        )

    def _compare_chain(self, said: WindowLog, place: _Window, found: Findings) -> None:
        """Seed, uids, and who committed which payload."""
        context = self._context
        seed = self._scorer.seed(said.window).hex()
        if said.seed != seed:
            found.differs("seed", seed, said.seed)
        graph = context.chain.metagraph(context.schedule.stake_block(said.window))
        found.wrong += compare_uids(said, {n.hotkey: n.uid for n in graph.neurons})
        compare_committed(said, place.members, found)

    def _check(
        self, said: WindowLog, place: _Window, order: Sequence[Member]
    ) -> Mapping[int, Checked]:
        """Fetch and open what the validator says to have had in hand."""
        in_hand = {verdict.uid for verdict in said.verdicts if was_in_hand(verdict)}
        wanted = [member for member in order if member.uid in in_hand]
        self.peers.refresh()

        def fetch(member: Member) -> bytes | None:
            held = self.follower.held(member.digest)
            namers = [h for h, vote in place.votes.items() if member.uid in vote.uids]
            holders = (self._validator, *namers)
            return held or self.peers.fetch_named_payload(member, said.window, holders)

        with ThreadPoolExecutor(max_workers=FETCH_THREADS) as pool:
            frames = dict(zip([m.uid for m in wanted], pool.map(fetch, wanted), strict=True))
        had = {uid: frame for uid, frame in frames.items() if frame is not None}
        for member in wanted:
            if member.uid in had:
                self.follower.keep(said.window, member.digest, had[member.uid])
        if len(had) < len(frames):
            self._gaps.add(said.window)
        return self._scorer.check(said.window, order, had)

    def _forgets(self, window: int) -> bool:
        """Whether payloads that the validator may remember are not known here."""
        length = self._context.spec.outer.max_staleness + 2
        before = range(max(0, window - length), window)
        return window in self._gaps or any(
            w in self._gaps or w not in self._past.given for w in before
        )

    def _opened(
        self,
        said: WindowLog,
        order: Sequence[Member],
        checked: Mapping[int, Checked],
        found: Findings,
    ) -> _Opened:
        """What the log says was opened; headers are those of the payloads where these are here."""
        verdicts = {verdict.uid: verdict for verdict in said.verdicts}
        headers, payloads = {}, {}
        for member in order:
            verdict = verdicts.get(member.uid)
            header = None if verdict is None else said_header(verdict, member)
            if verdict is None or header is None or verdict.status not in (*MEASURED, NOT_SCORED):
                continue
            payload = checked[member.uid].payload if member.uid in checked else None
            if payload is not None:
                payloads[member.uid] = payload
                compare_headers(member.uid, header, payload.header, found)
                header = payload.header
            if self._admits(header):
                headers[member] = header
            else:
                found.differs(f"uid {member.uid}: what such a payload claims", "refused", "opened")
        return _Opened(headers=headers, payloads=payloads)

    def _admits(self, header: PayloadHeader) -> bool:
        spec = self._context.spec
        return (
            0 <= header.base_window <= header.window
            and header.staleness <= spec.outer.max_staleness
            and admits_claim(spec, header.pages_consumed)
        )

    def _compare_pool(self, said: WindowLog, opened: _Opened, found: Findings) -> Pool | None:
        """The pool as it should have been drawn; None if no loss can be compared with it."""
        pool = self._scorer.pool(said.window, opened.headers)
        order = [member.uid for member in opened.headers]
        said_order = uids_in_pool_order(said.measured.owners_S)
        different = compare_pages(said, pool.ids_S, pool.owners_S)
        if different and sorted(said_order) == sorted(order) != said_order:
            by_uid = {member.uid: header for member, header in opened.headers.items()}
            members = {member.uid: member for member in opened.headers}
            other = self._scorer.pool(said.window, {members[u]: by_uid[u] for u in said_order})
            in_its_order = compare_pages(said, other.ids_S, other.owners_S)
            if len(in_its_order) < len(different):
                pool, different = other, in_its_order
                if self._past.has_windows(said.known):
                    found.differs("order of the payloads", order, said_order)
                order = said_order
        found.wrong += different
        for uid in sorted(set(said_order) - set(order)):
            found.wrong.append(
                f"{found.place}, uid {uid}: owns pages, but no payload to claim them"
            )
        for uid, other_uid in find_skipped(order, said.measured.after_S.keys()).items():
            found.wrong.append(
                f"{found.place}, uid {uid}: not measured, though uid {other_uid} behind it was"
            )
        if pool.ids_S.size == said.ids_S.size:
            return pool
        found.cannot_tell("losses: not compared, since the pool is another")
        return None

    def _compare_losses(
        self, said: WindowLog, opened: _Opened, pool: Pool, found: Findings
    ) -> None:
        state, tolerance = self.follower.state, self._context.spec.evaluation.loss_tolerance
        uids = [uid for uid in opened.payloads if uid in said.measured.after_S]
        is_so = self._scorer.measure(state, pool, opened.payloads, opened.num_missing, uids)
        opened_uids = {member.uid for member in opened.headers}
        pairs = [(f"{found.place}: loss at theta", said.measured.before_S, is_so.before_S)]
        for uid, said_S in said.measured.after_S.items():
            if uid not in opened_uids:
                found.differs(f"uid {uid}: losses", "none, since it was not opened", "some")
            elif uid not in is_so.after_S:
                found.cannot_tell(
                    f"uid {uid}: its losses were not computed again; {opened.num_missing} payloads "
                    "of the window are missing"
                )
            else:
                what = f"{found.place}, uid {uid}: loss after its step"
                pairs.append((what, said_S, is_so.after_S[uid]))
        for what, said_S, is_S in pairs:
            found.wrong += compare_losses(what, pool.ids_S, said_S, is_S, tolerance)
            found.num_losses += is_S.size
            found.worst = max(found.worst, worst_difference(said_S, is_S))

    def _compare_vote(self, said: WindowLog, vote: Vote | None, found: Findings) -> None:
        context, state = self._context, self.follower.state
        block_hash = context.chain.block_hash(context.schedule.stake_block(said.window))
        sample = sample_digest(state.params, block_hash)
        limit = context.spec.outer.peers_per_step
        compare_vote(said, vote, state.root[:ROOT_BYTES], sample, limit, found)

    def _compare_what_follows(self, said: WindowLog, found: Findings) -> None:
        found.wrong += self._past.compare(said, self._rules)
        not_before = [window for window in said.known if not 0 <= window < said.window]
        if not_before:
            found.differs("windows known", "of windows before", not_before)
        missing = sorted(set(said.known) - self._past.given - set(not_before))
        if missing:
            found.cannot_tell(
                f"decisions and weights rest on windows whose logs are not here: {missing}"
            )
        earliest = said.window - self._rules.length
        forgotten = {w for w in self._past.given if earliest < w < said.window} - set(said.known)
        forgotten &= {w for h in self._past.histories.values() for w in h}
        if forgotten:
            found.cannot_tell(f"windows {sorted(forgotten)} are left out, though there are logs")

    def _keep(self, said: WindowLog, checked: Mapping[int, Checked]) -> None:
        statuses = {verdict.uid: verdict.status for verdict in said.verdicts}
        opened = {
            uid: each.payload
            for uid, each in checked.items()
            if each.payload is not None and statuses[uid] in (*MEASURED, NOT_SCORED)
        }
        self._scorer.remember(said.window, said.verdicts, opened)

    def _compare_undelivered(self, said: WindowLog, found: Findings) -> None:
        """What the votes on the window of the log before found, if the validator was there."""
        before = max((w for w in self._past.given if w < said.window), default=None)
        if before in self._lost and before in said.known:
            is_so = sorted((before, hotkey) for hotkey in self._lost[before])
            if is_so != sorted(said.undelivered):
                found.differs("undelivered", is_so, sorted(said.undelivered))
        elif said.undelivered:
            found.cannot_tell("what was undelivered in the windows before is its word")

    def _learn(self, said: WindowLog) -> None:
        self._past = self._past.add_log(said, self._rules)
