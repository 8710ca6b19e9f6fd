"""One rank of several real processes that encode by bands and speak over gloo.

    python -m tests.support.band_ranks RANK RANKS FOLDER

Writes what the rank sent, its residuals and, on rank 0, the bodies into the folder.
"""

import json
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from compression.bands import band_plan, chunk_bytes, cut, splice
from compression.encoder import Tally, choose, no_tally, select, tally, write
from compression.plan import Plan, make_plan
from tests.support.band_encoding import bands_of, plans_of

SHAPES: Mapping[str, tuple[int, ...]] = {
    "embed": (1000, 96), "down": (96, 200), "odd": (130, 70), "tiny": (3, 5), "one": (64, 192),
    "experts": (65, 3, 7), "norm": (96,), "long": (9000,), "scalar": (), "none": (0, 4),
}  # fmt: skip
WINDOWS = 3
DECAY = 0.9
HANG_S = 60.0


def delta_of(window: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(window)
    deltas = {}
    for name, shape in SHAPES.items():
        spread = torch.rand(shape[:1], generator=generator).reshape(-1, *[1] * (len(shape) - 1))
        noise = torch.randn(shape, generator=generator) * 1e-3
        deltas[name] = noise * (spread if shape else 1.0)
    return deltas


class Wire:
    """A rank's messages to other ranks, with their bytes counted."""

    def __init__(self, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks
        self.sent = {"tally": 0, "chunks": 0}

    def send(self, what: str, values: np.ndarray, to: int) -> None:
        self.sent[what] += values.nbytes
        if values.size:
            dist.send(torch.from_numpy(values), to)

    def receive(self, values: np.ndarray, sender: int) -> np.ndarray:
        if values.size:
            dist.recv(torch.from_numpy(values), sender)
        return values

    def add_up(self, total: Tally, add: Callable[[Tally], Tally]) -> Tally:
        """The tally of all ranks: from rank to rank, then from the last to all."""
        if self.rank:
            self._receive_tally(total, self.rank - 1)
        total = add(total)
        last = self.ranks - 1
        if self.rank < last:
            self._send_tally(total, self.rank + 1)
            return self._receive_tally(total, last)
        for rank in range(last):
            self._send_tally(total, rank)
        return total

    def _send_tally(self, total: Tally, to: int) -> None:
        self.send("tally", total.gain_GR, to)
        self.send("tally", total.largest_TR, to)

    def _receive_tally(self, total: Tally, sender: int) -> Tally:
        self.receive(total.gain_GR, sender)
        self.receive(total.largest_TR, sender)
        return total


def run(rank: int, ranks: int, folder: Path) -> None:
    torch.set_num_threads(1)
    wire, plan = Wire(rank, ranks), make_plan(SHAPES)
    band = band_plan(plan, rank, ranks)
    zeros = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    residual = bands_of(zeros, rank, ranks)
    for window in range(WINDOWS):
        delta = bands_of(delta_of(window), rank, ranks)
        body = encode_window(wire, delta, residual, plan, band)
        if body is not None:
            (folder / f"body-{window}").write_bytes(body)
    for name, tensor in residual.items():
        (folder / f"residual-{name}-{rank}").write_bytes(tensor.numpy().tobytes())
    (folder / f"sent-{rank}.json").write_text(json.dumps(wire.sent))


def encode_window(
    wire: Wire, delta: dict[str, Tensor], residual: dict[str, Tensor], plan: Plan, band: Plan
) -> bytes | None:
    """The body on rank 0, None on other ranks."""
    selected = select(delta, residual, band, DECAY, 1)
    total = wire.add_up(no_tally(plan), lambda before: tally(selected, before))
    scales = choose(total, plan)
    own = cut(write(selected, scales, 1), band)
    if wire.rank:
        wire.send("chunks", own, 0)
        return None
    bands = plans_of(plan, wire.ranks)
    parts = [own]
    for rank in range(1, wire.ranks):
        parts.append(wire.receive(np.empty(chunk_bytes(bands[rank]), np.uint8), rank))
    return splice(parts, scales, bands)


def main(rank: int, ranks: int, folder: Path) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=HANG_S),
    )
    try:
        run(rank, ranks, folder)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
