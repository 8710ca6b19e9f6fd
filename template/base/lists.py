"""A miner's page lists: which pages, and which part of the model, a window's draw assigns."""

import logging

import numpy as np

from template.context import NodeContext
from template.data.assignment import assigned_pages, assignment_seed
from template.errors import ChainError
from template.protocol.ranges import BlockRange, drawn_range
from template.sync.dataset import Datasets

log = logging.getLogger(__name__)


class PageLists:
    """Draws page lists, and has the pages of the next one fetched ahead."""

    def __init__(self, context: NodeContext, datasets: Datasets) -> None:
        self._context, self._datasets = context, datasets
        self._prefetched = -1
        """The newest window whose pages were asked for ahead."""

    def draw(self, hotkey: str, window: int, count: int) -> np.ndarray:
        """Ids of the first `count` pages assigned to a hotkey for a window, int64."""
        return assigned_pages(self._seed(hotkey, window), count, self._datasets.at(window).paging)

    def blocks(self, window: int) -> BlockRange:
        """The part of the model that this miner trains on the page list of a window."""
        context = self._context
        return drawn_range(self._seed(context.hotkey, window), context.inner.parts)

    def prefetch(self, window: int, count: int) -> None:
        """Begin to fetch this miner's pages of a window, once they can be known; without waiting,
        so that the pages are there when training begins. May be called again.
        """
        context = self._context
        if window <= self._prefetched or window >= context.run.num_windows:
            return
        if context.waiter.recent_head() < context.schedule.assignment_block(window):
            return
        try:
            ids = self.draw(context.hotkey, window, count)
        except ChainError as error:
            log.debug("window %d: its pages are not fetched ahead: %s", window, error)
            return
        self._prefetched = window
        self._datasets.at(window).prefetch(ids)

    def _seed(self, hotkey: str, window: int) -> bytes:
        context = self._context
        block_hash = context.chain.block_hash(context.schedule.assignment_block(window))
        return assignment_seed(block_hash, hotkey, window)
