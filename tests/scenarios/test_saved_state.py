"""What a node writes is what the node is: after every save, read back and compared to the bit.

A save leaves out what did not change. Whoever changes a tensor and does not say so is found here,
among honest nodes and among miners that take payloads back in ways of their own.
"""

from collections import Counter
from pathlib import Path

import pytest
import torch

from localnet.adversaries.repeating import Repeater
from localnet.adversaries.withholding import GoodCommits
from simulation.swarm import (
    FOUR,
    STAKES_TAO,
    build_world,
    digests,
    honest,
    miner_with,
    run,
    to_the_end,
)
from template.training import checkpoint as module
from template.training.checkpoint import CheckpointWriter, LocalCheckpoint, load_local
from tests.support.states import equal_states


def _assert_same(found: LocalCheckpoint | None, saved: LocalCheckpoint) -> None:
    assert found is not None
    assert equal_states(found.state, saved.state)
    assert found.values == saved.values
    for group, members in saved.groups.items():
        read = found.groups.get(group, {})
        assert read.keys() == members.keys(), group
        assert all(torch.equal(read[name], tensor) for name, tensor in members.items()), group


def test_every_save_of_every_node_is_what_the_node_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = build_world({**STAKES_TAO, "m2": 0, "m3": 0}, schedule__num_windows=5)
    saves, written = Counter[str](), Counter[str]()
    save, write_pieces = CheckpointWriter.save, module._write_pieces

    def checked(self: CheckpointWriter, checkpoint: LocalCheckpoint, older=()) -> None:
        save(self, checkpoint, older)
        saves[self._path.parent.name] += 1
        _assert_same(load_local(self._path, world.spec), checkpoint)

    def counted(path: Path, run_id: bytes, groups):
        written.update(f"{path.parent.name} {group}" for group in groups)
        return write_pieces(path, run_id, groups)

    monkeypatch.setattr(module, "PIECE_BYTES", 1)
    monkeypatch.setattr(CheckpointWriter, "save", checked)
    monkeypatch.setattr(module, "_write_pieces", counted)
    drives = {
        **honest(*FOUR),
        "m2": to_the_end(miner_with(Repeater)),
        "m3": to_the_end(miner_with(GoodCommits)),
    }
    nodes = run(world, drives, tmp_path)
    assert len(digests(nodes)) == 1
    # A window's settlement writes theta, its training the rest; votes write none of it.
    for name in ("m0", "m1"):
        assert written[f"{name} moments"] + written[f"{name} params"] <= saves[name] + 2
    assert 0 < written["val-a params"] < saves["val-a"]
    assert set(saves) == set(drives)
