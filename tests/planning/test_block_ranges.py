"""A miner of a block range: memory, payload and seconds, by hand and beside the whole model's."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from template.cli.main import parse_command
from template.cli.plan_flags import plan_config
from template.commands.planning import case_of as asked_case
from template.errors import ConfigError
from template.planning.hardware import CLASSES
from template.planning.memory import CONTEXT_BYTES, miner_memory, range_bytes
from template.planning.miner import UPLOAD, inner_steps_s, miner_window
from template.planning.outlook import best_cut, find_smallest, look_ahead, to_json
from template.planning.ranges import parts_of, possible_parts
from template.protocol.payload import PayloadFormat
from template.training.flops import flops_per_token
from template.training.model import payload_bytes

ROOT = Path(__file__).parents[2]
LAYER_8B = 2 * 4096 * (4096 + 1024) + 3 * 4096 * 14336 + 2 * 4096
WORDS_8B = 128256 * 4096


@pytest.mark.parametrize("plan", ["150m", "1b", "8b", "72b"])
def test_the_parts_are_the_model_cut(plan: str, case_of) -> None:
    case = case_of(plan)
    (whole,) = parts_of(case.spec, 1)
    assert (whole.parameters, whole.frozen) == (case.parameters, 0)
    assert whole.payload_bytes == payload_bytes(case.spec)
    assert whole.flops_per_token == flops_per_token(case.spec)
    for number in possible_parts(case.spec)[:6]:
        parts = parts_of(case.spec, number)
        assert sum(part.parameters for part in parts) == case.parameters
        headers = (number - 1) * _header_bytes(case)
        assert sum(p.payload_bytes for p in parts) == payload_bytes(case.spec) + headers
        assert all(whole.flops_per_token / 3 < p.flops_per_token < whole.flops_per_token
                   for p in parts)  # fmt: skip
        reached = [part.reached_layers for part in parts]
        assert reached == sorted(reached, reverse=True)
        assert reached[0] == case.spec.model.num_hidden_layers


def _header_bytes(case) -> int:
    return PayloadFormat(run_id=bytes(16), shapes={}, top_k=case.spec.compression.top_k).num_bytes


def test_a_part_of_the_8b_model_by_hand(case_of) -> None:
    """The head's part of 8: the last layers, the norm and the output layer."""
    part = parts_of(case_of("8b").spec, 8)[-1]
    layers = part.reached_layers
    assert part.parameters == layers * LAYER_8B + 4096 + WORDS_8B
    assert part.head == WORDS_8B
    assert part.cast == part.parameters - (2 * layers + 1) * 4096, "all but norms"
    matrices = LAYER_8B - 2 * 4096
    assert part.streamed == (32 - layers) * matrices
    assert part.streamed_again == 0, "nothing below is computed again"
    assert part.hosted == part.streamed + WORDS_8B, "and the embedding"
    case = case_of("8b", "rtx4090", 1, parts=8)
    expected = 16 * part.parameters + 6 * WORDS_8B + 2 * part.cast + 2 * part.frozen
    assert range_bytes(case, part) == expected
    hosted = replace(case, frozen="host")
    layer = 2 * 2 * (part.streamed // 32)
    assert range_bytes(hosted, part) == expected - 2 * part.hosted + layer


def test_more_parts_take_less_of_the_device_and_frozen_layers_on_the_host_less_still(
    case_of,
) -> None:
    used = [
        miner_memory(case_of("8b", "h200", 1, parts=p, frozen=frozen)).device_bytes
        - _activations(case_of("8b", "h200", 1, parts=p, frozen=frozen))
        for p, frozen in ((2, "bf16"), (4, "bf16"), (8, "bf16"), (8, "host"))
    ]
    assert used == sorted(used, reverse=True)
    assert used[-1] > CONTEXT_BYTES


def _activations(case) -> float:
    """Bytes of the activations, in the part that needs the most memory."""
    memory = miner_memory(case)
    return memory.device_bytes - CONTEXT_BYTES - max(range_bytes(case, p) for p in case.ranges)


def test_the_smallest_devices_of_the_goals(case_of) -> None:
    """A model of 8 B on 24 GB, in parts; whole it takes a device of 144 GB and more."""
    eight = best_cut(case_of("8b", "rtx4090", 1))
    assert eight is not None
    assert (eight.parts > 1, eight.frozen) == (True, "host")
    assert miner_memory(eight).device_bytes <= CLASSES["rtx4090"].memory_bytes
    fewer = [p for p in possible_parts(eight.spec) if p < eight.parts]
    assert not any(miner_memory(replace(eight, parts=p)).fits for p in fewer)
    assert not any(
        miner_memory(replace(eight, parts=p, frozen="bf16")).fits
        for p in possible_parts(eight.spec)
    )
    for plan in ("1b", "8b", "72b"):
        found = find_smallest(case_of(plan))
        assert found.in_range is not None
        assert found.range_parts > 1
        smaller = [
            each for each in CLASSES.values()
            if 0 < each.memory_bytes < CLASSES[found.in_range.partition(":")[0]].memory_bytes
        ]  # fmt: skip
        assert all(best_cut(case_of(plan, each.name, 1)) is None for each in smaller)
    assert best_cut(case_of("72b", "b200", 8)) == case_of("72b", "b200", 8)
    assert best_cut(case_of("72b", "rtx4090", 8)) is None, "ranks train the whole model"


def test_a_range_costs_less_time_and_copies_from_the_host_add_to_it(case_of) -> None:
    whole, cut = case_of("8b", "h200", 1), case_of("8b", "h200", 1, parts=8)
    assert inner_steps_s(whole) / 3 < inner_steps_s(cut) < inner_steps_s(whole)
    hosted = replace(cut, frozen="host")
    passes = 128 // miner_memory(hosted).micro_batch
    moved = sum(part.streamed + part.streamed_again for part in hosted.ranges) / 8
    copying_s = 30 * passes * 2 * moved / 50e9
    assert inner_steps_s(hosted) == pytest.approx(inner_steps_s(cut) + copying_s)


def test_the_payload_and_the_bytes_up_are_those_of_the_largest_part(case_of) -> None:
    case = case_of("8b", "h200", 1, parts=8)
    largest = max(part.payload_bytes for part in case.ranges)
    assert payload_bytes(case.spec) / 8 < largest < payload_bytes(case.spec) / 4
    upload = next(phase for phase in miner_window(case).phases if phase.name == UPLOAD)
    assert upload.up_bytes == largest == to_json(look_ahead(case))["own_payload_bytes"]


def test_the_host_keeps_the_moments_of_all_parts(case_of) -> None:
    """Theta twice, error feedback and moments of all; moments of the range twice."""
    whole, cut = case_of("8b", "h200", 1), case_of("8b", "h200", 1, parts=8)
    hosted = replace(cut, frozen="host")
    count, trained = cut.parameters, cut.trained_share * cut.parameters
    more = miner_memory(cut).host_bytes - miner_memory(whole).host_bytes
    assert more == pytest.approx(8 * trained - 4 * (count - trained))
    away = max(part.hosted for part in hosted.ranges)
    assert miner_memory(hosted).host_bytes - miner_memory(cut).host_bytes == pytest.approx(2 * away)
    assert miner_memory(cut).host_bytes > 20 * count
    assert miner_memory(cut).disk_bytes == miner_memory(whole).disk_bytes


def _config(*flags: str):
    args = parse_command("plan", ["--run", str(ROOT / "runs" / "8b.toml"), *flags], "plan")
    return plan_config(args)


def test_the_command_takes_a_number_of_parts_or_finds_one() -> None:
    assert asked_case(_config("--gpu", "rtx3090:1")).parts == 1
    asked = asked_case(_config("--gpu", "rtx3090", "--parts", "9", "--frozen", "host"))
    assert (asked.parts, asked.frozen) == (9, "host")
    found = asked_case(_config("--gpu", "rtx3090", "--parts", "auto"))
    assert (found.parts, found.frozen) == (8, "host")
    assert asked_case(_config("--gpu", "b200", "--parts", "auto")).parts == 1
    with pytest.raises(ConfigError, match="--parts 99: .* take fewer parts"):
        asked_case(_config("--gpu", "rtx3090", "--parts", "99"))
    with pytest.raises(ConfigError, match="--parts: 8 devices are ranks .* leave --parts out"):
        _config("--gpu", "rtx3090:8", "--parts", "2")


def test_the_answer_says_how_the_model_is_cut_and_what_would_fit(case_of) -> None:
    answer = json.loads(json.dumps(to_json(look_ahead(case_of("8b", "rtx3090", 1)))))
    assert "(--parts 8 --frozen host)" in answer["faults"][0]
    cut = look_ahead(case_of("8b", "rtx3090", 1, parts=8, frozen="host"))
    said = to_json(cut)
    assert (said["parts"], said["frozen"], said["fits"]) == (8, "host", True)
    assert any("25 GB/s" in sentence for sentence in said["assumptions"])
    assert said["smallest"]["range_parts"] > 1
