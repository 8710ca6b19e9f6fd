"""The processes (ranks) of one miner or validator, and what goes between them.

torchrun starts equal processes. Rank 0 is the neuron: chain, bucket, wallet and index of the state.
The other ranks obey rank 0. Bytes and tensors in host memory go over gloo; the gradients and
parameters of an inner step go over the device's own library (NCCL between CUDA devices).

A rank that ends closes its connections: rank 0 says so and ends, and every other rank with it.
Nothing is unpickled: between ranks go JSON, bytes and tensors of known shapes.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore, PrefixStore, Store, TCPStore

from template.errors import EXIT_TRY_AGAIN, ConfigError, RankLost
from template.settings import Place

log = logging.getLogger(__name__)

STALL_LIMIT_S: Final = 1800.0
"""Longest wait for a rank in the middle of an order."""
LEAVE_LIMIT_S: Final = 30.0
"""Longest wait of rank 0 for the farewell of the others at the run's end."""
_FOREVER: Final = timedelta(days=1000)
"""Wait of an idle rank for the next order: a window, or a run that has not begun."""
_PIECE_BYTES: Final = 2**30
_LIBRARIES: Final = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl", "xpu": "cpu:gloo,xpu:xccl"}


def device_of(name: str, place: Place) -> str:
    """The device of a rank: `cuda` and `xpu` are cut by local rank. ConfigError for one device.

    `name`: as `template.training.devices.find_device` returns.
    """
    kind, _, index = name.partition(":")
    if place.is_alone or kind == "cpu":
        return name
    if index or kind not in _LIBRARIES:
        raise ConfigError(
            f"--neuron.device {name}: {place.size} ranks cannot share one device; name "
            f"{kind if kind in _LIBRARIES else 'cpu'}, and each rank takes the device of its number"
        )
    return f"{kind}:{place.local_rank}"


class Group:
    """All ranks, seen from one of them; `join` makes it."""

    def __init__(self, place: Place) -> None:
        """Of one rank; nothing goes anywhere."""
        self.rank, self.size = place.rank, place.size
        self._orders: dist.ProcessGroup | None = None
        self._pairs: dist.ProcessGroup | None = None
        self.beside = self
        """The same ranks with exchanges of their own, for another thread of each rank."""
        self._watch: dist.ProcessGroup | None = None
        self._is_over = False
        self._watchers: list[threading.Thread] = []

    def connect(self, kind: str, meeting: Store, stall_limit_s: float) -> None:
        """Meet the other ranks. RankLost if they do not come."""
        try:
            dist.init_process_group(
                _LIBRARIES[kind],
                store=meeting,
                rank=self.rank,
                world_size=self.size,
                timeout=timedelta(seconds=stall_limit_s),
            )
            self._orders = dist.new_group(backend="gloo", timeout=_FOREVER)
            self._watch = dist.new_group(backend="gloo", timeout=_FOREVER)
            self.beside = Group(Place(rank=self.rank, size=self.size))
            self.beside._orders = dist.new_group(backend="gloo", timeout=_FOREVER)
            self.beside._pairs = dist.new_group(
                backend="gloo", timeout=timedelta(seconds=stall_limit_s)
            )
        except (RuntimeError, ValueError) as error:
            raise RankLost(f"rank {self.rank}: the {self.size} ranks did not meet: {error}") from (
                error
            )
        if self.rank == 0:
            self._watchers = [
                threading.Thread(
                    target=self._keep_watch, args=(rank,), name=f"watch-rank-{rank}", daemon=True
                )
                for rank in range(1, self.size)
            ]
            for watcher in self._watchers:
                watcher.start()

    def _keep_watch(self, rank: int) -> None:
        """Ends this process when `rank` has ended: no rank can go on without the others."""
        farewell = torch.zeros(1, dtype=torch.uint8)
        try:
            dist.recv(farewell, rank, group=self._watch)
        except RuntimeError:
            if self._is_over:
                return
            log.error("%s", lost_rank(rank, self.size))
            # torchrun is about to stop this process; between ranks nothing can be finished.
            logging.shutdown()
            os._exit(EXIT_TRY_AGAIN)

    def leave(self) -> None:
        """Part from the others at the run's end; every rank calls this at the same time."""
        self._is_over = True
        if self.size == 1:
            return
        if self.rank:
            dist.send(torch.ones(1, dtype=torch.uint8), 0, group=self._watch)
        # A rank whose word finds rank 0 gone would end with an error, and torchrun with it.
        until_s = time.monotonic() + LEAVE_LIMIT_S
        for watcher in self._watchers:
            watcher.join(max(0.0, until_s - time.monotonic()))
        dist.destroy_process_group()

    def broadcast(self, data: bytes = b"") -> bytes:
        """Rank 0's bytes; other ranks' `data` is not looked at. Waits without a limit."""
        if self.size == 1:
            return data
        length = torch.tensor([len(data)])
        self._broadcast(length)
        room = torch.empty(0 if self.rank == 0 else int(length), dtype=torch.uint8)
        if self.rank == 0:
            room = _as_tensor(data)
        for part in room.split(_PIECE_BYTES):
            self._broadcast(part)
        return data if self.rank == 0 else room.numpy().tobytes()

    def _broadcast(self, values: Tensor) -> None:
        if values.numel():
            dist.broadcast(values, 0, group=self._orders)

    def share(self, value: Any) -> Any:
        """Rank 0's JSON value, everywhere."""
        return json.loads(self.broadcast(json.dumps(value).encode() if self.rank == 0 else b""))

    def gather(self, data: bytes) -> list[bytes]:
        """Every rank's bytes, on rank 0; an empty list elsewhere."""
        if self.rank:
            values = _as_tensor(data)
            self.exchange([(0, torch.tensor([values.numel()]))], [])
            self.exchange([(0, values)], [])
            return []
        found = [data]
        for rank in range(1, self.size):
            length = torch.zeros(1, dtype=torch.int64)
            self.exchange([], [(rank, length)])
            values = torch.empty(int(length), dtype=torch.uint8)
            self.exchange([], [(rank, values)])
            found.append(values.numpy().tobytes())
        return found

    def exchange(
        self, sent: Iterable[tuple[int, Tensor]], received: Iterable[tuple[int, Tensor]]
    ) -> None:
        """Send to ranks and receive from ranks, all at once; contiguous CPU tensors, in order."""
        works = []
        for rank, tensor in received:
            works += [dist.irecv(part, rank, group=self._pairs) for part in _pieces(tensor)]
        for rank, tensor in sent:
            works += [dist.isend(part, rank, group=self._pairs) for part in _pieces(tensor)]
        for work in works:
            if work is not None:
                work.wait()

    def move_rows(
        self, rows: Tensor, shape: Sequence[int], source: Sequence[int], goal: Sequence[int]
    ) -> Tensor:
        """This rank's rows of a tensor by the limits `goal`, from every rank's by `source`.

        Limits: `size` + 1 row numbers, from 0 to the number of rows; a scalar is one row. The
        tensor may be a view of `rows`.
        """
        mine, wanted = _span(source, self.rank), _span(goal, self.rank)
        if tuple(source) == tuple(goal):
            return rows
        flat = rows.detach().cpu().contiguous().view(mine[1] - mine[0], *shape[1:])
        out = flat.new_empty((wanted[1] - wanted[0], *shape[1:]))
        sent, received = [], []
        for other in range(self.size):
            first, end = _overlap(mine, _span(goal, other))
            if first < end:
                part = flat[first - mine[0] : end - mine[0]]
                if other == self.rank:
                    out[first - wanted[0] : end - wanted[0]] = part
                else:
                    sent.append((other, part))
            first, end = _overlap(_span(source, other), wanted)
            if first < end and other != self.rank:
                received.append((other, out[first - wanted[0] : end - wanted[0]]))
        self.exchange(sent, received)
        return out


