"""The configuration of a localnet: the values of the command line, as one frozen object."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from localnet.changes import Change
from localnet.roster import Participant

MIN_LOSS_DROP_NATS = 0.3
"""A long run must end with a held-out loss this far below the first loss."""
LONG_RUN_WINDOWS = 20
"""Shorter runs must learn less; see `localnet.checks`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalnetConfig:
    """A localnet. `text`: the sdist with the corpus; `data`: a prepared dataset in its place.
    `block_time_s`: None for what the machine can keep. `restarts`: most restarts of one process.
    `hold`: chain and bucket server outlive the run. `commit_reveal`: of the local chain.
    `changes`: of the run while it goes on.
    """

    roster: tuple[Participant, ...]
    num_windows: int
    out: Path
    plan: Path
    text: Path
    data: Path | None = None
    block_time_s: float | None
    seed: int
    debug: bool
    restarts: int
    hold: bool
    wandb: Literal["off", "offline", "online"]
    commit_reveal: Literal["off", "modelled"] = "off"
    changes: tuple[Change, ...] = ()

    @property
    def reveal_epochs(self) -> int:
        """Epochs by which a row of weights counts later: new subnets have a reveal period of 1."""
        return 1 if self.commit_reveal == "modelled" else 0
