"""A world on the machine's clock, with a slow line for its miners and a slow disk."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import numpy as np
from torch import Tensor

from simulation.world import VirtualTime, World
from template.base import work
from template.context import NodeContext
from template.store import Store
from template.store.memory import MemoryStore
from template.store.types import Take
from template.training import checkpoint, tensor_files
from template.training.inner import InnerTrainer

STEP_S: Final = 0.5
"""At 72 B an inner step takes 24 s of a window of 1,380."""


PAYLOAD: Final = "payload"
"""Part of a payload's key."""
waited_s: defaultdict[str, float] = defaultdict(float)
"""up, down, disk -> seconds: a slowness that nobody met measures nothing."""


def wait(what: str, seconds: float) -> None:
    """The line or the disk takes this long."""
    waited_s[what] += seconds
    time.sleep(seconds)


class RealTime(VirtualTime):
    """Blocks of `block_s` seconds; nobody waits for anybody."""

    def __init__(self, block_s: float) -> None:
        super().__init__()
        self._block_s = block_s
        self.block = 0

    @property
    def block(self) -> int:
        return self._first + int((time.monotonic() - self._since_s) / self._block_s)

    @block.setter
    def block(self, number: int) -> None:
        self._first, self._since_s = number, time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def now_s(self) -> float:
        return time.monotonic()


@dataclass(frozen=True, kw_only=True, slots=True)
class Slowness:
    """Seconds a byte of a miner's uploads, of what a miner downloads, and of a disk."""

    up_s: float
    down_s: float
    disk_s: float


class SlowPuts(MemoryStore):
    """A bucket whose writer has a slow line for payloads."""

    up_s = 0.0

    def put(self, key: str, data: bytes) -> None:
        if PAYLOAD in key:
            wait("up", self.up_s * len(data))
        super().put(key, data)


class SlowGets:
    """Another's bucket, whose payloads come over a slow line."""

    def __init__(self, store: Store, down_s: float) -> None:
        self._store, self._down_s = store, down_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def stream(self, key: str, take: Take, *, start: int = 0, max_bytes: int) -> None:
        def take_slowly(piece: bytes) -> None:
            wait("down", self._down_s * len(piece))
            take(piece)

        slows = take_slowly if PAYLOAD in key else take
        self._store.stream(key, slows, start=start, max_bytes=max_bytes)


class PacedWorld(World):
    """Miners named in `beside` work in lanes, all others in turn; both on a slow line."""

    block_s = 0.5
    slowness = Slowness(up_s=0.0, down_s=0.0, disk_s=0.0)
    beside: frozenset[str] = frozenset()
    slow: frozenset[str] = frozenset()

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.time = RealTime(self.block_s)
        self.ledger.time = self.time
        for hotkey in self.slow:
            self.buckets[hotkey] = store = SlowPuts()
            store.up_s = self.slowness.up_s

    def context(self, hotkey: str, state_dir: Path) -> NodeContext:
        made = super().context(hotkey, state_dir)
        if hotkey not in self.slow:
            return made
        down_s = self.slowness.down_s

        def open_slowly(peer: str, _access: object) -> Any:
            return SlowGets(self.buckets[peer].reader(), down_s)

        return replace(made, open_bucket=open_slowly, works_beside=hotkey in self.beside)


class OnDevice(InnerTrainer):
    """Trains as on a device: what is saved is a copy, and nobody else needs the memory."""

    @property
    def shares_memory(self) -> bool:
        return False

    def take_step(self, batch: np.ndarray, lr: float) -> Tensor:
        loss = super().take_step(batch, lr)
        time.sleep(STEP_S)  # the device works, and the host is free
        return loss

    def moments(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in super().moments().items()}


@contextmanager
def slow_disk(seconds_a_byte: float) -> Iterator[None]:
    """Every file of a miner's large groups takes this long; validators' disks are fast."""
    write = tensor_files.write_tensors

    def slowly(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
        num_bytes = write(path, tensors, metadata)
        if any(name in str(path) for name in ("/m0/", "/m1/")) and "past" not in str(path):
            wait("disk", seconds_a_byte * num_bytes)
        return num_bytes

    with (
        patch.object(checkpoint, "write_tensors", slowly),
        patch.object(checkpoint, "PIECE_BYTES", 2**12),
        patch.object(work, "InnerTrainer", OnDevice),
    ):
        yield
