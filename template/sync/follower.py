"""Following the run: from theta_{w+1} to theta_{w+2} by what the chain decided on window w.

Miner and validator follow alike; nothing here depends on a role. A node that finds itself apart
from the majority comes back by itself: it takes its last steps again, or joins anew.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from template.chain.ballots import read_ballot
from template.context import ReadContext
from template.errors import ChainError, ConsensusError, StoreError, Unavailable
from template.peers.client import Peers
from template.protocol.lineage import Accepted, LineageStep
from template.protocol.payload import Payload
from template.protocol.quorum import VOID_WINDOWS, Decision, decide, is_void, voided
from template.protocol.record import ROOT_BYTES
from template.protocol.root import Member, sample_digest, tensors_digest
from template.sync.anchors import Past
from template.sync.bootstrap import join_at
from template.sync.lineage import read_lineage, voted_now
from template.sync.payload_cache import Frames
from template.sync.recovery import heal, step_from, take_back
from template.training.outer import OuterState, outer_step

log = logging.getLogger(__name__)

KEPT_BLOCKS = 128
"""A chain's endpoint keeps the state of so many blocks at least; most keep 256."""

WARN_EVERY = 20
"""Tries between two warnings that a payload is missing."""


def _nothing() -> None:
    pass


def _applied(window: int, members: tuple[Member, ...], voting_stake_rao: int) -> Decision:
    """The decision on a window of which no more is known than what was applied."""
    return Decision(
        window=window,
        members=members,
        namers={},
        root=None,
        sample_digest=None,
        dissenters=(),
        undelivered=(),
        voting_stake_rao=voting_stake_rao,
        no_op="" if members else "nothing that this node knows of was applied",
    )


