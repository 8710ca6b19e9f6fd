"""Checkpoints with a number in each part, and what of them lies on the disk."""

import dataclasses
from pathlib import Path

import torch

from template.protocol.spec import RunSpec
from template.training.checkpoint import LocalCheckpoint, load_local, pieces_folder
from template.training.outer import OuterState

LARGE = ("feedback", "moments", "params")


def numbered(state: OuterState, number: int) -> LocalCheckpoint:
    """A state with `number` in each of its parts, so that a mix of two states shows."""
    params = {name: tensor + number for name, tensor in state.params.items()}
    groups = {
        "feedback": {"a.b": torch.full((70,), float(number))},
        "moments": {"exp_avg": torch.full((300,), -float(number)), "step": torch.tensor(number)},
        "pending": {"12": torch.full((3,), number, dtype=torch.uint8)},
    }
    return LocalCheckpoint(
        state=dataclasses.replace(state, params=params, window=number),
        groups=groups,
        values={"number": number},
    )


def number_on_disk(path: Path, spec: RunSpec) -> int:
    """Which checkpoint lies on the disk: every part of it must be that one's."""
    found = load_local(path, spec)
    assert found is not None
    number = int(found.values["number"])
    expected = numbered(
        dataclasses.replace(
            found.state, params={n: t - number for n, t in found.state.params.items()}
        ),
        number,
    )
    assert_same(found, expected)
    first = next(iter(found.state.params.values()))
    assert float(first.flatten()[0].round()) == number
    return number


def assert_same(found: LocalCheckpoint | None, expected: LocalCheckpoint) -> None:
    assert found is not None
    assert found.values == expected.values
    assert found.groups.keys() == expected.groups.keys()
    for group, members in expected.groups.items():
        assert found.groups[group].keys() == members.keys()
        for name, tensor in members.items():
            other = found.groups[group][name]
            assert (other.dtype, other.shape) == (tensor.dtype, tensor.shape)
            assert other.numpy().tobytes() == tensor.numpy().tobytes()


def pieces_on_disk(path: Path) -> dict[str, tuple[str, int]]:
    """Group -> name and inode of its piece."""
    found = {p.name.split("-")[0]: (p.name, p.stat().st_ino) for p in pieces_folder(path).iterdir()}
    assert len(found) == len(list(pieces_folder(path).iterdir())), "one piece for each group"
    return found
