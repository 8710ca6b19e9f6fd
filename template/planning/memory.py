"""Bytes on a device, in the host's memory and on its disk, for each role."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from template.base.preflight import least_state_bytes
from template.bucket.budget import payload_windows
from template.data.manifest import MAX_MANIFEST_BYTES
from template.data.pages import CacheLimits
from template.planning.case import Case
from template.planning.ranges import Part
from template.protocol.spec import RunSpec
from template.protocol.spec.model import ModelSpec
from template.training.evaluator import forward_bytes, logits_bytes, usual_batch_pages
from template.training.losses import CHUNKED_VOCAB

MODEL_BYTES: Final = 4
GRADIENT_BYTES: Final = 4
MOMENTS_BYTES: Final = 8
CAST_BYTES: Final = 2
"""The copy in bf16 that autocast makes of the parameters for a pass."""
CONTEXT_BYTES: Final = 10**9
"""What CUDA and its libraries take of a device: an estimate."""

HIDDEN_BYTES: Final = 30
INNER_BYTES: Final = 8
"""Bytes that a layer keeps for the backward pass, for each token and each unit of `hidden_size` and
of `intermediate_size`, with autocast to bf16 and no activation checkpointing. Counted with
saved-tensor hooks on Llamas (`tests/planning/test_memory.py` counts again)."""
RESIDUAL_BYTES: Final = 4
"""The same with activation checkpointing, for each unit of `hidden_size`: the layer's input."""
STEP_BYTES: Final = 12
"""A validator's note of each value that a payload moves: its place, and the value before."""
PENDING: Final = 3
"""Payloads of a miner between making and decision, at most."""
HEAD_BYTES: Final = 6
"""Beside a gradient made before, the loss makes one of the output layer in float32, and a copy in
bf16: of a range that trains the output layer, whose other gradients leave no room for these."""
STREAMED_LAYERS: Final = 2
"""Frozen layers of the host that are on the device at once: one computes, and the graph may still
hold another (counted by `tests/training/test_ranges.py`)."""
JOINED_COPIES: Final = 3
"""An owner makes theta_0 of the model's parameters, a copy, and the parts' bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes that a role needs. `device_bytes`: of each of the devices; 0 without a device.

    `micro_batch`: pages of a miner's pass; 0 if not even one page fits. `is_checkpointing`: with
    activation checkpointing, which a miner turns on by `--neuron.activation_checkpointing`.
    `fits`: in the devices' memory.
    """

    device_bytes: float
    host_bytes: float
    disk_bytes: float
    fits: bool = True
    micro_batch: int = 0
    is_checkpointing: bool = False


def kept_bytes_per_token(
    model: ModelSpec, *, is_checkpointing: bool, layers: int | None = None
) -> int:
    """Activations kept for the backward pass, for each token. `layers`: those reached by it."""
    hidden = model.hidden_size
    layers = model.num_hidden_layers if layers is None else layers
    inner = model.intermediate_size
    if model.is_mixture:
        inner = model.num_experts_per_tok * model.moe_intermediate_size
    layer = HIDDEN_BYTES * hidden + INNER_BYTES * inner
    if is_checkpointing:
        return layers * RESIDUAL_BYTES * hidden + layer
    return max(1, layers) * layer


def trained_bytes(case: Case) -> int:
    """Model, gradients, moments and the bf16 copy, of all devices together."""
    per_parameter = MODEL_BYTES + GRADIENT_BYTES + MOMENTS_BYTES
    if case.spec.training.precision == "bf16":
        per_parameter += CAST_BYTES
    return per_parameter * case.parameters


def miner_memory(case: Case) -> Memory:
    """A miner's; over several devices the chunks are assumed to be spread evenly."""
    host, disk = _miner_host_bytes(case), miner_disk_bytes(case)
    if case.machine.device.is_cpu:
        peak = max(cost.peak_bytes(case.parameters) for cost in case.costs.of_role("miner"))
        peak -= (1.0 - case.trained_share) * (MODEL_BYTES + GRADIENT_BYTES) * case.parameters
        return Memory(device_bytes=0, host_bytes=peak, disk_bytes=disk, micro_batch=1)
    if case.parts > 1:
        return _range_memory(case, host, disk)
    fixed = trained_bytes(case) / case.machine.count + CONTEXT_BYTES
    free = case.machine.device.memory_bytes - fixed
    pages, is_checkpointing = 0, False
    for is_checkpointing in (False, True):
        pages = _pages_that_fit(case, free, is_checkpointing=is_checkpointing)
        if pages:
            break
    used = fixed + _pass_bytes(case, max(1, pages), is_checkpointing=is_checkpointing)
    return Memory(
        device_bytes=used,
        host_bytes=host,
        disk_bytes=disk,
        fits=pages > 0,
        micro_batch=pages,
        is_checkpointing=is_checkpointing,
    )


def range_bytes(case: Case, part: Part) -> int:
    """What a miner of a block range holds on its device, but for activations."""
    is_short = case.spec.training.precision == "bf16"
    frozen_bytes = CAST_BYTES if is_short else MODEL_BYTES
    used = (MODEL_BYTES + GRADIENT_BYTES + MOMENTS_BYTES) * part.parameters
    used += HEAD_BYTES * part.head if case.spec.model.vocab_size >= CHUNKED_VOCAB else 0
    used += CAST_BYTES * part.cast if is_short else 0
    if case.frozen == "host":
        layer = part.streamed // max(1, case.spec.model.num_hidden_layers)
        return used + frozen_bytes * (part.frozen - part.hosted + STREAMED_LAYERS * layer)
    return used + frozen_bytes * part.frozen


