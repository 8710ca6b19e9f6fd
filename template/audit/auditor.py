"""Auditing a validator: do the verdict logs follow from the public objects?

An auditor joins the run as a newcomer does, follows the run without writing, and measures each
window again at the parameters of the scoring. Integers, ids and seeds must be equal; losses may
differ by `evaluation.loss_tolerance`. Facts known to the validator alone (the answers of buckets,
the time left) are reported as unknown instead of wrong.
"""

import logging
from collections.abc import Mapping
from functools import cached_property

from evaluation.rules import PayRules
from evaluation.verdict_log import WindowLog
from evaluation.verify import LogHistory
from template.audit.chain_facts import (
    ChainFacts,
    compare_committed,
    compare_registered_uids,
    compare_seed,
    read_chain_facts,
)
from template.audit.findings import Findings
from template.audit.losses import compare_half_way, compare_measured, measure_again
from template.audit.pay import compare_pay, compare_undelivered
from template.audit.payloads import AuditedPayloads
from template.audit.pool import Opened, compare_pool, list_opened
from template.audit.status import (
    compare_alike,
    compare_details,
    compare_drawn,
    compare_share,
    compare_status,
)
from template.audit.vote import compare_vote, different_digest
from template.chain.ballots import read_candidates, read_last_commits
from template.context import ReadContext
from template.errors import ChainError
from template.peers.client import Peers
from template.protocol.payload import PayloadHeader
from template.protocol.quorum import VOID_WINDOWS
from template.protocol.record import ROOT_BYTES, Vote
from template.protocol.root import Member
from template.scoring.admission import draw_candidates
from template.scoring.measure import Measurers, open_scorer
from template.scoring.pool import Pool, PoolDrawer
from template.scoring.rules import pay_rules
from template.sync.bootstrap import Bootstrap
from template.sync.dataset import open_datasets
from template.sync.follower import Follower
from template.sync.lineage import read_lineage

log = logging.getLogger(__name__)


