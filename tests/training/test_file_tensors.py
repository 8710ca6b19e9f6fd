"""theta on disk: the same bytes as in memory, from a file that may go away meanwhile."""

from dataclasses import replace

import pytest
import torch

from simulation.swarm import build_world
from template.training.checkpoint import LocalCheckpoint, save_local
from template.training.file_tensors import FileTensors, state_on_disk
from template.training.model import initial_params
from template.training.outer import OuterState, first_state, state_digest
from template.training.published import build_checkpoint


@pytest.fixture(scope="module")
def spec():
    return build_world({"owner": 0, "val-a": 1000}, checkpoint__part_bytes=2**13).spec


@pytest.fixture(scope="module")
def state(spec) -> OuterState:
    state = replace(first_state(initial_params(spec, seed=1), spec.run_id), window=8)
    return replace(state, checkpoint_digest=state_digest(state))


@pytest.fixture
def path(tmp_path, spec, state):
    found = tmp_path / "anchor.safetensors"
    save_local(found, LocalCheckpoint(state=state), spec.run_id)
    return found


def test_a_checkpoint_of_a_file_is_that_of_the_tensors_to_the_byte(path, spec, state) -> None:
    found = state_on_disk(state, path)
    assert found is not None
    assert isinstance(found.params, FileTensors)
    assert found.known_digest is None, "it would keep the tensors in memory"
    path.unlink()
    path.write_bytes(b"another file of this name")
    ours, theirs = build_checkpoint(found, spec), build_checkpoint(state, spec)
    assert ours.manifest == theirs.manifest
    assert len(theirs.parts) > 4
    for digest, make in theirs.parts.items():
        source, wanted = ours.parts[digest](), make()
        assert source.read(0, source.num_bytes) == wanted.read(0, wanted.num_bytes)
        assert source.read(3, 17) == wanted.read(3, 17)


def test_each_reading_maps_a_tensor_anew_and_writes_nothing(path, state) -> None:
    tensors = FileTensors(path)
    assert tensors.keys() == state.params.keys()
    before = path.read_bytes()
    for name, tensor in state.params.items():
        mapped = tensors[name]
        assert torch.equal(mapped, tensor)
        mapped.zero_()
        assert torch.equal(tensors[name], tensor)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["gone", "garbage", "other window", "other root", "cut"])
def test_a_file_of_another_state_is_not_taken(kind, path, spec, state) -> None:
    if kind == "gone":
        path.unlink()
    elif kind == "garbage":
        path.write_bytes(bytes(100))
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        other = replace(state, window=9) if "window" in kind else replace(state, root=bytes(32))
        save_local(path, LocalCheckpoint(state=other), spec.run_id)
    assert state_on_disk(state, path) is None
