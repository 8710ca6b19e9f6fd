"""What training leaves behind, for the local checkpoint and for metrics: moments and busy time."""

import time
from collections.abc import Mapping

from torch import Tensor

from template.training.inner_loop import Trainer


class KeptMoments:
    """AdamW's moments as of the last window's end, while the next window is trained."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._copies: Mapping[str, Tensor] | None = None
        """None where the trainer's own are saved."""

    def copy(self) -> None:
        """Keep those of now, unless they lie in the node's memory: no room for two copies."""
        if not self._trainer.shares_memory:
            self._copies = None  # nor for three elsewhere
            self._copies = self._trainer.moments()

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The moments to save."""
        return self._trainer.moments() if self._copies is None else self._copies

    @property
    def revision(self) -> object:
        """Another object after every change."""
        # Copies say themselves which they are; the trainer's own change with every window.
        return self._trainer.revision if self._copies is None else self._copies


class BusyShare:
    """The share of wall time that goes into inner steps, from one inner loop's end to the next."""

    def __init__(self) -> None:
        self._ended_s: float | None = None

    def note_end(self, busy_s: float) -> dict[str, float]:
        """The metric of the inner loop that ends now; none of a process's first."""
        before_s, self._ended_s = self._ended_s, time.monotonic()
        if before_s is None or self._ended_s <= before_s:
            return {}
        return {"utilisation": round(busy_s / (self._ended_s - before_s), 4)}
