"""Following the run: from theta_{w+1} to theta_{w+2} by the chain's decision on window w.

Miner and validator follow alike. The ledger (`template.sync.ledger`) decides; the follower reads
ballots, fetches payloads and writes anchors. A node apart from the majority recovers without
help: by taking the last steps again, or by joining anew.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from template.chain.ballots import read_ballot
from template.context import ReadContext
from template.errors import ChainError, NodeTrouble, StoreError, Unavailable
from template.peers.client import Peers
from template.protocol.lineage import Accepted, LineageStep
from template.protocol.payload import Payload
from template.protocol.quorum import VOID_WINDOWS, Decision, voided
from template.sync.anchors import AnchorStore
from template.sync.beginning import step_without_votes, steps_before_payloads
from template.sync.bootstrap import Bootstrap
from template.sync.healer import Healer
from template.sync.ledger import RunLedger, Standing
from template.sync.lineage import LineageReader
from template.sync.payload_cache import PayloadCache
from template.sync.recovery import Recovered, take_back
from template.sync.successions import Successions, append_claimed
from template.sync.traces import OtherRunWatch
from template.sync.waits import demand_hope
from template.training.outer import OuterState, params_digest

log = logging.getLogger(__name__)

NO_STATE_BEFORE = (
    "window %d is void, and this node keeps no state from before it: the next votes will differ "
    "from this node's root, and the node joins anew"
)
NONE_KNOWN = "this node knows of no applied payload"
Room = Callable[[], AbstractContextManager[None]]
"""Held while a new theta is made, by a node whose other work leaves no room for one."""
KEPT_BLOCKS = 128
"""Blocks whose state every chain endpoint still has; most endpoints keep 256."""


def _do_nothing() -> None:
    pass


class Follower:
    """Moves the ledger of the run on, window by window."""

    def __init__(
        self,
        context: ReadContext,
        peers: Peers,
        state: OuterState,
        *,
        may_join: bool = True,
        keeps_step_start: bool = False,
        last_accepted: frozenset[str] = frozenset(),
    ) -> None:
        """`may_join`: take a published state where the node's own past does not help."""
        self._context, self._peers, self._may_join = context, peers, may_join
        self.room: Room = nullcontext
        self._payloads, self._lineage = PayloadCache(context, peers), LineageReader(context, peers)
        self.anchors = AnchorStore(context.state_dir / "past", context.run, context.spreader)
        self.ledger = RunLedger(
            run=context.run,
            state=state,
            steps=self.anchors.open(state),
            last_accepted=last_accepted,
            keeps_step_start=keeps_step_start,
        )
        self.taken_back: list[LineageStep] = []
        """Applied steps found void; the miner or validator empties the list."""
        self.is_apart = False
        """Whether a root with authority differs from this node's, and no way led there so far."""
        self._other_run = OtherRunWatch(context)
        self.successions = Successions(context, peers)
        self._healer = Healer(context, peers, self.anchors, self._payloads, may_join=may_join)

    @property
    def state(self) -> OuterState:
        """theta_window, with norms, stakes and root."""
        return self.ledger.state

    @property
    def next_window(self) -> int:
        """The window whose decision moves the state."""
        return self.ledger.next_window

    def keep(self, window: int, digest: bytes, frame: bytes) -> None:
        """Keep a frame for the step of `window`: see `PayloadCache.keep`."""
        self._payloads.keep(window, digest, frame)

    def held(self, digest: bytes) -> bytes | None:
        """The kept frame with this digest."""
        return self._payloads.held(digest)

    def decided(self) -> bool:
        """Whether the next window's votes are final; stops as `Successions.demand`."""
        self.successions.demand(
            self._context.schedule.window_of(self._context.waiter.recent_head())
        )
        return self._is_final(self.next_window)

    def advance(self, meanwhile: Callable[[], None] = _do_nothing) -> Decision:
        """Count the next window's votes, fetch the accepted payloads, take the step.

        Waits for payloads and calls `meanwhile` after each try, because a step without an
        accepted payload leads to another model. Only the stake majority can give payloads up;
        once buckets have deleted the payloads, the node joins anew. Where the majority stands
        elsewhere and no way leads there, the node goes on by its own root, with `is_apart` set.
        """
        self._retry_void()
        self.successions.note_steps(self.ledger.steps)
        self.successions.demand(self.next_window + 1)
        decision = self._decide_if_readable()
        if decision is None:
            return self._follow_lineage()
        self._compare(decision)
        self._other_run.note(decision)
        try:
            payloads = self._gather(decision, meanwhile)
        except NodeTrouble:
            raise
        except Unavailable as error:
            return self._jump(error)
        if payloads is None:
            decision, payloads = voided(decision), {}
            log.warning("window %d: %s", decision.window, decision.no_op)
        self._apply(decision, payloads, decision.root or b"")
        try:
            self._take_back_void()
        except StoreError as error:
            log.warning("window %d: %s; retrying before the next step", decision.window, error)
        _report(self._context, self.state, decision)
        return decision

    def _is_final(self, window: int) -> bool:
        return self._context.waiter.recent_final() >= self._context.schedule.vote_block(window)

    def _decide(self, window: int) -> Decision:
        """The decision on the next window or a later window with final votes."""
        if window not in self.ledger.decisions:
            ballot = read_ballot(self._context.chain, self._context.run, window)
            self.ledger = self.ledger.count_ballot(ballot)
        return self.ledger.decisions[window]

    def _decide_if_readable(self) -> Decision | None:
        """The decision on the next window; None if the chain endpoint has dropped the votes."""
        try:
            return self._decide(self.next_window)
        except ChainError:
            context = self._context
            oldest_block = context.schedule.commit_block(self.next_window)  # holds the candidates
            if context.chain.finalized() - oldest_block < KEPT_BLOCKS:
                raise
            return None

    def _follow_lineage(self) -> Decision:
        """Take the next step by a validator's lineage: the node was away for too long."""
        try:
            step = self._empty_step() or self._lineage.next_step(self.state)
            payloads = self._payloads.obtain_past_payloads(step)
        except NodeTrouble:
            raise
        except Unavailable as error:
            return self._jump(error)
        # The voted root of a lineage is in no hash: a stranger's word must not void a window.
        self._apply(step, payloads, b"")
        decision = _known_decision(step)
        _report(self._context, self.state, decision)
        return decision

    def _empty_step(self) -> LineageStep | None:
        """The next step of a run that has not begun, or None."""
        if self.state.accepted_norms:
            return None
        steps = steps_before_payloads(self._context, self._peers)
        if steps:
            return next((step for step in steps if step.root == self.state.root), None)
        return None if steps is None else step_without_votes(self.state)

    def _jump(self, error: Unavailable) -> Decision:
        """Join anew: no lineage leads on from here, or the payloads on the way are deleted.

        Raises `error` where no published state is newer than the node's own.
        """
        context = self._context
        newest = context.schedule.window_of(context.chain.finalized())
        state = None
        if self._may_join:
            # The ballots in between, which this node will not count, may have adopted specs.
            append_claimed(context, self._peers)
            with self.room():
                state = Bootstrap(context, self._peers).published_up_to(newest)
        if state is None or state.window <= self.state.window:
            raise error
        log.warning("%s; joining anew at theta_%d", error, state.window)
        self._lineage.forget()
        self.ledger = RunLedger(
            run=context.run,
            state=state,
            steps=self.anchors.open(state),
            last_accepted=self.ledger.last_accepted,
            keeps_step_start=self.ledger.keeps_step_start,
        )
        return replace(_unknown_decision(state.window - 2), is_jump=True)

    def _compare(self, decision: Decision) -> None:
        """Compare this node with the majority, report the result, recover from a difference."""
        standing = self._standing(self.state, decision)
        _report_standing(self._context, standing, decision)
        if standing.contradicts:
            self._heal(decision)
        elif decision.root is not None:
            self.is_apart = False
            self._healer.reset()

    def _heal(self, decision: Decision) -> None:
        def is_right(state: OuterState) -> bool:
            return not self._standing(state, decision).contradicts

        with self.room():
            healed = self._healer.heal(self.ledger, decision, is_right)
        self.is_apart = healed is None
        if healed is None:
            return
        self.ledger = healed
        self._healer.reset()
        self._context.metrics.log(decision.window, {"healed": 1})
        log.warning(
            "window %d: healed: this node agrees with the stake majority, root %s",
            decision.window,
            self.state.root[:8].hex(),
        )

    def _standing(self, state: OuterState, decision: Decision) -> Standing:
        stake_block = self._context.schedule.stake_block(decision.window)
        block_hash = self._context.chain.block_hash(stake_block)
        return self.ledger.compare_with_majority(decision, block_hash, state)

    def _recover(self, recovered: Recovered) -> None:
        steps = self.anchors.restart_from(recovered, self.ledger.steps)
        self.ledger = self.ledger.recover(recovered.state, steps)

    def _gather(
        self, decision: Decision, meanwhile: Callable[[], None]
    ) -> dict[int, Payload] | None:
        """The accepted payloads by uid, after any wait; None if the majority gave up waiting."""
        told: list[int] = []
        given_up_block = self._context.schedule.vote_block(decision.window + VOID_WINDOWS)
        while not self._are_payloads_given_up():
            missing = self._payloads.fetch_missing(
                decision.window, decision.members, decision.namers
            )
            if not missing:
                return self._payloads.open_frames(decision.window, decision.members)
            if self.is_apart:
                # Another run's payloads, perhaps: a step without them keeps this node apart, and
                # a wait would keep the node from going on.
                held = [member for member in decision.members if member not in missing]
                return self._payloads.open_frames(decision.window, held)
            demand_hope(self._context, self.ledger, decision)
            uids = [member.uid for member in missing]
            if uids != told:
                told = uids
                log.warning(
                    "window %d: waiting for the accepted payloads of uids %s: no bucket gives them "
                    "now, and no node goes on without them. They may still come; if most of the "
                    "stake lacks them too, they are given up at block %d at the earliest; once "
                    "buckets have deleted them, this node starts anew from a published state",
                    decision.window,
                    uids,
                    given_up_block,
                )
            meanwhile()
            self._context.waiter.pause(
                f"the accepted payloads of uids {uids} of window {decision.window}, which may be "
                "given up by then",
                by_block=given_up_block,
            )
        return None

    def close_window(self, window: int) -> bool:
        """Count the final votes on a window after the run's end; whether they settle the run.

        The state stays at the run's last window; a step that the votes have made void is taken
        back.
        """
        decision = self._decide(window)
        if window == self.next_window:
            self._compare(decision)
        void = self.ledger.find_late_void()
        if void is not None:
            self._take_back(void)
        return decision.root == self.ledger.root

    def _are_payloads_given_up(self) -> bool:
        while (window := self.ledger.window_to_count_for_void()) is not None:
            if not self._is_final(window):
                return False
            self._decide(window)
        return self.ledger.payloads_given_up()

    def _apply(self, accepted: Accepted, payloads: Mapping[int, Payload], root: bytes) -> None:
        # The window is scored: the state before the last step would be a third theta in memory.
        self.ledger = replace(self.ledger, step_start=None)
        with self.room():
            before, ledger = self.ledger.state, self.ledger.apply_window(accepted, payloads, root)
            steps = self.anchors.record_step(ledger.steps, ledger.state)
        self.ledger = replace(ledger, steps=steps)
        self.successions.note_steps(steps[-1:])
        self._payloads.forget_up_to(accepted.window)
        _tell_of_alpha(self._context, before, self.state)

    def _retry_void(self) -> None:
        """Take back a void window after a failure, or leave the window to the healer."""
        try:
            self._take_back_void()
        except NodeTrouble:
            raise
        except Unavailable as error:
            log.error(
                "%s: the next votes will differ from this node's root, and the node joins anew",
                error,
            )

    def _take_back_void(self) -> None:
        """Go back before a window whose payloads most of the stake could not fetch."""
        void = self.ledger.find_new_void()
        if void is not None:
            self._take_back(void)

    def _take_back(self, void: LineageStep) -> None:
        log.warning("window %d is void: most of the stake lacked its payloads", void.window)
        anchors, obtain = self.anchors.load_anchors(), self._payloads.obtain_past_payloads
        steps, run = self.ledger.steps, self._context.run
        with self.room():
            recovered = take_back(anchors, steps, void.window, obtain, run)
        if recovered is None:
            log.error(NO_STATE_BEFORE, void.window)
            return
        self._recover(recovered)
        self.taken_back.append(void)
        _report_void(self._context, self.ledger, void.window)


