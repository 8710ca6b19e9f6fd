"""Bytes on devices and hosts, against naive arithmetic and against what torch really keeps."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from template.base.preflight import least_state_bytes
from template.planning.hardware import CLASSES, Machine, usual_machine
from template.planning.memory import (
    CONTEXT_BYTES,
    kept_bytes_per_token,
    miner_disk_bytes,
    miner_memory,
    owner_memory,
    trained_bytes,
    validator_memory,
)
from template.training.evaluator import logits_bytes
from template.training.model import build_model

RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "size.json"
BYTES_PER_TRAINED = {"150m": 2.7e9, "1b": 22.2e9, "8b": 144.5e9, "72b": 1309.5e9}
"""As the plans' own comments say: 18 bytes a parameter."""


@pytest.mark.parametrize("plan", BYTES_PER_TRAINED)
def test_the_trained_bytes_are_those_in_the_plans_comment(plan: str, case_of) -> None:
    case = case_of(plan)
    assert trained_bytes(case) == 18 * case.parameters
    assert trained_bytes(case) == pytest.approx(BYTES_PER_TRAINED[plan], rel=0.01)


def test_a_small_model_is_kept_as_calculated(case_of) -> None:
    """Tensors that a forward pass in bf16 keeps for the backward pass, each memory once."""
    spec = case_of("150m").spec
    model = replace(
        spec.model, vocab_size=64, hidden_size=256, intermediate_size=704, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4,
    )  # fmt: skip
    spec = replace(spec, model=model, training=replace(spec.training, max_parts=1))
    kept: dict[int, int] = {}

    held: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor)  # else its place in memory may be another's
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    net = build_model(spec).model
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    tokens = 256
    ids = torch.zeros(1, tokens, dtype=torch.int64)
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16):
        net(input_ids=ids)
    casts = 2 * sum(p.numel() for p in net.layers.parameters() if p.dim() > 1)
    measured = sum(kept.values()) - casts
    calculated = tokens * kept_bytes_per_token(spec.model, is_checkpointing=False)
    assert calculated == pytest.approx(measured, rel=0.2)


def test_checkpointing_keeps_a_layers_input_and_one_whole_layer(case_of) -> None:
    model = case_of("8b").spec.model
    assert kept_bytes_per_token(model, is_checkpointing=False) == 32 * (30 * 4096 + 8 * 14336)
    assert kept_bytes_per_token(model, is_checkpointing=True) == (
        32 * 4 * 4096 + 30 * 4096 + 8 * 14336
    )


def test_logits_of_a_large_vocabulary_come_in_chunks(case_of) -> None:
    model = case_of("72b").spec.model
    assert logits_bytes(model, 2048) == logits_bytes(model, 2**20) == 3 * 4 * 2**25
    small = replace(model, vocab_size=256)
    assert logits_bytes(small, 1000) == 12 * 256 * 1000


def test_a_model_too_large_for_its_devices_does_not_fit(case_of) -> None:
    one, eight = miner_memory(case_of("72b", count=1)), miner_memory(case_of("72b", count=8))
    assert (one.fits, one.micro_batch) == (False, 0)
    assert eight.fits
    assert eight.micro_batch >= 1
    assert eight.device_bytes <= CLASSES["b200"].memory_bytes
    fixed = 18 * case_of("72b").parameters / 8 + CONTEXT_BYTES
    assert eight.device_bytes > fixed


def test_more_devices_than_needed_take_less_of_each_and_no_more_pages_than_there_are(
    case_of,
) -> None:
    one, many = miner_memory(case_of("150m", count=1)), miner_memory(case_of("150m", count=1024))
    assert many.fits
    assert many.micro_batch == 1, "a page of the batch is the least that a device works on"
    assert many.device_bytes < one.device_bytes
    assert many.host_bytes == one.host_bytes


def test_the_first_that_fits_is_without_checkpointing(case_of) -> None:
    assert not miner_memory(case_of("150m", "rtx4090", 1)).is_checkpointing
    assert miner_memory(case_of("1b", "rtx4090", 1)).fits is False or (
        miner_memory(case_of("1b", "rtx4090", 1)).is_checkpointing
    )


def _recorded(role: str, size: str = "100M") -> tuple[int, float]:
    for row in json.loads(RECORD.read_text("utf-8"))["rows"]:
        if (row["role"], row["size"]) == (role, size):
            return row["params"], max(phase["peak_bytes"] for phase in row["phases"])
    raise LookupError(role)


@pytest.mark.parametrize(
    ("role", "memory", "size"),
    # A validator's peak at 10 M is the buffer for a part of a checkpoint, of 64 MiB at most.
    [
        ("miner", miner_memory, "10M"),
        ("miner", miner_memory, "100M"),
        ("validator", validator_memory, "100M"),
    ],
)
def test_a_host_without_gpus_needs_what_the_record_says(role, memory, size, case_of) -> None:
    params, peak = _recorded(role, size)
    case = case_of("150m", "cpu", 1)
    assert memory(case).device_bytes == 0
    scaled = peak * case.parameters / params
    assert memory(case).host_bytes == pytest.approx(scaled, rel=0.2)


def test_with_gpus_the_host_holds_less(case_of) -> None:
    for memory in (miner_memory, validator_memory):
        assert memory(case_of("8b")).host_bytes < memory(case_of("8b", "cpu", 1)).host_bytes
    case = case_of("8b")
    assert miner_memory(case).host_bytes > 8 * case.parameters, "theta and error feedback at least"
    assert validator_memory(case).host_bytes > 4 * case.parameters


def test_disks_hold_what_a_neurons_start_demands(case_of) -> None:
    case = case_of("8b")
    assert miner_disk_bytes(case) >= least_state_bytes(case.spec, trains=True)
    assert validator_memory(case).disk_bytes >= least_state_bytes(case.spec, trains=False)
    assert owner_memory(case).disk_bytes == case.theta0_bytes


def test_a_validator_on_several_devices_holds_a_part_of_theta_on_each(case_of) -> None:
    one, four = validator_memory(case_of("72b", count=1)), validator_memory(case_of("72b", count=4))
    assert not one.fits
    assert four.fits
    parameters = case_of("72b").parameters
    moved = 12 * (parameters * 64 // 4096)
    assert one.device_bytes - four.device_bytes == pytest.approx(0.75 * (4 * parameters + moved))


def test_classes_are_in_order_and_machines_add_up() -> None:
    names = list(CLASSES)
    assert names[0] == "cpu"
    assert {"rtx4090", "l40s", "a100-80", "h100", "h200", "b200"} <= set(names)
    machine: Machine = usual_machine("h100", 8)
    assert machine.name == "h100:8"
    assert machine.memory_bytes == 8 * 81_559 * 2**20
    assert machine.train_flops("bf16") == pytest.approx(8 * 0.4 * 989e12)
    assert machine.train_flops("no") == pytest.approx(8 * 0.4 * 67e12)
    assert (usual_machine("h100", 1).cores, machine.cores) == (16, 64)
