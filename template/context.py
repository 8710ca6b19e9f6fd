"""Everything handed to a node: the run, an identity and adapters. Made in `neurons/`."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from template.chain import Chain
from template.chain.commands import Commands
from template.chain.waiter import Waiter
from template.metrics import Metrics
from template.protocol.payload import PayloadFormat
from template.protocol.record import Access
from template.protocol.run import Run
from template.protocol.schedule import Schedule
from template.protocol.spec import RunSpec
from template.store import Store
from template.training.options import DEFAULT_OPTIONS, InnerOptions
from template.training.spread import Ranks, Spreader

OpenBucket = Callable[[str, Access], Store]
"""(hotkey, the hotkey's access record) -> the hotkey's bucket, read only."""


def do_nothing() -> None:
    """The `watch_clock` of a node without a clock to compare."""


def ignore_work(_has_begun: bool) -> None:
    """The `note_work` of a node whose clock runs on by itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadContext:
    """Everything needed to follow and judge a run, without a key: a reader publishes no object.

    `run`: the chain of specs, which grows while the node follows a succession. `make_format`: the
    layout of payloads by a spec. `run_file` is the
    first spec's path, for messages. `spreader`: the processes among which theta lies,
    None where this process holds theta. `ranks`: the processes of a neuron of many devices.
    `scoring_batch`: pages of a device's pass for scoring, None for what fills the device.
    """

    run: Run
    make_format: Callable[[RunSpec], PayloadFormat]
    chain: Chain
    waiter: Waiter
    open_bucket: OpenBucket
    metrics: Metrics
    state_dir: Path
    device: str
    run_file: Path
    spreader: Spreader | None = None
    ranks: Ranks | None = None
    scoring_batch: int | None = None

    @property
    def schedule(self) -> Schedule:
        return self.run.schedule

    def form_at(self, window: int) -> PayloadFormat:
        """The layout of the payloads of a window."""
        return self.make_format(self.run.at(window))


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeContext(ReadContext):
    """The context of a node with a hotkey and a bucket of its own.

    `bucket` is this hotkey's, writable; `access` is the public, read-only record of the bucket.
    `commands` are btcli commands for messages to the operator. `random_bytes`: so many bytes that
    nobody else can foresee. `watch_clock` compares this machine's clock with the chain's. `inner`:
    how this machine trains. `works_beside`: whether a miner trains, saves, commits and uploads in
    threads of their own; otherwise one thing follows another, as a world of virtual time needs to
    be the same every time. `note_work` is told when a validator's work beside its loop begins
    (True) and ends (False): a clock that is no real one stands still meanwhile.
    """

    hotkey: str
    access: Access
    bucket: Store
    commands: Commands
    random_bytes: Callable[[int], bytes] = secrets.token_bytes
    watch_clock: Callable[[], None] = do_nothing
    note_work: Callable[[bool], None] = ignore_work
    inner: InnerOptions = DEFAULT_OPTIONS
    works_beside: bool = True