class Auditor:
    """Stands at theta_{w+1} to audit window w; `advance` moves to the next window.

    `remember` takes the logs of windows before the first audited window: pay, the order of
    payloads and repeated payloads depend on these windows.
    """

    def __init__(self, context: ReadContext, validator: str, newest: int) -> None:
        """Join at theta_newest or before; `validator`: the audited hotkey."""
        self._context, self._validator = context, validator
        self.peers = Peers(context)
        state = Bootstrap(context, self.peers).published_or_first_state(newest)
        self.follower = Follower(context, self.peers, state, keeps_step_start=True)
        datasets = open_datasets(context, self.peers, state.window)
        self._measurers = Measurers(context.run, open_scorer(context), datasets)
        self._drawer = PoolDrawer(
            run=context.run,
            block_hash=context.chain.block_hash,
            paging_at=lambda window: datasets.at(window).paging,
        )
        self._payloads = AuditedPayloads(context, self.peers, self.follower, validator)
        self._past = LogHistory()
        self._undelivered: dict[int, frozenset[str]] = {}
        self._void = -VOID_WINDOWS - 1
        """The newest window whose payloads the votes gave up."""

    @property
    def next_window(self) -> int:
        """The window that can be audited now."""
        return self.follower.next_window

    @property
    def num_remembered(self) -> int:
        """Number of logs needed from windows before the first audited window."""
        return max(pay_rules(spec).length for spec in self._context.run)

    def _rules(self, window: int) -> PayRules:
        return pay_rules(self._context.run.at(window))

    def wait(self) -> None:
        """Wait for final votes on the next window; fetch payloads before a miner deletes them."""
        context, window = self._context, self.next_window
        vote_block = context.schedule.vote_block(window)
        context.waiter.until_finalized(
            context.schedule.held_out_block(window),
            f"window {window} to end and its payloads to be uploaded",
        )
        if context.waiter.recent_head() < vote_block:
            members = read_candidates(context.chain, context.run, window).values()
            self.peers.refresh()
            fetched = self.peers.fetch_payloads(
                list(members), window, lambda: context.waiter.recent_head() >= vote_block
            )
            for member in members:
                frame = fetched[member.uid]
                if isinstance(frame, bytes):
                    self.follower.keep(window, member.digest, frame)
        context.waiter.until_finalized(vote_block, f"the votes on window {window}, counted there")

    def advance(self) -> None:
        """Follow the run by one window; the votes on the window must be final."""
        decision = self.follower.advance()
        if decision.is_void:
            self._void = decision.window
        if decision.reference_rao:
            # A step of the lineage has no reference stake: it does not tell what was undelivered.
            undelivered = frozenset(member.hotkey for member in decision.undelivered)
            self._undelivered[decision.window] = undelivered
        self._payloads.mark_applied(decision.window, {m.hotkey for m in decision.members})

    def remember(self, logged: WindowLog) -> None:
        """Take in the log of an earlier window, without a comparison."""
        if logged.window >= self.next_window - self._payloads.num_windows:
            self._remember_payloads(logged)
        self._past = self._past.add_log(logged, self._rules(logged.window))

    def audit(self, logged: WindowLog, data: bytes) -> Findings:
        """Compare the log of window `next_window` (votes final); `data`: the log as bytes."""
        context, window = self._context, logged.window
        found, facts = Findings(window=window), read_chain_facts(context, window)
        compare_seed(logged, self._drawer.pool_seed(window), found)
        compare_registered_uids(logged, context, found)
        compare_committed(logged, facts.members, found)
        order, left_out = self._draw_candidates(window, facts)
        checked = self._payloads.check_again(logged, facts, order)
        has_gaps = self._payloads.has_gaps(window, self._past.given)
        not_drawn = {member.uid for member in left_out}
        for verdict in logged.verdicts:
            compare_details(verdict, found)
            compare_share(verdict, context.form_at(window), found)
            if verdict.uid not in facts.members:
                continue
            if compare_drawn(verdict, verdict.uid not in not_drawn, found):
                namers = set(facts.voters_naming(verdict.uid)) - {self._validator}
                lacks = has_gaps or self._payloads.lacks(verdict)
                compare_status(verdict, checked.get(verdict.uid), lacks, len(namers), found)
        compare_alike(logged.verdicts, checked, found)
        opened = list_opened(
            logged, order, checked, context.run.at(window), self._drawer.list_seed, found
        )
        pool, vote = self._compare_pool(logged, opened, found), facts.votes.get(self._validator)
        stands_here = self._stands_here(window, vote)
        if not stands_here:
            found.add_unknown(
                f"losses and root: window {self._void} is void since, and this validator held its "
                "payloads: it stood on a state that nobody can take now"
            )
        elif pool is not None:
            self._compare_losses(logged, opened, pool, found)
        compare_vote(logged, vote, self.follower.state if stands_here else None, context, found)
        if vote is not None:
            found.wrong += different_digest(window, data, vote.log_digest)
        compare_undelivered(logged, self._past, self._undelivered, found)
        compare_pay(logged, self._past, self._rules(window), found)
        self._payloads.remember(logged, checked)
        self._past = self._past.add_log(logged, self._rules(logged.window))
        return found

    def _stands_here(self, window: int, vote: Vote | None) -> bool:
        """Whether the validator stood where the run stands now, after a void window too.

        Who holds payloads that most of the stake lacks goes on with them until votes give them up.
        """
        root = self.follower.state.root[:ROOT_BYTES]
        is_open = self._void < window <= self._void + VOID_WINDOWS
        return not is_open or (vote is not None and vote.root == root)

    def _remember_payloads(self, logged: WindowLog) -> None:
        context, window = self._context, logged.window
        try:
            facts = read_chain_facts(context, window)
            drawn, _ = self._draw_candidates(window, facts)
            checked = self._payloads.check_again(logged, facts, drawn)
        except ChainError as error:
            log.debug("window %d: its payloads cannot be determined: %s", window, error)
            self._payloads.add_gap(window)
            return
        self._payloads.remember(logged, checked)
        if window in self._applied_before:
            self._payloads.mark_applied(window, self._applied_before[window])
        else:
            log.debug("window %d: no bucket has the lineage that names its payloads", window)
            self._payloads.add_gap(window)

    @cached_property
    def _applied_before(self) -> dict[int, set[str]]:
        """Window -> hotkeys of the payloads applied, for windows before the start.

        From the lineage that leads to the start: a decision by votes would need the reference
        stake of an earlier state.
        """
        state = self.follower.state
        steps = read_lineage(self._context, self.peers, state.window, state.root)
        return {step.window: {m.hotkey for m in step.members} for step in steps}

    def _draw_candidates(self, window: int, facts: ChainFacts) -> tuple[list[Member], list[Member]]:
        context = self._context
        block_hash = context.chain.block_hash(context.schedule.stake_block(window))
        members = list(facts.members.values())
        return draw_candidates(
            block_hash, window, members, context.run.at(window).evaluation.max_payloads
        )

    def _compare_pool(self, logged: WindowLog, opened: Opened, found: Findings) -> Pool | None:
        context = self._context
        last_commits = read_last_commits(context.chain, context.run, logged.window)
        knows_past = self._past.has_windows(logged.known)

        def draw(headers: Mapping[Member, PayloadHeader]) -> Pool:
            return self._drawer.draw_pool(logged.window, last_commits, headers)

        shards_of = self._measurers.at(logged.window).shards_of
        return compare_pool(logged, opened, draw, knows_past, shards_of, found)

    def _compare_losses(
        self, logged: WindowLog, opened: Opened, pool: Pool, found: Findings
    ) -> None:
        spec, measurer = self._context.run.at(logged.window), self._measurers.at(logged.window)
        uids = [uid for uid in opened.payloads if uid in logged.measured.after_KQ]
        state, start = self.follower.state, self.follower.ledger.step_start
        is_H = None if start is None else measurer.measure_half_way(start, state, pool)
        compare_half_way(logged, pool, is_H, state, spec.evaluation.loss_tolerance, found)
        measured = measure_again(measurer, spec, state, pool, opened, uids)
        compare_measured(logged, opened, pool, measured, spec.evaluation.loss_tolerance, found)
