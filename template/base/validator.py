"""The validator: score the committed payloads, vote, follow, set weights, publish.

Each pass of the loop is a window. Weights depend on the verdict logs of the last windows alone.
"""

import logging
from dataclasses import dataclass
from functools import partial

from template.base.log_publisher import LogPublisher
from template.base.memory import ValidatorMemory, registrations
from template.base.pace import ScoringPace
from template.base.policy import ValidatorPolicy
from template.base.standing import Standing
from template.base.supporting import Supporter
from template.base.tallies import tallies
from template.base.uploads import Uploads
from template.base.weight_setter import WeightSetter
from template.chain.ballots import read_candidates, read_records
from template.context import NodeContext
from template.data.unigram import unigram_entropy
from template.log_context import window_context
from template.peers.client import Peers
from template.protocol.quorum import VOID_WINDOWS, Decision
from template.protocol.record import LOG_DIGEST_BYTES, ROOT_BYTES, Record, Vote, log_digest
from template.scoring.rules import pay_rules
from template.scoring.window import Scored, WindowScorer
from template.sync.bootstrap import Bootstrap
from template.sync.dataset import carry_companions, open_datasets
from template.sync.follower import KEPT_BLOCKS, Follower
from template.sync.lineage import LineagePublisher
from template.sync.own_checkpoint import OwnCheckpoints
from template.sync.successions import restore_run
from template.training.checkpoint import LocalCheckpoint
from template.training.spread import sample_of

log = logging.getLogger(__name__)

STUCK_FRACTION = 0.75
"""Fraction of the scoring period after which a stuck validator votes the newest root."""

NO_LOG = bytes(LOG_DIGEST_BYTES)
"""The log digest of a vote without a verdict log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredWindow:
    """A scored window. `digest` and `pace`: of the window's verdict log, for the vote."""

    window: int
    scored: Scored
    digest: bytes
    pace: int