def _report_standing(context: ReadContext, standing: Standing, decision: Decision) -> None:
    if decision.dissenters:
        log.error(
            "window %d: votes of uids %s differ from the majority in root or tensors",
            decision.window,
            list(decision.dissenters),
        )
    if standing.contradicts:
        log.error(
            "window %d: the stake majority stands apart from this node: %s",
            decision.window,
            standing.value,
        )
    values: dict[str, int | str] = {
        "dissenting_uids": ",".join(map(str, decision.dissenters)),
        "differs_from_majority": int(standing.contradicts),
    }
    context.metrics.log(decision.window, values)


def _unknown_decision(window: int) -> Decision:
    """The decision on a window that led to a published state."""
    return Decision(
        window=window,
        members=(),
        namers={},
        root=None,
        sample_digest=None,
        dissenters=(),
        undelivered=(),
        voting_stake_rao=0,
        reference_rao=0,
        no_op=NONE_KNOWN,
    )


def _known_decision(step: LineageStep) -> Decision:
    """The decision on a window where only the applied payloads are known."""
    return replace(
        _unknown_decision(step.window),
        members=step.members,
        voting_stake_rao=step.voting_stake_rao,
        pace=step.pace,
        no_op="" if step.members else NONE_KNOWN,
        adopted=step.adopted,
    )


