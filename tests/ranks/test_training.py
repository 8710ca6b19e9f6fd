"""The inner loop on several real processes, over gloo: as one device's, and across restarts."""

import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from template.training.checkpoint import load_local
from tests.support.rank_run import HANG_S, logs_of, ranks_of, run_spec, told

pytestmark = pytest.mark.slow

UNTIED = {"model__tie_word_embeddings": False}
MUON = {"training__inner_optimizer": "muon"}
CLOSE = 0.02
"""Of the length of a difference to that of the whole: rounding of floats, after some steps. AdamW's
first steps have the size of the rate, whatever the gradient: where one is nearly zero, rounding
alone decides the sign of the step.
"""


def delta_in(folder: Path, window: int) -> dict[str, torch.Tensor]:
    return load_file(folder / f"delta-{window}")


def assert_close(one: Path, other: Path, window: int) -> None:
    ours, theirs = delta_in(one, window), delta_in(other, window)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        apart = float((values - theirs[name]).norm() / theirs[name].norm())
        assert apart <= CLOSE, (name, apart)


@pytest.mark.parametrize(
    ("ranks", "spec", "options"),
    [
        (2, {}, {}),
        (3, {}, {}),  # tied embeddings, whose rows FSDP2 pads
        (3, UNTIED, {"micro_batch": 2, "checkpoints_activations": True}),
        (3, MUON, {}),
    ],
)
def test_ranks_train_as_one_device(
    ranks: int, spec: dict[str, object], options: dict[str, object], tmp_path: Path
) -> None:
    """Two windows, with a restart between, and a move to newer parameters in each."""
    for window in range(2):
        alone = told("training", 1, tmp_path / "alone", spec=spec)
        many = told("training", ranks, tmp_path / "many", spec=spec, options=options)
        assert_close(tmp_path / "many", tmp_path / "alone", window)
        same = ("window", "steps", "moved_at")
        assert {key: many[key] for key in same} == {key: alone[key] for key in same}
        assert math.isclose(loss_of(many), loss_of(alone), rel_tol=1e-5)


def loss_of(said: dict[str, Any]) -> float:
    return float(said["loss"])


def test_a_run_of_two_ranks_repeats_itself_exactly(tmp_path: Path) -> None:
    one, other = (told("training", 2, tmp_path / name) for name in ("one", "other"))
    assert one == other


@pytest.mark.parametrize("inner", ["adamw", "muon"])
@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 3), (1, 2), (3, 2)])
def test_another_number_of_ranks_takes_up_every_bit(
    before: int, after: int, inner: str, tmp_path: Path
) -> None:
    """Theta, feedback and moments; then the next window is trained."""
    changes: dict[str, object] = {"training__inner_optimizer": inner}
    told("training", before, tmp_path, spec=changes)
    told("saved", after, tmp_path, spec=changes)
    spec = run_spec(training__inner_optimizer=inner)
    saved, again = (load_local(tmp_path / f"{n}.safetensors", spec) for n in ("node", "again"))
    assert saved is not None
    assert again is not None
    ours, theirs = again.all_groups(), saved.all_groups()
    assert ours.keys() == theirs.keys() == {"params", "feedback", "moments"}
    for group, members in theirs.items():
        assert ours[group].keys() == members.keys()
        for name, tensor in members.items():
            assert torch.equal(ours[group][name], tensor), (group, name)
    assert told("training", after, tmp_path, spec=changes)["window"] == 1


@pytest.mark.parametrize(("first", "then"), [("adamw", "muon"), ("muon", "adamw")])
def test_ranks_take_up_another_optimizer_as_one_device_does(
    first: str, then: str, tmp_path: Path
) -> None:
    """A succession: the ranks are started again by the new spec."""
    key = "training__inner_optimizer"
    for ranks, folder in ((1, "alone"), (2, "many")):
        told("training", ranks, tmp_path / folder, spec={key: first})
        told("training", ranks, tmp_path / folder, spec={key: first, "then": {key: then}})
    assert_close(tmp_path / "many", tmp_path / "alone", 1)


def test_bf16_trains(tmp_path: Path) -> None:
    spec = {"training__precision": "bf16", **UNTIED}
    said = told("training", 2, tmp_path / "many", spec=spec)
    alone = told("training", 1, tmp_path / "alone", spec=UNTIED)
    assert math.isclose(loss_of(said), loss_of(alone), rel_tol=0.02)


@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_that_is_killed_ends_all(killed: int, tmp_path: Path) -> None:
    with ranks_of("forever", 3, tmp_path) as running:
        wait_for(tmp_path / "ready")
        running[killed].kill()
        ends = [process.wait(HANG_S) for process in running]
    assert [end for rank, end in enumerate(ends) if rank != killed] == [1, 1]
    if killed:
        assert f"rank {killed} of 3 has ended" in logs_of(tmp_path) or (
            "out of step" in logs_of(tmp_path)
        )


def test_a_rank_killed_while_rank_0_waits_for_the_chain_ends_all(tmp_path: Path) -> None:
    with ranks_of("forever", 3, tmp_path) as running:
        (tmp_path / "idle").touch()
        wait_for(tmp_path / "ready")
        running[2].kill()
        ends = [process.wait(HANG_S / 2) for process in running]
    assert ends[:2] == [1, 1]
    assert "rank 2 of 3 has ended" in logs_of(tmp_path)
    assert "a restart goes on from there" in logs_of(tmp_path)


def wait_for(path: Path) -> None:
    end_s = time.monotonic() + HANG_S
    while not path.exists():
        assert time.monotonic() < end_s
        time.sleep(0.05)
