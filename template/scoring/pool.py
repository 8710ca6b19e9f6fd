"""The pages on which a window's payloads are measured: held-out pages and claimed pages.

A payload is measured on the held-out pages and on its own claims.

Pure: the draw depends on the run spec, block hashes, commitments on chain and payload headers
alone, so every validator and every auditor draws the same pool. The hash of the held-out block,
unknown until every payload of the window is committed, seeds the draw.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from evaluation.work import HELD_OUT
from template.data.assignment import (
    Paging,
    assigned_pages,
    assigned_segments,
    assignment_seed,
    barred_segments,
    claimed_pages,
    held_out_pages,
)
from template.protocol.hashing import labelled_hash, uint_bytes
from template.protocol.payload import PayloadHeader
from template.protocol.root import Member
from template.protocol.run import Run
from template.scoring.rules import looked_at


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """The pages of a window's pool: ids int64 [S]; owners int64 [S], a claimant's uid or HELD_OUT.

    S counts the pages.
    """

    ids_S: np.ndarray
    owners_S: np.ndarray

    def select(self, mask_S: np.ndarray) -> "Pool":
        """The pages where `mask_S` (bool [S]) is true."""
        return Pool(ids_S=self.ids_S[mask_S], owners_S=self.owners_S[mask_S])


def pool_of(held_out: np.ndarray, claimed: Mapping[int, np.ndarray]) -> Pool:
    """The held-out pages, then the claimed pages by uid in their order; page ids, int64."""
    ids, owners = [held_out], [np.full(held_out.size, HELD_OUT, dtype=np.int64)]
    for uid, claimed_ids in claimed.items():
        ids.append(claimed_ids)
        owners.append(np.full(claimed_ids.size, uid, dtype=np.int64))
    return Pool(ids_S=np.concatenate(ids), owners_S=np.concatenate(owners))


def halved(max_width: int) -> list[int]:
    """Half of the width, half of that and so on, rounded down, to 1; nothing for width 1."""
    return [max_width >> times for times in range(1, max_width.bit_length())]


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolDrawer:
    """Draws the pool of a window. `block_hash` maps a block to its 32-byte hash.

    `paging_at`: the pages for training of the dataset of a window.
    """

    run: Run
    block_hash: Callable[[int], bytes]
    paging_at: Callable[[int], Paging]

    def pool_seed(self, window: int) -> bytes:
        """Hash of the window's held-out block, 32 bytes."""
        return self.block_hash(self.run.schedule.held_out_block(window))

    def draw_pool(
        self, window: int, last_commits: Mapping[str, int], headers: Mapping[Member, PayloadHeader]
    ) -> Pool:
        """Held-out pages first, then the claimed pages of each payload in the order of `headers`.

        `last_commits`: hotkey -> newest window with a payload, as `read_last_commits` reads.
        """
        held_out = self.draw_held_out(window, last_commits)
        return pool_of(held_out, self.draw_claims(window, headers))

    def draw_claims(
        self, window: int, headers: Mapping[Member, PayloadHeader]
    ) -> dict[int, np.ndarray]:
        """uid -> claimed pages of each of these payloads, and of no others, in their order."""
        return {
            member.uid: self.draw_claimed(window, member.hotkey, header)
            for member, header in headers.items()
        }

    def draw_held_out(self, window: int, last_commits: Mapping[str, int]) -> np.ndarray:
        """Distinct pages outside `barred_segments` of the last `assignment_windows` windows.

        In each window the segments assigned to hotkeys whose newest payload is of that window or
        later: for the widest payload, or for a narrower one if a crowd's are too many for the text.
        Page ids, int64 [held_out_pages].
        """
        spec, paging = self.run.at(window), self.paging_at(window)
        count = spec.evaluation.held_out_pages
        # No payload crosses a succession: page lists of windows before are nobody's any more.
        first = max(spec.first_window, window + 1 - spec.evaluation.assignment_windows)
        past_windows = range(window, first - 1, -1)
        assigned = (self._list_committed(past, last_commits) for past in past_windows)
        seed = labelled_hash("held-out", self.pool_seed(window), uint_bytes(window))
        # The front of a list is trained at every width: it stays barred longest.
        widths = halved(spec.training.max_width)
        pages_per_window = spec.training.pages_per_window
        fronts = [paging.segments_for(width * pages_per_window) for width in widths]
        barred = barred_segments(assigned, count, paging, fronts)
        return held_out_pages(seed, count, paging, barred)

    def _list_committed(self, window: int, last_commits: Mapping[str, int]) -> np.ndarray:
        """Segments assigned for a window to the hotkeys with a payload of `window` or later.

        int64 [hotkeys, entries].
        """
        # Nobody knows yet how wide the payloads are.
        count, paging = self.run.at(window).training.most_pages, self.paging_at(window)
        segments = [
            assigned_segments(self.list_seed(hotkey, window), count, paging)
            for hotkey, last in last_commits.items()
            if last >= window
        ]
        return np.array(segments, dtype=np.int64).reshape(len(segments), paging.segments_for(count))

    def draw_claimed(self, window: int, hotkey: str, header: PayloadHeader) -> np.ndarray:
        """A sample of the pages claimed by a payload, see `looked_at`; all of fewer.

        Page ids, int64. A payload claims the first `pages_consumed` pages assigned to the hotkey
        for the base window.
        """
        claimed = self.list_assigned(hotkey, header.base_window, header.pages_consumed)
        seed = labelled_hash(
            "claimed", self.pool_seed(window), hotkey.encode("ascii"), uint_bytes(window)
        )
        count = looked_at(self.run.at(window).evaluation, header.width)
        return claimed_pages(seed, claimed, count, self.paging_at(window).segment_pages)

    def list_assigned(self, hotkey: str, window: int, count: int) -> np.ndarray:
        """The first `count` pages assigned to a hotkey for a window, int64; a page may repeat."""
        return assigned_pages(self.list_seed(hotkey, window), count, self.paging_at(window))

    def list_seed(self, hotkey: str, window: int) -> bytes:
        """The seed of a hotkey's page list for a window, and of its part of the model."""
        block_hash = self.block_hash(self.run.schedule.assignment_block(window))
        return assignment_seed(block_hash, hotkey, window)
