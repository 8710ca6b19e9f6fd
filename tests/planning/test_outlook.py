"""The whole answer: its JSON object, its faults, and the smallest machines."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from template.planning.hardware import CLASSES, Line
from template.planning.outlook import assumptions, look_ahead, machines_by_size, to_json

ROOT = Path(__file__).parents[2]
PLANS = sorted(path.stem for path in (ROOT / "runs").glob("*.toml"))
NUMBERS = (
    "parameters", "payload_bytes", "theta0_bytes", "checkpoint_bytes", "up_mbps", "down_mbps",
    "peers", "validators", "window_s", "utilisation", "utilisation_limit", "training_s",
    "steps_s", "steps_share", "scored_payloads", "named_payloads", "dataset_tokens",
    "utilisation_if_nothing_hidden",
)  # fmt: skip
OF_PHASE = {
    "role": str, "name": str, "seconds": float, "hidden_s": float, "blocking_s": float,
    "up_bytes": float, "down_bytes": float, "why": str,
}  # fmt: skip
OF_ROLE = {"up_bytes", "down_bytes", "device_bytes", "host_bytes", "disk_bytes", "fits",
           "micro_batch", "is_checkpointing", "bucket_bytes", "usd_per_day"}  # fmt: skip


@pytest.mark.parametrize("plan", PLANS)
def test_every_shipped_plan_has_an_answer_of_the_documented_form(plan: str, case_of) -> None:
    answer = json.loads(json.dumps(to_json(look_ahead(case_of(plan)))))
    assert all(isinstance(answer[name], int | float) for name in NUMBERS)
    assert 0.0 <= answer["utilisation"] <= answer["utilisation_limit"] <= 1.0
    assert {phase["role"] for phase in answer["phases"]} == {"miner", "validator"}
    for phase in answer["phases"]:
        assert {key: float if isinstance(value, int) else type(value)
                for key, value in phase.items()} == OF_PHASE  # fmt: skip
        assert phase["blocking_s"] == max(0.0, phase["seconds"] - phase["hidden_s"])
    assert {role: set(row) for role, row in answer["roles"].items()} == dict.fromkeys(
        ("miner", "validator", "owner"), OF_ROLE
    )
    assert all(answer["assumptions"])
    (steps,) = [phase for phase in answer["phases"] if phase["name"] == "inner steps"]
    assert steps["seconds"] / answer["window_s"] == pytest.approx(answer["utilisation"])


def test_a_model_that_does_not_fit_is_the_first_fault(case_of) -> None:
    answer = look_ahead(case_of("72b", "rtx4090", 8))
    assert not answer.fits
    assert answer.faults[0].startswith("miner: does not fit: ")
    assert "26 GB" in answer.faults[0]


def test_the_smallest_machines_hold_what_the_next_smaller_does_not(case_of) -> None:
    assert look_ahead(case_of("150m")).smallest.miner == "rtx3060:1"
    of_72b = look_ahead(case_of("72b")).smallest
    assert of_72b.miner == "b200:8"
    assert of_72b.validator is not None
    assert of_72b.in_time == "b200:8"
    slow = replace(case_of("72b"), line=Line(up_mbps=110.0, down_mbps=50.0))
    said = " ".join(look_ahead(slow).faults)
    assert "does not keep up beside training" in said
    no_up = replace(case_of("72b"), line=Line(up_mbps=10.0, down_mbps=500.0))
    assert "uploads too late" in " ".join(look_ahead(no_up).faults)


def test_machines_come_in_the_order_of_their_peaks(case_of) -> None:
    machines = list(machines_by_size(case_of("150m").machine))
    peaks = [machine.count * machine.device.peaks[0] for machine in machines]
    assert peaks == sorted(peaks)
    assert len(machines) == 4 * (len(CLASSES) - 1)


def test_several_devices_are_said_to_be_assumed(case_of) -> None:
    def says(count: int) -> bool:
        words = " ".join(to_json(look_ahead(case_of("150m", count=count)))["assumptions"])
        return "spread evenly" in words

    assert (says(1), says(8)) == (False, True)
    assert "validators score so, under torchrun" in assumptions(case_of("150m", count=8))[-1]


def test_a_dataset_of_a_given_length_is_paid_for(case_of) -> None:
    small = look_ahead(case_of("150m"), dataset_tokens=10**6)
    assert small.dataset_tokens == 10**6
    assert small.roles[2].up_bytes < look_ahead(case_of("150m")).roles[2].up_bytes
