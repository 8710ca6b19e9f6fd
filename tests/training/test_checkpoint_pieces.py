"""A checkpoint in pieces that somebody has touched: what is read, refused, and with what remedy."""

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from template.errors import ConfigError, StateError
from template.protocol.spec import RunSpec
from template.training import checkpoint as module
from template.training.checkpoint import (
    CheckpointWriter,
    LocalCheckpoint,
    load_local,
    pieces_folder,
)
from tests.support.checkpoints import LARGE, number_on_disk, numbered, pieces_on_disk


@pytest.fixture(autouse=True)
def _all_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 64)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "node.safetensors"


def test_a_removed_file_means_a_new_beginning(state, spec, path) -> None:
    """As the messages say: remove it to join anew."""
    CheckpointWriter(path, spec.run_id).save(numbered(state, 1))
    old = pieces_on_disk(path)
    path.unlink()
    assert load_local(path, spec) is None
    CheckpointWriter(path, spec.run_id).save(numbered(state, 2))
    assert number_on_disk(path, spec) == 2
    assert not set(old.values()) & set(pieces_on_disk(path).values())


@pytest.mark.parametrize("group", LARGE)
@pytest.mark.parametrize("damage", ["missing", "short", "long", "header", "text"])
def test_a_damaged_piece_is_refused_with_the_remedy(damage, group, state, spec, path) -> None:
    CheckpointWriter(path, spec.run_id).save(numbered(state, 1))
    piece = pieces_folder(path) / pieces_on_disk(path)[group][0]
    data = piece.read_bytes()
    if damage == "missing":
        piece.unlink()
    else:
        damaged = {
            "short": data[:-1],
            "long": data + b"\0",
            "header": b"\xff" * 8 + data[8:],
            "text": b"not a piece, for sure".ljust(len(data)),
        }
        piece.write_bytes(damaged[damage])
    with pytest.raises(ConfigError, match=r"node\.safetensors cannot be read.*remove it to join"):
        load_local(path, spec)


def test_a_folder_in_place_of_a_piece_and_a_file_in_place_of_the_folder_are_told(
    state, spec, path
) -> None:
    path.parent.mkdir()
    pieces_folder(path).write_text("a file")
    with pytest.raises(StateError, match=r"node is a file, and a folder belongs there"):
        CheckpointWriter(path, spec.run_id).save(numbered(state, 1))


def _save_as_format(path: Path, number: str, checkpoint: LocalCheckpoint, spec: RunSpec) -> None:
    """As versions before wrote it: all in a single file, by the library."""
    tensors = {f"params/{name}": tensor for name, tensor in checkpoint.state.params.items()}
    for group, members in checkpoint.groups.items():
        tensors |= {f"{group}/{name}": tensor for name, tensor in members.items()}
    metadata = {
        "format": number,
        "run_id": spec.run_id.hex(),
        "state": json.dumps(module.carried_values(checkpoint.state)),
        "values": json.dumps(dict(checkpoint.values)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=metadata)


def test_the_single_file_of_versions_before_is_read_and_then_left_behind(state, spec, path) -> None:
    saved = numbered(state, 1)
    _save_as_format(path, "3", saved, spec)
    assert number_on_disk(path, spec) == 1
    CheckpointWriter(path, spec.run_id).save(numbered(state, 2))
    assert number_on_disk(path, spec) == 2
    assert sorted(pieces_on_disk(path)) == sorted(LARGE)


def test_the_file_of_an_unknown_version_is_refused_with_the_remedy(state, spec, path) -> None:
    _save_as_format(path, "5", numbered(state, 1), spec)
    with pytest.raises(ConfigError, match=r"has format 5, and this version reads 3, 4: start the"):
        load_local(path, spec)