def _range_memory(case: Case, host: float, disk: float) -> Memory:
    """Of the part that takes the most: the part is drawn anew for every window."""
    recomputes = (True,) if case.frozen == "host" else (False, True)
    capacity, used, pages, is_checkpointing = case.machine.device.memory_bytes, 0.0, 0, False
    for is_checkpointing in recomputes:
        found = [
            _pages_that_fit(
                case,
                capacity - CONTEXT_BYTES - range_bytes(case, part),
                is_checkpointing=is_checkpointing,
                layers=part.reached_layers,
            )
            for part in case.ranges
        ]
        pages = min(found)
        used = CONTEXT_BYTES + max(
            range_bytes(case, part)
            + _pass_bytes(
                case,
                max(1, pages),
                is_checkpointing=is_checkpointing,
                layers=part.reached_layers,
            )
            for part in case.ranges
        )
        if pages:
            break
    return Memory(
        device_bytes=used,
        host_bytes=host,
        disk_bytes=disk,
        fits=pages > 0,
        micro_batch=pages,
        is_checkpointing=is_checkpointing,
    )


def _pass_bytes(
    case: Case, pages: int, *, is_checkpointing: bool, layers: int | None = None
) -> int:
    tokens = pages * case.spec.data.page_tokens
    kept = kept_bytes_per_token(case.spec.model, is_checkpointing=is_checkpointing, layers=layers)
    return tokens * kept + logits_bytes(case.spec.model, tokens)


def _pages_that_fit(
    case: Case, free_bytes: float, *, is_checkpointing: bool, layers: int | None = None
) -> int:
    """Pages of the largest pass on each device: a power of two, as the search of the trainer
    begins; at most the batch's share of a device."""
    most = max(1, case.spec.training.batch_pages // case.machine.count)
    pages = 0
    trial = 1
    while trial <= most:
        used = _pass_bytes(case, trial, is_checkpointing=is_checkpointing, layers=layers)
        if used > free_bytes:
            break
        pages, trial = trial, 2 * trial
    return pages


def _miner_host_bytes(case: Case) -> float:
    """The record's peaks are of a CPU, which holds what here lies on the devices.

    Beside training: a new theta, and the moments on their way through the host to the disk.
    """
    on_device = {"train": MODEL_BYTES + GRADIENT_BYTES + MOMENTS_BYTES}
    count = case.parameters

    def peak(name: str) -> float:
        away = on_device.get(name, MODEL_BYTES + MOMENTS_BYTES)
        return case.costs.of("miner", name).peak_bytes(count) - away * count

    beside = (MODEL_BYTES + MOMENTS_BYTES) * count
    whole = max(peak(name) for name in ("train", "encode", "save")) + beside
    return whole + (_range_host_bytes(case) if case.parts > 1 else 0.0)


def _range_host_bytes(case: Case) -> float:
    """What a miner of a block range has on the host beyond a miner of the whole, which has the
    moments of all tensors there too while these are saved.

    The range's moments of this window beside those of the last, frozen matrices, and a
    pseudo-gradient of the range alone.
    """
    trained = case.trained_share * case.parameters
    hosted = max(part.hosted for part in case.ranges) if case.frozen == "host" else 0
    frozen_bytes = CAST_BYTES if case.spec.training.precision == "bf16" else MODEL_BYTES
    return (
        MOMENTS_BYTES * trained + frozen_bytes * hosted - MODEL_BYTES * (case.parameters - trained)
    )


@lru_cache(maxsize=32)
def _state_bytes(spec: RunSpec, trains: bool) -> int:
    return least_state_bytes(spec, trains=trains)


def miner_disk_bytes(case: Case) -> float:
    """The state, undecided payloads in it, and the pages of two windows at most."""
    pages = 2 * case.window_segments * case.segment_bytes
    cache = min(pages, CacheLimits().disk_bytes)
    return _state_bytes(case.spec, True) + PENDING * case.payload_bytes + cache


def validator_memory(case: Case) -> Memory:
    """A validator's; its model spread evenly over the devices."""
    peaks = [cost.peak_bytes(case.parameters) for cost in case.costs.of_role("validator")]
    frames = case.drawn * case.payload_bytes
    disk: float = _state_bytes(case.spec, False) + MAX_MANIFEST_BYTES
    disk += case.spec.outer.max_staleness * case.peers * case.payload_bytes  # payloads seen
    kept = payload_windows(case.spec) * case.accepted * (1.0 - case.holder_share)
    disk += kept * case.payload_bytes  # named, and in other validators' buckets
    if case.machine.device.is_cpu:
        return Memory(device_bytes=0, host_bytes=max(peaks) + frames, disk_bytes=disk)
    model, moved = case.spec.model, case.parameters * case.spec.compression.top_k // 4096
    tokens = usual_batch_pages(case.spec.data.page_tokens) * case.spec.data.page_tokens
    forward = forward_bytes(model, tokens)
    spread = MODEL_BYTES * case.parameters + STEP_BYTES * moved
    used = spread / case.machine.count + forward + CONTEXT_BYTES
    return Memory(
        device_bytes=used,
        host_bytes=max(peaks) - MODEL_BYTES * case.parameters + frames,
        disk_bytes=disk,
        fits=used <= case.machine.device.memory_bytes,
    )


def owner_memory(case: Case) -> Memory:
    """An owner's, who makes theta_0 on the host. A warm start needs a miner's devices besides."""
    host = JOINED_COPIES * case.params_bytes
    return Memory(device_bytes=0, host_bytes=host, disk_bytes=case.theta0_bytes)
