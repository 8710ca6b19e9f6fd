"""Tables of the run spec about time: the schedule in blocks, and checkpoints in windows."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from template.protocol.schedule import Schedule
from template.protocol.spec.constraints import OneOf, Range, Sha256, Table

MAX_PART_BYTES = 2**32
"""Limit on one file of a checkpoint: a joiner has one of them in memory at a time."""

# Far beyond every run: the limits keep a stranger's spec from taking time or memory without end.
MAX_BLOCK = 2**32 - 1
"""The chain counts blocks in 32 bits."""
MAX_PERIOD_BLOCKS = 100_000
"""Two weeks at 12 s."""
MAX_TEMPO_BLOCKS = 65_535
"""The chain counts a tempo in 16 bits."""
MAX_WINDOWS = 1_000_000
"""Forty years of windows of 20 minutes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleSpec(Table):
    """Windows and deadlines, in blocks. A public chain makes a block every 12 s.

    A window is trained during its `blocks_per_window` blocks. In the next window its payloads
    are uploaded (`upload_blocks`), scored (`scoring_blocks`) and voted on before the last
    `vote_margin_blocks`; the update is in force at the start of the window after that.
    """

    TABLE: ClassVar[str] = "schedule"

    network: Annotated[str, OneOf("public", "local")]
    """The kind of chain: "local" is a localnet, with chain and all buckets on one machine and the
    state of all blocks kept; "public" is any other. Nodes refuse a contradicting chain.
    """
    start_block: Annotated[int, Range(ge=1, le=MAX_BLOCK)]
    """First block of window 0, chosen on publishing, ahead of the chain's head by enough time
    for miners to get ready.
    """
    blocks_per_window: Annotated[int, Range(ge=1, le=MAX_PERIOD_BLOCKS)]
    """B, the length of a window. Longer windows suit larger models and slower uplinks, but make
    fewer outer steps a day.
    """
    upload_blocks: Annotated[int, Range(ge=1, le=MAX_PERIOD_BLOCKS)]
    """K, blocks after the end of a window in which miners upload their payloads. Later
    payloads may miss the scoring.
    """
    scoring_blocks: Annotated[int, Range(ge=1, le=MAX_PERIOD_BLOCKS)]
    """A validator's budget for fetching and scoring, between the upload deadline and the vote.
    With too few, slow validators leave payloads unscored.
    """
    vote_margin_blocks: Annotated[int, Range(ge=1, le=MAX_PERIOD_BLOCKS)]
    """M, blocks between the count of the votes and the end of the window: time for a node to
    fetch accepted payloads still missing.
    """
    finality_lag_blocks: Annotated[int, Range(ge=0, le=MAX_PERIOD_BLOCKS)]
    """Blocks by which finality trails the head of the chain; 2 or 3 on a healthy public chain."""
    tempo_blocks: Annotated[int, Range(ge=1, le=MAX_TEMPO_BLOCKS)]
    """The subnet's tempo, for the commitment quota. Take at least the tempo on chain: with a
    smaller figure the chain may refuse votes in mid-run.
    """
    num_windows: Annotated[int, Range(ge=1, le=MAX_WINDOWS)] = MAX_WINDOWS
    """Length of the run. The learning rate reaches its end in the last window. Without this key
    the run has no planned end: the learning rate warms up and then stays, and a decay is begun by
    a succession.
    """

    @property
    def is_local(self) -> bool:
        """Whether chain and buckets of the run are on one machine; the chain's address may lie."""
        return self.network == "local"

    @property
    def period_windows(self) -> int:
        """Windows of a pay period: the fewest that are no shorter than a tempo."""
        return -(-self.tempo_blocks // self.blocks_per_window)

    def pay_window(self, window: int) -> int:
        """The newest window up to `window` whose weights validators set; -1 before the first.

        The last window of each pay period, and of the run.
        """
        if window >= self.num_windows - 1:
            return self.num_windows - 1
        return (window + 1) // self.period_windows * self.period_windows - 1

    @property
    def has_end(self) -> bool:
        """Whether the run has a planned end."""
        return self.num_windows < MAX_WINDOWS

    @property
    def length(self) -> str:
        """For messages: how many windows of how many blocks."""
        windows = (
            f"{self.num_windows:,} windows" if self.has_end else "windows without a planned end"
        )
        return f"{windows}, of {self.blocks_per_window} blocks each"

    def schedule(self) -> Schedule:
        """The fields for block arithmetic."""
        return Schedule(
            start_block=self.start_block,
            blocks_per_window=self.blocks_per_window,
            upload_blocks=self.upload_blocks,
            vote_margin_blocks=self.vote_margin_blocks,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSpec(Table):
    """The first parameters, and the checkpoints from which newcomers start."""

    TABLE: ClassVar[str] = "checkpoint"

    theta0_digest: Annotated[str, Sha256()]
    """SHA-256 of the index of theta_0: the SHA-256s of its parts. A digest rather than a seed:
    random numbers differ between library versions and machines.
    """
    every_windows: Annotated[int, Range(ge=1, le=10_000)]
    """Windows between checkpoints. A newcomer replays all windows since the latest checkpoint;
    frequent checkpoints cost upload and storage, and on a line that is too slow for them some are
    left out. In a window with a checkpoint theta is rounded to 24 bits. 1 is safest on a public
    chain, whose nodes keep 256 blocks of state.
    """
    digest_every_windows: Annotated[int, Range(ge=1, le=MAX_WINDOWS)]
    """Windows between logged digests of all parameters, a metric for comparing nodes."""
    part_bytes: Annotated[
        int, Range(ge=1, le=MAX_PART_BYTES, because="a joiner has a part in memory")
    ]
    """Maximum bytes of tensors, counted as float32, in one file of a checkpoint, which has three
    quarters of them; a larger tensor has a file of its own. Three validators put each file, so
    many small files share the upload evenly among many validators; small files cost more requests.
    """