class Validator:
    """A validator at work. `step` is a window, repeated by `template.base.supervisor`."""

    def __init__(
        self,
        context: NodeContext,
        *,
        sets_weights: bool = True,
        publishes_bf16: bool = False,
        policy: ValidatorPolicy | None = None,
    ) -> None:
        self.context, self.policy = context, policy or ValidatorPolicy()
        self.peers = Peers(context)
        self._standing = Standing(context)
        self._standing.watch_permit()
        self._uploads = Uploads(context)
        publisher = self._uploads.publisher
        restore_run(context, self.peers)
        checkpoint = Bootstrap(context, self.peers).join(publisher)
        self.follower = Follower(context, self.peers, checkpoint.state, keeps_step_start=True)
        for window, payload, frame in self._uploads.standby.frames_from(self.follower.next_window):
            self.follower.keep(window, payload, frame)
        offer, window = publisher.offer, checkpoint.state.window
        self._datasets = open_datasets(context, self.peers, window, offer, reads_ahead=True)
        self._carry = partial(carry_companions, context, self.peers, self._datasets, publisher)
        for led in (window, window + 1, window + 2):  # checkpoints of now, and the next two
            self._carry(context.run.maker(led))
        if publishes_bf16:
            publisher.show()
        self._uploads.serve(self._datasets.at(window))
        anchor = self.follower.anchors.path_of(checkpoint.state.window)
        publisher.offer_missing_checkpoint(checkpoint.state, anchor=anchor)
        self._scorer = WindowScorer(context, self.peers, self._datasets)
        self._weights = WeightSetter(context, self.policy, is_on=sets_weights)
        self._pace = ScoringPace(context)
        self._own_checkpoints = OwnCheckpoints(context)
        self._lineage = LineagePublisher(context)
        self._logs = LogPublisher(context)
        self._supporter = Supporter(context, self.peers, self.follower, self._datasets, self._carry)
        rules = pay_rules(context.run.at(window))
        self.memory = ValidatorMemory.from_values(checkpoint.values, rules)
        self._scored: ScoredWindow | None = None
        context.metrics.log(0, {"unigram_entropy": unigram_entropy(self._scorer.curve(window))})
        self._measure()
        self._restore_vote()

    def step(self) -> bool:
        """A window: score, vote, set weights, wait for the votes, follow, publish, measure."""
        context, schedule = self.context, self.context.schedule
        window = self.follower.next_window
        self.follower.successions.demand(window + 1)
        self.follower.successions.look()
        self._uploads.serve(self._datasets.at(window + 1))
        self._carry(context.run.at(window + 1))
        self._uploads.raise_failure()
        if window >= context.run.num_windows:
            self._close()
            self._uploads.go_on(self.follower.state.window)
            self._uploads.finish()
            self._uploads.stop()
            return False
        with window_context(window):
            self._await_payloads(window)
            self._standing.watch_permit()
            self._pace.report(window, self.memory.last_voted)
            if window > self.memory.last_voted and not self._pace.is_too_late(window):
                self._vote(window)
            self._weights.set_if_due(window, self.memory)
            words = f"the votes on window {window}, counted there"
            self._weights.until_finalized(schedule.vote_block(window), words, window, self.memory)
            self._uploads.look(decided=window)
            self._settle(self.follower.advance(self._vote_stuck))
            self._save()
            with self._uploads.first():
                self._lineage.publish(self.follower.ledger.steps)
            if self.follower.next_window >= context.run.num_windows:
                # Before the uploads, which may outlast the time for this vote.
                self._vote_last_root(self.follower.next_window)
            self._publish_checkpoint()
            if self._pace.has_time_to_measure(window + 1):
                self._measure()
        return True

    def stop(self) -> None:
        """Say which votes are missed while this validator is away, and when to be back."""
        self._uploads.stop()
        schedule = self.context.schedule
        window = max(self.memory.last_voted + 1, self.follower.next_window)
        if window < self.context.run.num_windows:
            log.info(
                "votes and weights from window %d on are missed while this validator is away; the "
                "votes on window %d are counted at %s",
                window,
                window,
                self.context.waiter.when(schedule.vote_block(window)),
            )

    def _await_payloads(self, window: int) -> None:
        """Wait for the window's payloads; meanwhile look again for those that are missing."""
        waiter, words = self.context.waiter, self._words_for_payloads(window)
        deadline = self.context.schedule.held_out_block(window)
        for block in self._uploads.turn_blocks(window):
            if self._uploads.standby.is_waiting:
                waiter.until_head(block, words, by_block=deadline)
                self._uploads.look()
        self._weights.until_finalized(deadline, words, window - 1, self.memory)

    def _words_for_payloads(self, window: int) -> str:
        first = self.context.schedule.first_block(0)
        has_begun = window > 0 or self.context.chain.head() >= first
        begins = "" if has_begun else f", which begins with block {first},"
        return f"window {window}{begins} to end and its payloads to be uploaded"

    def _close(self) -> None:
        """Vote the last root after the run's last window, until the root is proven.

        Payloads of the last windows may still be given up while validators lack payloads: until
        more than half of the reference stake votes this root, or `VOID_WINDOWS` windows are over.
        """
        schedule, waiter = self.context.schedule, self.context.waiter
        first = self.context.run.num_windows
        if self.context.chain.finalized() - schedule.vote_block(first) >= KEPT_BLOCKS:
            # Long after the end a node that starts again can read these votes nowhere.
            return
        for window in range(first, first + VOID_WINDOWS):
            self._vote_last_root(window)
            # The chain's rate limit may have refused the weights of the last window.
            self._weights.set_if_due(window, self.memory)
            # Until the votes are final: a liar could change its vote once others have ended.
            waiter.until_finalized(
                schedule.vote_block(window),
                f"the votes of window {window}, after the run's end, which prove its last state",
            )
            is_settled = self.follower.close_window(window)
            # A void changes the last steps, and the next votes prove a root after these.
            self._save()
            self._logs.publish(window)
            self._lineage.publish(self.follower.ledger.steps)
            self._offer_checkpoint(is_last=True)
            if is_settled:
                return

    def _vote_last_root(self, window: int) -> None:
        """Vote this node's root for nobody, on a window after the run's end, while votes count."""
        schedule = self.context.schedule
        if window <= self.memory.last_voted or not self.policy.votes:
            return
        self.context.waiter.until_finalized(
            schedule.stake_block(window),
            f"window {window}, after the run's end, to vote the run's last state",
        )
        if self.context.waiter.recent_head() < schedule.vote_block(window):
            self._publish_vote(window, frozenset())

    def _restore_vote(self) -> None:
        """Keep the vote on chain: a restart must not take the vote back."""
        chain, context = self.context.chain, self.context
        record = read_records(chain, chain.head(), context.run.run_id).get(context.hotkey)
        vote = None if record is None else record.vote
        if vote is not None and vote.root == self.follower.ledger.root:
            self.memory = self.memory.voted_on(vote.window)
        support = None if record is None or vote is None else record.support
        record = Record.of(context.run.run_id, access=context.access, vote=vote, support=support)
        self._standing.publish_if_new(record)

    def _vote(self, window: int) -> None:
        """Score the window and vote, as far as the policy does so."""
        if not self.policy.scores:
            self.memory = self.memory.voted_on(window)
            return
        if self.follower.is_apart:
            # Scores at other parameters than the majority's would say nothing.
            self._publish_vote(window, frozenset())
            return
        done = self._score_once(window)
        scored = done.scored
        limit = self.context.run.at(window).outer.peers_per_step
        uids = self.policy.accepted_uids(scored, self.memory, limit)
        with self._uploads.first():
            uids = self._hold_named(window, uids, scored)
            if not self.policy.votes:
                self.memory = self.memory.voted_on(window)
                return
            missing = self.policy.missing_uids(scored)
            if self._publish_vote(window, uids, missing, done.digest, done.pace):
                self._save()
                log.info("window %d: accepted %s of %d", window, sorted(uids), len(scored.verdicts))
            # After the vote, because a slow bucket must not make the vote late.
            self._logs.publish(window)
        self._uploads.go_on(self.follower.state.window)

    def _vote_stuck(self) -> None:
        """While a payload is missing: vote the newest root, and accept no payload.

        The chain goes on meanwhile; each window is voted once scoring would come too late.
        """
        self._uploads.look()  # others may lack what this node alone has
        window = self.context.schedule.window_of(self.context.waiter.recent_head()) - 1
        is_over = window >= self.context.run.num_windows + VOID_WINDOWS
        if is_over or window <= max(self.memory.last_voted, self.follower.next_window):
            return
        if not self._pace.has_passed(window, STUCK_FRACTION) or self._pace.is_too_late(window):
            return
        if self._publish_vote(window, frozenset()):
            state = self.follower.state
            log.warning("window %d: stuck before theta_%d, and voted so", window, state.window + 1)

    def _publish_vote(
        self,
        window: int,
        uids: frozenset[int],
        missing: frozenset[int] = frozenset(),
        digest: bytes = NO_LOG,
        pace: int = 0,
    ) -> bool:
        """Put a vote at this node's state on chain; False if the quota is used up."""
        context, state = self.context, self.follower.state
        block_hash = context.chain.block_hash(context.schedule.stake_block(window))
        vote = Vote(
            window=window,
            root=state.root[:ROOT_BYTES],
            sample_digest=sample_of(state.params, block_hash),
            uids=uids,
            missing=missing,
            log_digest=digest,
            pace=pace,
        )
        record = Record.of(
            context.run.run_id,
            access=context.access,
            vote=self.policy.vote(vote),
            support=self._supporter.support(window),
        )
        is_published = self._standing.publish(record)
        if is_published:
            self.memory = self.memory.voted_on(window)
        return is_published

    def _score_once(self, window: int) -> ScoredWindow:
        """The window's scores, log digest and pace; a vote sent again sends the same."""
        if self._scored is None or self._scored.window != window:
            candidates = read_candidates(self.context.chain, self.context.run, window)
            share = 1.0 - self._uploads.reserve(window, candidates, self._pace.num_blocks(window))
            scored = self._scorer.score(
                window,
                self.follower.state,
                list(candidates.values()),
                self.memory.histories,
                lambda fraction: self._pace.has_passed(window, fraction * share),
                self.follower.ledger.step_start,
            )
            stake_block = self.context.schedule.stake_block(window)
            graph = self.context.chain.metagraph(stake_block)
            rules = pay_rules(self.context.run.at(window))
            memory, window_log = self.memory.under(rules).record_window(
                window, scored, registrations(graph)
            )
            digest = log_digest(self._logs.write(window_log))
            self.memory = memory
            self.context.metrics.log(window, tallies(scored.verdicts, memory.reputations))
            self._scored = ScoredWindow(
                window=window, scored=scored, digest=digest, pace=window_log.pace
            )
        return self._scored

    def _hold_named(self, window: int, uids: frozenset[int], scored: Scored) -> frozenset[int]:
        """The uids whose payloads this node holds before the vote: naming means holding."""
        for digest, frame in scored.frames.items():
            self.follower.keep(window, digest, frame)
        is_late = partial(self._pace.is_too_late, window)
        return self._uploads.hold_named(window, uids, scored, is_late)

    def _settle(self, decision: Decision) -> None:
        self._scorer.mark_applied(decision.window, {member.hotkey for member in decision.members})
        self.memory = self.memory.settle_decision(decision)

    def _measure(self) -> None:
        state = self.follower.state
        loss = self._scorer.held_out_loss(state)
        self.context.metrics.log(state.window, {"held_out_loss": loss})
        log.info("theta_%d: held-out loss %.4f nats per token", state.window, loss)

    def _publish_checkpoint(self) -> None:
        """Upload and sweep beside the loop from now on; at the run's end wait for it."""
        is_last = self.follower.next_window >= self.context.run.num_windows
        self._offer_checkpoint(is_last=is_last)
        self._uploads.go_on(self.follower.state.window)
        if is_last:
            self._uploads.finish()

    def _offer_checkpoint(self, *, is_last: bool) -> None:
        state = self.follower.state
        anchor = self.follower.anchors.path_of(state.window)
        self._uploads.publisher.offer_checkpoint(state, is_last=is_last, anchor=anchor)

    def _save(self) -> None:
        checkpoint = LocalCheckpoint(state=self.follower.state, values=self.memory.to_values())
        self._own_checkpoints.save(checkpoint)
