"""A miner's preview of the next parameters, from the payloads of the update under way.

The payloads of window w - 1 are applied at the end of window w, but can be fetched K blocks after
the start of w. A miner applies them early and trains on from nearly the next parameters. Before
the votes, the preview assumes acceptance of the hotkeys accepted last and of the own hotkey. A
wrong guess costs the miner a part of the gain; the protocol is not affected.
"""

import logging
from collections.abc import Mapping

from torch import Tensor

from template.chain.ballots import read_candidates
from template.context import NodeContext
from template.errors import ChainError, PayloadError
from template.peers.client import Peers
from template.peers.fetching import Fetching
from template.protocol.admission import open_payload
from template.protocol.payload import Payload
from template.protocol.root import Member
from template.scoring.admission import draw_candidates
from template.sync.follower import Follower
from template.training.outer import previewed_params

log = logging.getLogger(__name__)

ENOUGH = 0.75
"""Fraction of the expected payloads required for a preview.

With fewer, the own payload alone predicts the update better. With at least this fraction at hand,
the preview waits one finality lag at most: a slow bucket must not hold up the rest.
"""


class Preview:
    """The parameters expected at the end of one window. `poll` never blocks on a bucket.

    Fetching stops after half of the scoring period, the time of the validators' own fetching:
    validators rarely accept a later payload. Failures of chain or buckets cost the preview only.
    """

    def __init__(self, context: NodeContext, peers: Peers, follower: Follower, window: int) -> None:
        self._context, self._peers, self._follower = context, peers, follower
        self._state = follower.state  # the follower may move on meanwhile
        self._window = window - 1
        self._spec = context.run.at(self._window)
        # The phases of a window's payloads lie in the next window.
        schedule = context.run.at(window).schedule
        published = context.schedule.held_out_block(self._window)
        self._from_block = published + schedule.finality_lag_blocks
        self._enough_block = self._from_block + schedule.finality_lag_blocks
        self.until_block = self._from_block + schedule.scoring_blocks // 2
        """The block at which fetching stops."""
        self._expected = follower.ledger.last_accepted | {context.hotkey}
        self._members: list[Member] = []
        self._fetching: Fetching | None = None
        self.uids: tuple[int, ...] = ()
        """Uids of the payloads in the finished preview."""
        self.pending = self._state.window == window and bool(follower.ledger.last_accepted)
        """Whether a preview is still possible."""

    def poll(self) -> Mapping[str, Tensor] | None:
        """The expected theta_{window + 1}, returned once; None before and after."""
        if not self.pending:
            return None
        head = self._context.waiter.recent_head()
        if head < self._from_block:
            return None
        if self._fetching is None:
            self.pending = head < self.until_block
            self._fetching = self._begin() if self.pending else None
        if self._fetching is None:
            return None
        waiting = self._fetching.num_waiting
        most = waiting <= (1 - ENOUGH) * len(self._members) and head >= self._enough_block
        if waiting and not most and head < self.until_block:
            return None
        return self._finish(self._fetching)

    def close(self) -> None:
        """Stop; a running download may continue to its time-out."""
        self.pending = False
        if self._fetching is not None:
            self._fetching.close()

    def _begin(self) -> Fetching | None:
        try:
            return self._start_fetching()
        except ChainError as error:
            log.warning("no preview: the chain did not say what was committed: %s", error)
            self.pending = False
            return None

    def _start_fetching(self) -> Fetching:
        context = self._context
        candidates = read_candidates(context.chain, context.run, self._window)
        block_hash = context.chain.block_hash(context.schedule.stake_block(self._window))
        most = context.run.at(self._window).evaluation.max_payloads
        drawn, _ = draw_candidates(block_hash, self._window, list(candidates.values()), most)
        members = sorted(drawn, key=lambda member: member.uid)
        self._members = [member for member in members if member.hotkey in self._expected]
        missing = [m for m in self._members if self._follower.held(m.digest) is None]
        if missing:
            self._peers.refresh()
        return self._peers.start_fetching(missing, self._window)

    def _finish(self, fetching: Fetching) -> Mapping[str, Tensor] | None:
        self.close()
        for member, found in fetching.outcomes():
            if isinstance(found, bytes):
                self._follower.keep(self._window, member.digest, found)
            else:
                log.info("no preview of uid %d: %s", member.uid, found)
        opened = {m.uid: p for m in self._members if (p := self._opened(m)) is not None}
        if not opened or len(opened) < ENOUGH * len(self._members):
            return None
        self.uids = tuple(opened)
        return previewed_params(self._state, self._members, opened, self._spec)

    def _opened(self, member: Member) -> Payload | None:
        frame, spec = self._follower.held(member.digest), self._spec
        if frame is None:
            return None
        try:
            return open_payload(
                frame,
                member,
                self._window,
                self._context.form_at(self._window),
                spec.outer.max_staleness,
                oldest_base=spec.first_window,
            )
        except PayloadError as error:
            log.info("no preview of uid %d: %s", member.uid, error)
            return None
