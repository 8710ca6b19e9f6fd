"""Following the run: from theta_{w+1} to theta_{w+2} by what the chain decided on window w.

Miner and validator follow alike; nothing here depends on a role.
"""

import logging
from concurrent.futures import ThreadPoolExecutor

from template.base.ballots import read_ballot
from template.base.context import ReadContext
from template.base.peers import FETCH_THREADS, Peers
from template.errors import ConsensusError, PayloadError
from template.protocol.admission import open_payload
from template.protocol.payload import Payload, payload_digest
from template.protocol.quorum import Decision, decide
from template.protocol.record import ROOT_BYTES
from template.protocol.root import Member, sample_digest, tensors_digest
from template.training.outer import OuterState, outer_step

log = logging.getLogger(__name__)


class Follower:
    """Holds the state of the run and moves it, one decided window at a time."""

    def __init__(self, context: ReadContext, peers: Peers, state: OuterState) -> None:
        self._context = context
        self._peers = peers
        self.state = state
        self._frames: dict[bytes, tuple[int, bytes]] = {}
        self.last_accepted: frozenset[str] = frozenset()
        """Hotkeys of the last decision that accepted anybody, if this node was there."""

    @property
    def next_window(self) -> int:
        """The window whose decision moves the state."""
        return self.state.window - 1

    def keep(self, window: int, digest: bytes, frame: bytes) -> None:
        """Remember a frame fetched (or made) before, so that it is not fetched again.

        Bytes of another digest are not kept: whoever took the step with them would fork.
        """
        if payload_digest(frame) == digest:
            self._frames[digest] = (window, frame)

    def held(self, digest: bytes) -> bytes | None:
        """A frame that was kept, until its window is decided on."""
        kept = self._frames.get(digest)
        return None if kept is None else kept[1]

    def decided(self) -> bool:
        """Whether the next window's votes are final."""
        vote_block = self._context.schedule.vote_block(self.next_window)
        return self._context.chain.finalized() >= vote_block

    def advance(self) -> Decision:
        """Count the next window's votes, fetch what is missing, take the step.

        Waits for payloads as long as it takes: a step without one would be another model.
        ConsensusError if the stake majority stands on another root than this node.
        """
        context, window = self._context, self.next_window
        ballot = read_ballot(context.chain, context.schedule, window)
        decision = decide(ballot, self.state.voting_stakes_rao, context.spec.outer.quorum_rules())
        self._compare(decision, ballot.seed)
        self._fetch_missing(decision)
        payloads = {member.uid: self._obtain(member, decision) for member in decision.members}
        opened = {uid: payload for uid, payload in payloads.items() if payload is not None}
        self.state = outer_step(self.state, decision, opened, context.spec)
        self._frames = {d: kept for d, kept in self._frames.items() if kept[0] > window}
        if decision.members:
            self.last_accepted = frozenset(member.hotkey for member in decision.members)
        self._report(decision)
        return decision

    def _compare(self, decision: Decision, seed: bytes) -> None:
        if decision.root is not None and decision.root != self.state.root[:ROOT_BYTES]:
            raise ConsensusError(
                f"window {decision.window}: the stake majority votes root {decision.root.hex()}, "
                f"this node stands on {self.state.root[:ROOT_BYTES].hex()}. If it never agreed "
                f"with the others, its --run {self._context.run_file} (run id "
                f"{self._context.spec.run_id.hex()}) is not theirs: get the file again from the "
                f"subnet's owner. If it did, remove its --neuron.state_dir "
                f"{self._context.state_dir} and start it again: it will join from a published "
                "checkpoint"
            )
        if decision.dissenters:
            log.error(
                "window %d: the votes of uids %s differ in root or tensors from the majority's",
                decision.window,
                list(decision.dissenters),
            )
        mine = sample_digest(self.state.params, seed)
        differs = decision.sample_digest is not None and decision.sample_digest != mine
        if differs:
            log.error(
                "window %d: the tensors of this node differ from the stake majority's",
                decision.window,
            )
        self._context.metrics.log(
            decision.window,
            {
                "dissenting_uids": ",".join(map(str, decision.dissenters)),
                "differs_from_majority": int(differs),
            },
        )

    def _fetch_missing(self, decision: Decision) -> None:
        """One try for all payloads at once: a slow bucket delays no other."""
        missing = [m for m in decision.members if self.held(m.digest) is None]
        if not missing:
            return
        self._peers.refresh()

        def fetch(member: Member) -> bytes | None:
            namers = decision.namers[member.uid]
            return self._peers.fetch_named_payload(member, decision.window, namers)

        with ThreadPoolExecutor(max_workers=FETCH_THREADS) as pool:
            for member, frame in zip(missing, pool.map(fetch, missing), strict=True):
                if frame is not None:
                    self.keep(decision.window, member.digest, frame)

    def _obtain(self, member: Member, decision: Decision) -> Payload | None:
        frame = self.held(member.digest)
        namers = decision.namers[member.uid]
        attempts = 0
        while frame is None:
            self._peers.refresh()
            frame = self._peers.fetch_named_payload(member, decision.window, namers)
            if frame is None:
                attempts += 1
                if attempts % 20 == 1:
                    log.warning(
                        "window %d: waiting for the accepted payload of uid %d",
                        decision.window,
                        member.uid,
                    )
                self._context.waiter.pause()
        spec = self._context.spec
        try:
            return open_payload(
                frame, member, decision.window, self._context.form, spec.outer.max_staleness
            )
        except PayloadError as error:
            log.error("uid %d was accepted with a payload that is none: %s", member.uid, error)
            return None

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
