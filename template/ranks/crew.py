"""A neuron of many ranks: what every rank holds, and how rank 0 leads.

Rank 0 gets a `Crew`, whose parts stand in for those of one process; every other rank obeys in
`follow` until the end.
"""

import logging
import os
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from template.errors import EXIT_TRY_AGAIN, RankLost, SubnetError, exit_status
from template.protocol.payload import PayloadFormat
from template.protocol.spec import RunSpec
from template.ranks.codec import Codec
from template.ranks.engine import CutModel
from template.ranks.evaluation import CutScorer, RanksScorer
from template.ranks.feedback import RanksFeedback
from template.ranks.group import Group
from template.ranks.handles import BandSpreader
from template.ranks.loop import Orders, Team, serve
from template.ranks.shelf import Shelf
from template.ranks.trainer import RanksTrainer
from template.training.options import InnerOptions

log = logging.getLogger(__name__)

NO_MORE: Final[Orders] = {}
LOST_S: Final = 5.0
"""Time for a rank's first stream to notice a lost connection, and to end the process itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Duties:
    """What a rank has to know: the same on every rank, but for the number of the device.

    `device`: of the model and the moments. `keeps_on_device`: theta and error feedback too, and
    payloads are encoded and added there. `scoring_batch`: pages of a validator's pass on each
    device; None fills the device.
    """

    spec: RunSpec
    form: PayloadFormat
    device: torch.device
    options: InnerOptions
    keeps_on_device: bool = False
    scoring_batch: int | None = None


def orders_of(group: Group, duties: Duties, more: Orders) -> tuple[Orders, Orders]:
    """This rank's part of every order of both streams; a model takes memory with its first order.

    The second stream has what a miner does beside its training.
    """
    kept_at = duties.device if duties.keeps_on_device else torch.device("cpu")
    shelf = Shelf(group, duties.form, kept_at, by_torch=duties.keeps_on_device)
    model = CutModel(shelf, duties.spec, duties.device, duties.options)
    scorer = CutScorer(shelf, duties.spec, duties.device, duties.scoring_batch)
    first = {**shelf.orders(), **Codec(shelf).orders(), **model.orders(), **scorer.orders(), **more}
    other = shelf.beside()
    return first, {**other.orders(), **Codec(other).orders(), **model.orders_beside()}


def follow(group: Group, duties: Duties, more: Orders = NO_MORE) -> None:
    """Obey rank 0 until the end. RankLost when rank 0, or another rank, has ended.

    `more`: orders of a caller's own, the same names on every rank.
    """
    first, second = orders_of(group, duties, more)
    thread = ThreadPoolExecutor(1, thread_name_prefix="beside")
    serving = thread.submit(_serve_beside, group, second, duties.device)
    serving.add_done_callback(_end_with)
    serve(group, first)
    thread.shutdown()


def _serve_beside(group: Group, orders: Orders, device: torch.device) -> None:
    if device.index is not None:
        torch.accelerator.set_device_index(device.index)  # each thread has a device of its own
    serve(group.beside, orders, leaves=False)


def _end_with(serving: Future[None]) -> None:
    """A rank without its second stream would let rank 0 wait: the process ends."""
    error = serving.exception()
    if error is None:
        return
    time.sleep(LOST_S)  # where the connection is lost, the first stream's thread ends the process
    log.error("%s", error, exc_info=None if isinstance(error, SubnetError) else error)
    logging.shutdown()
    os._exit(exit_status(error) if isinstance(error, SubnetError) else EXIT_TRY_AGAIN)


class Crew:
    """Rank 0's parts of a miner or validator of many ranks."""

    def __init__(self, group: Group, duties: Duties, more: Orders = NO_MORE) -> None:
        self._duties = duties
        self.team = Team(group, *orders_of(group, duties, more))
        self.spreader = BandSpreader(self.team)

    def trainer(self) -> RanksTrainer:
        """The inner loop on all ranks."""
        duties = self._duties
        return RanksTrainer(
            self.spreader, duties.spec, duties.form.shapes, duties.device, duties.options
        )

    def feedback(
        self, decay: float, saved: Mapping[str, Tensor], returned_share: float
    ) -> RanksFeedback:
        """The error feedback on all ranks; starts from `saved`, or from zeros."""
        return RanksFeedback(self.spreader, self._duties.form, decay, saved, returned_share)

    def split(self) -> None:
        """From now on training has a stream of orders of its own: see `Team`."""
        self.team.split()

    def training(self) -> AbstractContextManager[None]:
        """Within the block this thread trains."""
        return self.team.training()

    def scorer(self) -> RanksScorer:
        """The model for evaluation on all ranks."""
        return RanksScorer(self.spreader, self._duties.form.shapes)

    def end(self) -> None:
        """Tell the other ranks that this process ends; they notice by themselves otherwise."""
        with suppress(RankLost):
            self.team.end()
