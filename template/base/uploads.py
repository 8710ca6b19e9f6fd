"""All that a validator puts into its bucket, and who goes first.

Named payloads, the vote and the logs go out in the loop; checkpoints, theta_0, mirrored shards and
the cleanup go on beside the loop through the whole window, and so do the looks at payloads that
other validators put. Owns this order and nothing else: queues, retries and threads lie in
`template.bucket`.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Final

from template.base.holding import NamedPayloads
from template.bucket.background import Background
from template.bucket.mirror import ShardMirror
from template.bucket.publisher import Publisher
from template.bucket.retention import Sweeper
from template.bucket.standby import TURNS, Standby
from template.chain.ballots import read_holding
from template.context import NodeContext
from template.data.pages import PageReader
from template.protocol.holders import Holding
from template.protocol.payload import payload_digest
from template.protocol.root import Member
from template.scoring.window import Scored

STOP_S: Final = 2.0
"""Longest wait for a piece under way when the node is stopped."""
PUBLISH, LOOK = "publish", "standby"


class Uploads:
    """A validator's uploads. The loop calls every method; jobs run in threads of their own."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._background = Background(context.note_work)
        self.publisher = Publisher(context, paced=self._background.paced)
        self.standby = Standby(context, self._background)
        self.named = NamedPayloads(context)
        self._sweeper: Sweeper | None = None
        self._mirror: ShardMirror | None = None
        self._window = 0
        self._needed: set[bytes] = set()
        self._pages: PageReader | None = None

    def serve(self, pages: PageReader) -> None:
        """Mirror this dataset and clean up from now on; the run's earlier datasets stay.

        For the same dataset again it does nothing.
        """
        if pages is self._pages:
            return
        self._pages = pages
        context, paced = self._context, self._background.paced
        self._mirror = ShardMirror(context, pages.manifest, pages, paced=paced)
        self._needed |= set(pages.digests)
        self._sweeper = Sweeper(
            context,
            self._needed,
            promised=lambda: self.publisher.promised,
            on_expired=self.standby.drop_before,
        )

    def first(self) -> AbstractContextManager[None]:
        """Within the block the loop's own uploads go first."""
        return self._background.first()

    def go_on(self, window: int) -> None:
        """Upload what waits, beside the loop; clean up at theta_window."""
        self._window = window
        self._background.start(PUBLISH, self._publish)

    def finish(self) -> None:
        """Wait until what waits is out, or refused: nothing comes after a run's end."""
        for name in (PUBLISH, LOOK):
            self._background.wait_for(name)
        self.raise_failure()

    def look(self, decided: int | None = None) -> None:
        """Look whether named payloads are served, beside the loop.

        `decided`: a window whose votes have just been counted.
        """
        if decided is not None:
            self.standby.settle(decided)
        self._background.start(LOOK, self.standby.look)

    def turn_blocks(self, window: int) -> list[int]:
        """Blocks between two windows' scoring at which to look again, if a payload is missing."""
        since = self._context.schedule.vote_block(window - 1)
        blocks = [since + turn * self.standby.turn_blocks for turn in range(1, TURNS + 1)]
        return [b for b in blocks if b < self._context.schedule.held_out_block(window)]

    def raise_failure(self) -> None:
        """Raise what ended a job, as a full disk."""
        self._background.raise_failure()

    def stop(self) -> None:
        """End between two pieces; the rest waits for the next start."""
        self._background.stop(STOP_S)

    def holding(self, window: int) -> Holding:
        """The nodes that hold the window's payloads, this node among them."""
        context = self._context
        graph = context.chain.metagraph(context.schedule.stake_block(window))
        stake_rao = next(
            (n.total_stake_rao for n in graph.neurons if n.hotkey == context.hotkey), 0
        )
        return read_holding(context.chain, context.run, window).joined_by(context.hotkey, stake_rao)

    def reserve(self, window: int, members: Mapping[int, Member], period_blocks: int) -> float:
        """Fraction of the scoring period to keep for the payloads that fall to this node."""
        digests = {member.digest for member in members.values()}
        share = self.named.share(window, self.holding(window), digests)
        return self.named.reserve(window, period_blocks, share)

    def hold(
        self,
        window: int,
        frames: Mapping[int, bytes],
        authors: Mapping[bytes, str],
        is_late: Callable[[], bool],
    ) -> frozenset[int]:
        """The uids (of `frames`: uid -> payload) held by this node: in its bucket or on its disk.

        `authors`: digest -> the miner's hotkey.
        """
        digests = {uid: payload_digest(frame) for uid, frame in frames.items()}
        holding = self.holding(window)
        mine = holding.held_by(self._context.hotkey, digests.values())
        kept = {digests[uid]: f for uid, f in frames.items() if digests[uid] not in mine}
        self.standby.keep(window, kept, authors, holding)
        to_put = {uid: frame for uid, frame in frames.items() if digests[uid] in mine}
        return self.named.hold(window, to_put, is_late) | (frames.keys() - to_put.keys())

    def hold_named(
        self, window: int, uids: frozenset[int], scored: Scored, is_late: Callable[[], bool]
    ) -> frozenset[int]:
        """Those of the named uids whose payloads this node holds now.

        A uid without a frame here stays in: a dishonest policy may name such a uid.
        """
        digests = {verdict.uid: bytes.fromhex(verdict.digest) for verdict in scored.verdicts}
        frames = {
            uid: scored.frames[digest]
            for uid, digest in digests.items()
            if uid in uids and digest in scored.frames
        }
        authors = {bytes.fromhex(verdict.digest): verdict.hotkey for verdict in scored.verdicts}
        return uids - frames.keys() | self.hold(window, frames, authors, is_late)

    def _publish(self) -> None:
        def stop() -> bool:
            self._background.give_way()
            return False

        # The cleanup first: a checkpoint may take all of a window, and a full bucket takes none.
        if self._sweeper is not None:
            self._sweeper.sweep(self._window, stop)
        if self.publisher.push(stop) and self._mirror is not None:
            self._mirror.push(stop)