def join(
    place: Place, device: str, *, meeting: Path | None = None, stall_limit_s: float = STALL_LIMIT_S
) -> Group:
    """Meet the other ranks: at torchrun's place, or in a new file. RankLost if they do not come.

    `device`: this rank's, as cpu or cuda:1; becomes the current one.
    """
    group, (kind, _, index) = Group(place), device.partition(":")
    if place.is_alone:
        return group
    if index:
        torch.accelerator.set_device_index(int(index))
    try:
        store = _open_store(place, meeting, timedelta(seconds=stall_limit_s))
    except (RuntimeError, ValueError) as error:
        raise RankLost(f"rank {place.rank}: no meeting at {place.host}: {error}") from error
    group.connect(kind, store, stall_limit_s)
    return group


def _open_store(place: Place, meeting: Path | None, limit: timedelta) -> Store:
    if meeting is not None:
        return FileStore(str(meeting), place.size)
    # torchrun's own process keeps the store, for all attempts.
    store = TCPStore(place.host, place.port, place.size, is_master=False, timeout=limit)
    return PrefixStore(f"tessera/{place.attempt}", store)


def lost_rank(rank: int, size: int) -> str:
    """What an operator reads when a rank has ended."""
    return (
        f"rank {rank} of {size} has ended, and a neuron cannot go on without one of its ranks: all "
        "ranks end now. Look for the reason above (killed for want of memory, perhaps). The state "
        "saved earlier is whole, and a restart goes on from there, with any number of ranks"
    )


def _span(limits: Sequence[int], rank: int) -> tuple[int, int]:
    return limits[rank], limits[rank + 1]


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return max(one[0], other[0]), min(one[1], other[1])


def _as_tensor(data: bytes) -> Tensor:
    return (
        torch.frombuffer(bytearray(data), dtype=torch.uint8)
        if data
        else torch.empty(0, dtype=torch.uint8)
    )


def _pieces(tensor: Tensor) -> list[Tensor]:
    """The parts of a tensor, each sent as one message; a tensor without elements has no part."""
    if not tensor.numel():
        return []
    return list(tensor.view(-1).split(_PIECE_BYTES // tensor.element_size()))