def _tell_of_alpha(context: ReadContext, before: OuterState, after: OuterState) -> None:
    alphas = [s.alpha(context.run.at(s.window - 1).outer) for s in (before, after)]
    if alphas[0] != alphas[1]:
        log.info("window %d: alpha %.2f -> %.2f by the votes", before.window - 1, *alphas)


def _report_void(context: ReadContext, ledger: RunLedger, void: int) -> None:
    # No later step has moved alpha: the majority lacked the payloads, and named none since.
    alpha = ledger.state.alpha(context.run.at(ledger.state.window - 1).outer)
    for step in ledger.steps:
        if step.window >= void:
            root = step.next_root.hex()
            context.metrics.log(step.window, {"state_root": root, "outer_lr": alpha})
    context.metrics.log(void, {"accepted_uids": "", "no_op": "void"})


def _report(context: ReadContext, state: OuterState, decision: Decision) -> None:
    values: dict[str, float | int | str] = {
        "state_window": state.window,
        "state_root": state.root.hex(),
        "accepted_uids": ",".join(str(member.uid) for member in decision.members),
        "voting_stake_rao": decision.voting_stake_rao,
        "outer_lr": state.alpha(context.run.at(state.window - 1).outer),
    }
    if decision.no_op:
        values["no_op"] = decision.no_op
    if state.window % context.run.at(decision.window).checkpoint.digest_every_windows == 0:
        values["params_digest"] = params_digest(state).hex()
    context.metrics.log(decision.window, values)
    uids = [member.uid for member in decision.members]
    log.info(
        "window %d: %s; now at theta_%d, root %s",
        decision.window,
        f"accepted {uids}" if uids else f"nobody's payload is applied: {decision.no_op}",
        state.window,
        state.root[:8].hex(),
    )
