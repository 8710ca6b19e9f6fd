"""What a neuron is given: the run, its identity and its adapters. Made in `neurons/`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from template.chain import Chain
from template.chain.commands import Commands
from template.chain.waiter import Waiter
from template.metrics import Metrics
from template.protocol.payload import PayloadFormat
from template.protocol.record import Access
from template.protocol.schedule import Schedule
from template.protocol.spec import RunSpec
from template.store import Store

OpenBucket = Callable[[str, Access], Store]
"""(hotkey, its access record) -> its bucket, read only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadContext:
    """All that it takes to follow a run and to judge it: nobody's key, and nothing is published.

    `run_file` is for messages: where the spec came from.
    """

    spec: RunSpec
    form: PayloadFormat
    chain: Chain
    waiter: Waiter
    open_bucket: OpenBucket
    metrics: Metrics
    state_dir: Path
    device: str
    run_file: Path

    @property
    def schedule(self) -> Schedule:
        return self.spec.schedule.schedule()


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeContext(ReadContext):
    """`bucket` is this hotkey's own, writable; `access` the read-only way into it, public.

    `commands` are for messages: what its operator would type.
    """

    hotkey: str
    access: Access
    bucket: Store
    commands: Commands
