"""What a neuron is given: the run, its identity and its adapters. Made in `neurons/`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from template.base.waiter import Waiter
from template.chain import Chain
from template.chain.commands import Commands
from template.metrics import Metrics
from template.protocol.payload import PayloadFormat
from template.protocol.record import Access
from template.protocol.schedule import Schedule
from template.protocol.spec import RunSpec
from template.store import Store

OpenBucket = Callable[[str, Access], Store]
"""(hotkey, its access record) -> its bucket, read only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeContext:
    """`bucket` is this hotkey's own, writable; `access` the read-only way into it, public.

    `run_file` and `commands` are for messages: where the spec came from, and what its operator
    would type.
    """

    spec: RunSpec
    form: PayloadFormat
    hotkey: str
    access: Access
    chain: Chain
    waiter: Waiter
    bucket: Store
    open_bucket: OpenBucket
    metrics: Metrics
    state_dir: Path
    device: str
    run_file: Path
    commands: Commands

    @property
    def schedule(self) -> Schedule:
        return self.spec.schedule.schedule()
