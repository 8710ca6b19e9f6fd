"""Bytes on a device, in the host's memory and on its disk, for each role."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from template.base.preflight import least_state_bytes
from template.bucket.budget import payload_windows
from template.data.manifest import MAX_MANIFEST_BYTES
from template.data.pages import CacheLimits
from template.planning.case import Case
from template.protocol.spec import RunSpec
from template.protocol.spec.model import ModelSpec
from template.training.evaluator import forward_bytes, logits_bytes, usual_batch_pages

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


def kept_bytes_per_token(model: ModelSpec, *, is_checkpointing: bool) -> int:
    """Activations kept for the backward pass, for each token."""
    hidden, layers = model.hidden_size, model.num_hidden_layers
    inner = model.intermediate_size
    if model.is_mixture:
        inner = model.num_experts_per_tok * model.moe_intermediate_size
    layer = HIDDEN_BYTES * hidden + INNER_BYTES * inner
    return layers * RESIDUAL_BYTES * hidden + layer if is_checkpointing else layers * layer


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
        return Memory(device_bytes=0, host_bytes=peak, disk_bytes=disk, micro_batch=1)
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


def _pass_bytes(case: Case, pages: int, *, is_checkpointing: bool) -> int:
    tokens = pages * case.spec.data.page_tokens
    kept = kept_bytes_per_token(case.spec.model, is_checkpointing=is_checkpointing)
    return tokens * kept + logits_bytes(case.spec.model, tokens)


def _pages_that_fit(case: Case, free_bytes: float, *, is_checkpointing: bool) -> int:
    """Pages of the largest pass on each device: a power of two, as the search of the trainer
    begins; at most the batch's share of a device."""
    most = max(1, case.spec.training.batch_pages // case.machine.count)
    pages = 0
    trial = 1
    while trial <= most:
        if _pass_bytes(case, trial, is_checkpointing=is_checkpointing) > free_bytes:
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
    return max(peak(name) for name in ("train", "encode", "save")) + beside


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
