"""Measurements: the line to a bucket, and the pace of inner steps on a device."""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Final

import numpy as np
import torch

from template.doctor.judge import StepSeen
from template.errors import ConfigError, StoreError
from template.protocol.spec import RunSpec
from template.store import Store
from template.store.probe import PROBE_PREFIX
from template.training.inner import InnerTrainer
from template.training.model import tensor_shapes
from template.training.options import InnerOptions

FIRST_BYTES: Final = 1 << 17
MOST_BYTES: Final = 8 << 20
AIM_S: Final = 2.0
"""Seconds that a measured transfer should take: then latency is a small part."""
_GROWTH: Final = 4
BITS: Final = 8

STEPS_LIMIT_S: Final = 45.0
MIN_STEPS, MAX_STEPS = 3, 12
_SEED: Final = 0
_SPREAD: Final = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class LineSeen:
    """Megabits (10^6) a second, and the bytes of the object they were measured with."""

    up_mbps: float
    down_mbps: float
    num_bytes: int


def measure_line(
    writer: Store, reader: Store, *, now_s: Callable[[], float] = time.monotonic
) -> LineSeen:
    """Write and read random objects, larger until a transfer takes long enough; StoreError.

    The objects lie under `probe/` and are removed if the write key may delete.
    """
    num_bytes = FIRST_BYTES
    while True:
        key, data = f"{PROBE_PREFIX}/{secrets.token_hex(16)}", secrets.token_bytes(num_bytes)
        try:
            begun_s = now_s()
            writer.put(key, data)
            up_s, begun_s = now_s() - begun_s, now_s()
            found = reader.get(key, max_bytes=num_bytes)
            down_s = now_s() - begun_s
        finally:
            with suppress(StoreError):
                writer.delete(key)
        if found != data:
            raise ConfigError("the bucket gave other bytes back than it was given: name another")
        if min(up_s, down_s) >= AIM_S / _GROWTH or max(up_s, down_s) >= AIM_S:
            break
        if num_bytes >= MOST_BYTES:
            break
        num_bytes *= _GROWTH
    return LineSeen(
        up_mbps=_mbps(num_bytes, up_s), down_mbps=_mbps(num_bytes, down_s), num_bytes=num_bytes
    )


def _mbps(num_bytes: int, seconds: float) -> float:
    return num_bytes * BITS / max(seconds, 1e-6) / 1e6


def measure_steps(
    spec: RunSpec,
    device: str,
    options: InnerOptions,
    *,
    block_s: float,
    limit_s: float = STEPS_LIMIT_S,
    now_s: Callable[[], float] = time.monotonic,
) -> StepSeen:
    """Inner steps of the plan on random pages and parameters; the first is a warm-up.

    Of a model in parts, the whole is asked for by the parts' trainer in its first range.
    ConfigError if the device's memory does not bear a step.
    """
    trainer = InnerTrainer(spec, device, options, now_s)
    ends_s: list[float] = []
    begun_s = now_s()

    def stop() -> bool:
        ends_s.append(now_s())
        is_late = now_s() - begun_s > limit_s
        return len(ends_s) > MAX_STEPS or (is_late and len(ends_s) > MIN_STEPS)

    result = trainer.train(_random_params(spec), 0, _batches(spec), stop)
    # `stop` is asked before each step, when the step before is under way at most; the last
    # difference belongs to a step that has ended.
    steps_s = [after - before for before, after in pairwise(ends_s[1:])]
    if not steps_s or result.speed is None:
        raise ConfigError("no inner step ended in time: take a faster device")
    step_s = max(median(steps_s), 1e-9)
    speed, batch = result.speed, spec.training.batch_pages * spec.data.page_tokens
    tokens_per_s = batch / step_s
    mfu = speed.utilization
    return StepSeen(
        step_s=step_s,
        steps=spec.training.inner_steps,
        least=1.0 / spec.training.inner_steps,
        window_s=spec.schedule.blocks_per_window * block_s,
        tokens_per_s=tokens_per_s,
        mfu=None if mfu is None else mfu * tokens_per_s / max(speed.tokens_per_s, 1e-9),
    )


def _random_params(spec: RunSpec) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(_SEED)
    return {
        name: _SPREAD * torch.randn(shape, generator=generator)
        for name, shape in tensor_shapes(spec).items()
    }


def _batches(spec: RunSpec) -> Iterator[np.ndarray]:
    draw = np.random.default_rng(_SEED)
    size = (spec.training.batch_pages, spec.data.page_tokens)
    while True:
        yield draw.integers(0, spec.model.vocab_size, size=size, dtype=np.int64)
