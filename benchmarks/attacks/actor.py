"""What a miner does in a window: the interface, and honest work at several paces.

Actors see what a real miner could see, and more: `honest_now` are the honest payloads of the
same window, which commit before reveal keeps from everybody. An attack that needs it is the
strongest of its kind.

Legend: N parameters.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from benchmarks.attacks.model import LeanWorkers
from benchmarks.learning.messages import Message, SparseCodec
from template.protocol.payload import PayloadFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One actor's view of one window. `delta_N`: start less end of the inner steps that it made
    itself. `last`: the payloads of the window before by uid; `update_N`: the update they made.
    `sent_now`: what uids before this one have made in this window; of use to one operator alone.
    """

    number: int
    uid: int
    params_N: Tensor
    delta_N: Tensor
    last: Mapping[int, Message]
    update_N: Tensor
    honest_now: Mapping[int, Message]
    sent_now: Mapping[int, Message]
    workers: LeanWorkers
    codec: SparseCodec
    rng: np.random.Generator

    def encoded(self, dense_N: Tensor) -> Message:
        """A payload that says this, as far as the code can."""
        return self.codec.send(dense_N, dense_N.new_zeros(dense_N.shape), 1)


class Actor:
    """Works honestly. `share`: of the inner steps; `claims`: the share it says it made. `width`:
    batches of an inner step, trained and claimed.

    `feeds_back`: keeps error feedback, as the miner's own code does. `stale`: windows that its
    base is older than it says. `renewed_every`: windows after which its uid passes to a new
    hotkey of the same owner, 0 for never. `seen_by`: validators that can fetch what it sends,
    None for all.
    """

    share = 1.0
    claims: float | None = None
    width = 1
    feeds_back = True
    colludes = False
    """Sends after the honest, and sees what they sent."""
    stale = 0
    renewed_every = 0
    seen_by: frozenset[int] | None = None

    def dishonest(self, number: int) -> bool:
        """Whether it attacks in this window."""
        return False

    def share_in(self, number: int) -> float:
        """Share of the inner steps that the miner makes in this window."""
        return self.share

    def width_in(self, number: int) -> int:
        """Batches of an inner step, trained and claimed, in this window."""
        return self.width

    def hotkey(self, uid: int, number: int) -> str:
        """Whose uid it is in this window."""
        return f"{uid}/{number // self.renewed_every}" if self.renewed_every else str(uid)

    def source(self, uid: int, step: int) -> tuple[int, int]:
        """Whose pages it trains on in an inner step, and the how manieth batch of theirs."""
        return uid, step

    def taken(self, pages: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What it trains on in an inner step, of a batch int64 [pages, tokens]."""
        return pages

    def pages(self, consumed: np.ndarray, view: View) -> np.ndarray:
        """The claimed pages; `consumed` are the pages of the assigned steps."""
        return consumed

    def send(self, honest: Message, view: View) -> Message | None:
        """The payload that goes out, None for nothing; `honest` is that of the miner's own work."""
        return honest


class Attacker(Actor):
    """Dishonest from the first window on, and without work of its own."""

    share, claims = 0.0, 1.0
    feeds_back = False

    def dishonest(self, number: int) -> bool:
        return True


class Malformed(Attacker, ABC):
    """Sends bytes that are no payload of the run."""

    @abstractmethod
    def damaged(self, frame: bytes, form: PayloadFormat) -> bytes:
        """What goes out in place of a good frame."""

    def unchecked(self, message: Message) -> Tensor | None:
        """What a decoder without checks makes of it, [N]; None if it stops the node."""
        return None
