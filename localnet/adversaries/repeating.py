"""A miner that repeats another miner's training, to be taken for the author.

Start, assigned pages, rules and earlier payloads are public: everything but the private order in
which the victim trains on its pages.
"""

import numpy as np

from template.base.conduct import MinerParts
from template.base.pending import PendingPayload
from template.base.work import HonestWork
from template.data.assignment import shuffled_blocks
from template.protocol.quorum import Decision
from template.training.checkpoint import LocalCheckpoint


class Repeater(HonestWork):
    """Trains on the victim's pages, moves error feedback as the victim does, claims own pages.

    `victim`: a hotkey; without one, the first other miner of the last accepted set.
    """

    def __init__(
        self, parts: MinerParts, checkpoint: LocalCheckpoint, *, victim: str | None = None
    ) -> None:
        super().__init__(parts, checkpoint)
        self.victim = victim
        self._is_taken_back = True

    def page_ids(self, base: int) -> np.ndarray:
        if self.victim is None:
            others = self.parts.follower.ledger.last_accepted - {self.parts.context.hotkey}
            self.victim = min(others, default=None)
        if self.victim is None:
            return super().page_ids(base)
        assigned = self.list_assigned(self.victim, base)
        return shuffled_blocks(assigned, self.guess_secret(), self.block_pages())

    def guess_secret(self) -> bytes:
        """The secret behind the victim's order: here a guess, as good as any."""
        return self.order_secret

    def note_decision(self, decision: Decision) -> None:
        """The victim's payload returns to error feedback, or not: this one does the same."""
        accepted = {member.hotkey for member in decision.members}
        self._is_taken_back = self.victim is None or self.victim not in accepted
        if self._is_taken_back and self.parts.context.hotkey in accepted:
            for payload in self.parts.pending:
                if payload.window == decision.window:
                    super().take_back(payload)

    def take_back(self, payload: PendingPayload) -> None:
        if self._is_taken_back:
            super().take_back(payload)