class Follower:
    """Holds the state of the run and moves it, one decided window at a time."""

    def __init__(
        self, context: ReadContext, peers: Peers, state: OuterState, *, may_join: bool = True
    ) -> None:
        """`may_join`: a published state is what is left when the node's own past does not help."""
        self._context = context
        self._peers = peers
        self._may_join = may_join
        self.state = state
        self.past = Past(context.state_dir / "past", context.spec, state)
        self.frames = Frames(context, peers)
        self._decisions: dict[int, Decision] = {}
        self._ahead: list[LineageStep] = []
        self.last_accepted: frozenset[str] = frozenset()
        """Hotkeys of the last decision that accepted anybody, if this node was there."""
        self.taken_back: list[LineageStep] = []
        """Steps found void since the owner of this list emptied it."""

    @property
    def next_window(self) -> int:
        """The window whose decision moves the state."""
        return self.state.window - 1

    def keep(self, window: int, digest: bytes, frame: bytes) -> None:
        """Remember a frame: see `Frames.keep`."""
        self.frames.keep(window, digest, frame)

    def held(self, digest: bytes) -> bytes | None:
        """A frame that was kept."""
        return self.frames.held(digest)

    def decided(self) -> bool:
        """Whether the next window's votes are final."""
        return self._is_final(self.next_window)

    def advance(self, meanwhile: Callable[[], None] = _nothing) -> Decision:
        """Count the next window's votes, fetch what is missing, take the step.

        Waits for payloads as long as it takes, and calls `meanwhile` after each try: a step
        without one would be another model. Only most of the stake can give them up.
        ConsensusError if the stake majority stands elsewhere and there is no way there.
        """
        self._take_back_void()
        decision = self._decision_if_known()
        if decision is None:
            return self._follow_lineage()
        self._compare(decision)
        payloads = self._gather(decision, meanwhile)
        if payloads is None:
            decision, payloads = voided(decision), {}
            log.warning("window %d: %s", decision.window, decision.no_op)
        self._take(decision, payloads, decision.root or b"")
        try:
            self._take_back_void()
        except StoreError as error:
            log.warning("%s; tried again before the next step", error)
        self._report(decision)
        return decision

    def _is_final(self, window: int) -> bool:
        vote_block = self._context.schedule.vote_block(window)
        return self._context.chain.finalized() >= vote_block

    def _decision(self, window: int) -> Decision:
        """On the next window or one after it, whose votes must be final."""
        if window not in self._decisions:
            between = [self._decisions[w] for w in range(self.next_window, window)]
            stakes = [*self.state.voting_stakes_rao, *(d.voting_stake_rao for d in between)]
            context = self._context
            ballot = read_ballot(context.chain, context.schedule, window)
            self._decisions[window] = decide(ballot, stakes, context.spec.outer.quorum_rules())
        return self._decisions[window]

    def _decision_if_known(self) -> Decision | None:
        """On the next window; None if the chain's endpoint has forgotten that, it is so old."""
        try:
            return self._decision(self.next_window)
        except ChainError:
            context = self._context
            vote_block = context.schedule.vote_block(self.next_window)
            if context.chain.finalized() - vote_block < KEPT_BLOCKS:
                raise
            return None

    def _follow_lineage(self) -> Decision:
        """Take the next step by the lineage: this node was away for longer than the chain tells."""
        step = self._lineage_step()
        try:
            payloads = self.frames.again(step)
        except Unavailable as error:
            return self._jump(error)
        # What a stranger's lineage says of votes is in no root: it must not make a window void.
        self._take(step, payloads, b"")
        decision = _applied(step.window, step.members, step.voting_stake_rao)
        self._report(decision)
        return decision

    def _jump(self, error: Unavailable) -> Decision:
        """Join anew: what this node missed is kept by nobody any more. Raises `error` where no
        published state is newer than its own.
        """
        context = self._context
        newest = context.schedule.window_of(context.chain.finalized())
        state = join_at(context, self._peers, newest) if self._may_join else self.state
        if state.window <= self.state.window:
            raise error
        log.warning("%s; joining anew at theta_%d", error, state.window)
        self.state, self._ahead = state, []
        self._decisions.clear()
        self.past = Past(context.state_dir / "past", context.spec, state)
        return _applied(state.window - 2, (), 0)

    def _lineage_step(self) -> LineageStep:
        """On the next window, from whoever's lineage leads to what is voted now."""
        if not self._ahead or self._ahead[0].window != self.next_window:
            self._peers.refresh()
            vote = voted_now(self._context)
            steps = read_lineage(self._context, self._peers, vote.window + 1, vote.root)
            self._ahead = [step for step in steps if step.window >= self.next_window]
        if not self._ahead or self._ahead[0].root != self.state.root:
            raise ConsensusError(
                f"window {self.next_window}: the chain's endpoint has forgotten its votes, and no "
                "validator's lineage leads on from here. Remove --neuron.state_dir "
                f"{self._context.state_dir} and start again: the node joins by a published "
                "checkpoint"
            )
        return self._ahead.pop(0)

    def _is_void(self, window: int) -> bool:
        """Whether the votes on the windows after it have given up the payloads of the next one."""
        mine, later = self.state.root[:ROOT_BYTES], []
        for other in range(window + 1, window + 1 + VOID_WINDOWS):
            if not self._is_final(other):
                return False
            later.append(self._decision(other).root)
            if later[-1] != mine:
                return False
        return is_void(mine, later)

    def _compare(self, decision: Decision) -> None:
        """Find out whether this node stands where the majority does; go there if it does not."""
        if decision.dissenters:
            log.error(
                "window %d: the votes of uids %s differ in root or tensors from the majority's",
                decision.window,
                list(decision.dissenters),
            )
        differs = self._differs(self.state, decision)
        if differs:
            log.error("window %d: %s of this node differ from the stake majority's",
                decision.window, differs)  # fmt: skip
        self._context.metrics.log(
            decision.window,
            {
                "dissenting_uids": ",".join(map(str, decision.dissenters)),
                "differs_from_majority": int(bool(differs)),
            },
        )
        if differs:
            self._heal(decision)

    def _differs(self, state: OuterState, decision: Decision) -> str:
        """What differs from the majority's at `state`: "root", "tensors", or nothing.

        A majority that stands on a root before ours lacks payloads; it will come, or they are void.
        """
        if decision.root is None:
            return ""
        if decision.root != state.root[:ROOT_BYTES]:
            behind = {step.root[:ROOT_BYTES] for step in self.past.steps}
            return "" if decision.root in behind else "the root"
        seed = self._context.chain.block_hash(self._context.schedule.stake_block(decision.window))
        mine = sample_digest(state.params, seed)
        return "" if decision.sample_digest in (None, mine) else "the tensors"

    def _heal(self, decision: Decision) -> None:
        """Take the last steps again; if that leads elsewhere, join anew. ConsensusError if both
        do.
        """
        context = self._context

        def is_right(state: OuterState) -> bool:
            return not self._differs(state, decision)

        log.warning("window %d: taking the last steps again", decision.window)
        try:
            healed = heal(self.past, self.frames.again, context.spec, is_right)
        except Unavailable as error:
            log.warning("window %d: not by the last steps: %s", decision.window, error)
            healed = None
        if healed is None:
            healed = self._joined_anew(decision)
        if healed is None or not is_right(healed):
            raise ConsensusError(self._apart(decision))
        self.state = healed
        context.metrics.log(decision.window, {"healed": 1})
        log.warning(
            "window %d: healed: this node stands where the stake majority does, root %s",
            decision.window,
            healed.root[:8].hex(),
        )

    def _joined_anew(self, decision: Decision) -> OuterState | None:
        """A published state, led on to where this node is by what the chain still tells."""
        if not self._may_join:
            return None
        context = self._context
        # Votes that prove a newer one are not final yet: there is no waiting for them here.
        state = join_at(context, self._peers, self.state.window - 2)
        log.warning("window %d: joining anew at theta_%d", decision.window, state.window)
        beside = replace(context, state_dir=context.state_dir / "anew")
        follower = Follower(beside, self._peers, state, may_join=False)
        while follower.next_window < decision.window:
            follower.advance()
        self.past.replace_by(follower.past)
        return follower.state

    def _apart(self, decision: Decision) -> str:
        voted = b"" if decision.root is None else decision.root
        return (
            f"window {decision.window}: the stake majority votes root {voted.hex()}, this node "
            f"stands on {self.state.root[:ROOT_BYTES].hex()}, and neither its past nor a published "
            f"checkpoint leads there. If it never agreed with the others, its --run "
            f"{self._context.run_file} (run id {self._context.spec.run_id.hex()}) is not theirs: "
            "get the file again from the subnet's owner. If it did, remove its --neuron.state_dir "
            f"{self._context.state_dir} and start it again: it will join from a published "
            "checkpoint"
        )

    def _gather(
        self, decision: Decision, meanwhile: Callable[[], None]
    ) -> dict[int, Payload] | None:
        """The accepted payloads by uid, however long it takes; None if they are void."""
        tries = 0
        while not self._is_void(decision.window):
            missing = self.frames.fetch(decision.window, decision.members, decision.namers)
            if not missing:
                return self.frames.opened(decision.window, decision.members)
            if tries % WARN_EVERY == 0:
                uids = [member.uid for member in missing]
                log.warning("window %d: waiting for the accepted payloads of uids %s",
                    decision.window, uids)  # fmt: skip
            tries += 1
            meanwhile()
            self._context.waiter.pause()
        return None

    def _take(self, decision: Accepted, payloads: Mapping[int, Payload], voted_root: bytes) -> None:
        step = step_from(self.state, decision, voted_root)
        after = outer_step(self.state, decision, payloads, self._context.spec)
        self.past.remember(step, after)
        self.state = after
        self.frames.forget(decision.window)
        self._decisions = {w: d for w, d in self._decisions.items() if w > decision.window}
        if decision.members:
            self.last_accepted = frozenset(member.hotkey for member in decision.members)

    def _take_back_void(self) -> None:
        """Go back before a window whose payloads most of the stake could not get."""
        window = self.past.newly_void()
        if window is None:
            return
        log.warning("window %d is void: most of the stake lacked its payloads", window)
        void = next(step for step in self.past.steps if step.window == window)
        state = take_back(self.past, window, self.frames.again, self._context.spec)
        if state is None:
            raise ConsensusError(
                f"window {window} is void, and this node keeps no state from before it; remove its "
                f"--neuron.state_dir {self._context.state_dir} and start it again: it will join "
                "from a published checkpoint"
            )
        self.state = state
        self.taken_back.append(void)
        for step in self.past.steps:
            if step.window >= window:
                self._context.metrics.log(step.window, {"state_root": step.next_root.hex()})
        self._context.metrics.log(window, {"accepted_uids": "", "no_op": "void"})

    def _report(self, decision: Decision) -> None:
        state, spec = self.state, self._context.spec
        values: dict[str, float | int | str] = {
            "state_window": state.window,
            "state_root": state.root.hex(),
            "accepted_uids": ",".join(str(member.uid) for member in decision.members),
            "voting_stake_rao": decision.voting_stake_rao,
        }
        if decision.no_op:
            values["no_op"] = decision.no_op
        if state.window % spec.checkpoint.digest_every_windows == 0:
            values["params_digest"] = tensors_digest(state.params).hex()
        self._context.metrics.log(decision.window, values)
        log.info(
            "window %d: accepted %s; now at theta_%d, root %s",
            decision.window,
            [member.uid for member in decision.members],
            state.window,
            state.root[:8].hex(),
        )
