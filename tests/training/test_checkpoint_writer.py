"""A node that saves again and again: each tensor once, and a kill at any moment mixes nothing."""

import dataclasses
import errno
import json
import os
import resource
import signal
import stat
import sys
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
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
from template.training.outer import OuterState
from template.training.tensor_files import write_tensors
from tests.support.states import equal_states

LARGE = ("feedback", "moments", "params")
MAX_STEPS = 200


@pytest.fixture(autouse=True)
def _all_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 64)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "node.safetensors"


def _checkpoint(state: OuterState, number: int) -> LocalCheckpoint:
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


def _number(path: Path, spec: RunSpec) -> int:
    """Which checkpoint lies on the disk: every part of it must be that one's."""
    found = load_local(path, spec)
    assert found is not None
    number = int(found.values["number"])
    expected = _checkpoint(
        dataclasses.replace(
            found.state, params={n: t - number for n, t in found.state.params.items()}
        ),
        number,
    )
    _assert_same(found, expected)
    first = next(iter(found.state.params.values()))
    assert float(first.flatten()[0].round()) == number
    return number


def _assert_same(found: LocalCheckpoint | None, expected: LocalCheckpoint) -> None:
    assert found is not None
    assert found.values == expected.values
    assert found.groups.keys() == expected.groups.keys()
    for group, members in expected.groups.items():
        assert found.groups[group].keys() == members.keys()
        for name, tensor in members.items():
            other = found.groups[group][name]
            assert (other.dtype, other.shape) == (tensor.dtype, tensor.shape)
            assert other.numpy().tobytes() == tensor.numpy().tobytes()


def _pieces(path: Path) -> dict[str, tuple[str, int]]:
    """Group -> name and inode of its piece."""
    found = {p.name.split("-")[0]: (p.name, p.stat().st_ino) for p in pieces_folder(path).iterdir()}
    assert len(found) == len(list(pieces_folder(path).iterdir())), "one piece for each group"
    return found


def _changed(before: dict[str, tuple[str, int]], after: dict[str, tuple[str, int]]) -> set[str]:
    return {group for group in after if after[group] != before.get(group)}


def test_a_state_in_pieces_comes_back_bit_for_bit(state, spec, path) -> None:
    writer = CheckpointWriter(path, spec.run_id)
    for number in (1, 2, 3):
        saved = _checkpoint(state, number)
        writer.save(saved)
        found = load_local(path, spec)
        _assert_same(found, saved)
        assert found is not None
        assert equal_states(found.state, saved.state)
        assert sorted(_pieces(path)) == sorted(LARGE)
        assert sorted(p.name for p in path.parent.iterdir()) == ["node", "node.safetensors"]


def test_what_did_not_change_is_not_written_again(state, spec, path) -> None:
    """A miner's window: training changes feedback and moments, the outer step changes theta."""
    writer = CheckpointWriter(path, spec.run_id)
    tokens: dict[str, object] = {"feedback": object(), "moments": object()}
    saved = dataclasses.replace(_checkpoint(state, 1), revisions=tokens)
    writer.save(saved)
    begun = _pieces(path)
    tokens = {"feedback": object(), "moments": object()}
    saved = dataclasses.replace(
        saved, groups=_checkpoint(state, 2).groups, revisions=tokens, values={"number": 2}
    )
    writer.save(saved)
    trained = _pieces(path)
    assert _changed(begun, trained) == {"feedback", "moments"}
    saved = dataclasses.replace(saved, state=_checkpoint(state, 3).state, values={"number": 3})
    writer.save(saved)
    stepped = _pieces(path)
    assert _changed(trained, stepped) == {"params"}
    saved = dataclasses.replace(saved, revisions={**tokens, "feedback": object()})
    writer.save(saved)
    assert _changed(stepped, _pieces(path)) == {"feedback"}
    saved = dataclasses.replace(saved, state=dataclasses.replace(saved.state, reference_rao=5))
    before = _pieces(path)
    writer.save(saved)
    assert _changed(before, _pieces(path)) == set()
    found = load_local(path, spec)
    _assert_same(found, saved)
    assert found is not None
    assert equal_states(found.state, saved.state)


def test_a_group_without_a_token_is_written_every_time(state, spec, path) -> None:
    writer = CheckpointWriter(path, spec.run_id)
    saved = _checkpoint(state, 1)
    writer.save(saved)
    before = _pieces(path)
    writer.save(dataclasses.replace(saved, revisions={"moments": object()}))
    assert _changed(before, _pieces(path)) == {"feedback", "moments"}


def test_theta_in_other_tensors_is_written_again(state, spec, path) -> None:
    """A healed theta has the root of the damaged one."""
    writer = CheckpointWriter(path, spec.run_id)
    saved = _checkpoint(state, 1)
    writer.save(saved)
    before = _pieces(path)
    params = dict(saved.state.params)
    name = next(iter(params))
    params[name] = params[name].clone()
    saved = dataclasses.replace(saved, state=dataclasses.replace(saved.state, params=params))
    writer.save(saved)
    assert "params" in _changed(before, _pieces(path))


def test_the_writer_holds_no_theta_back(state, spec, path) -> None:
    writer = CheckpointWriter(path, spec.run_id)
    saved = _checkpoint(state, 1)
    held = [weakref.ref(tensor) for tensor in saved.state.params.values()]
    writer.save(saved)
    del saved
    assert [ref() for ref in held] == [None] * len(held)


@pytest.mark.parametrize("is_cut", [True, False])
def test_a_piece_that_somebody_removed_is_written_again(is_cut, state, spec, path) -> None:
    writer = CheckpointWriter(path, spec.run_id)
    saved = dataclasses.replace(_checkpoint(state, 1), revisions=dict.fromkeys(LARGE, object()))
    writer.save(saved)
    before = _pieces(path)
    piece = pieces_folder(path) / before["moments"][0]
    if is_cut:
        os.truncate(piece, 10)
    else:
        piece.unlink()
    writer.save(saved)
    assert _changed(before, _pieces(path)) == {"moments"}
    _assert_same(load_local(path, spec), saved)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_a_file_system_without_a_sync_of_folders_is_used_as_it_is(
    code, state, spec, path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def refuse_folders(number: int) -> None:
        if stat.S_ISDIR(os.fstat(number).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(number)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    writer = CheckpointWriter(path, spec.run_id)
    if code == errno.EINVAL:
        writer.save(_checkpoint(state, 1))
        assert _number(path, spec) == 1
        return
    with pytest.raises(StateError, match="cannot be written"):
        writer.save(_checkpoint(state, 1))


def test_a_save_after_a_failed_one_trusts_nothing(
    state, spec, path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rename was done, and the disk said that the rename was not."""
    writer = CheckpointWriter(path, spec.run_id)
    writer.save(_checkpoint(state, 1))
    saved = dataclasses.replace(_checkpoint(state, 2), revisions=dict.fromkeys(LARGE, object()))
    replace = Path.replace

    def lie(self: Path, target: Path) -> Path:
        replace(self, target)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", lie)
        with pytest.raises(StateError):
            writer.save(saved)
    assert _number(path, spec) == 2
    writer.save(_checkpoint(state, 3))
    assert _number(path, spec) == 3


def test_a_group_that_became_small_is_in_the_file_that_names_pieces(state, spec, path) -> None:
    writer = CheckpointWriter(path, spec.run_id)
    writer.save(_checkpoint(state, 1))
    saved = _checkpoint(state, 2)
    saved = dataclasses.replace(saved, groups={"feedback": {"a": torch.zeros(2)}})
    writer.save(saved)
    assert sorted(_pieces(path)) == ["params"]
    _assert_same(load_local(path, spec), saved)


def _in_child(work: Callable[[], None]) -> int:
    """Run in a forked process that ends there; its status as of `os.waitpid`."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]


KILLED = 77


def _killed_at(step: int, folder: Path, work: Callable[[], None]) -> bool:
    """Whether a process that does `work` was ended before its step-th change of the folder."""

    def body() -> None:
        seen = 0

        def watch(event: str, args: tuple[object, ...]) -> None:
            nonlocal seen
            changes = event in ("os.rename", "os.remove", "os.mkdir", "os.truncate") or (
                event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
            )
            if changes and str(args[0]).startswith(str(folder)):
                seen += 1
                if seen == step:
                    os._exit(KILLED)

        sys.addaudithook(watch)
        work()

    return os.waitstatus_to_exitcode(_in_child(body)) == KILLED


def test_a_kill_before_any_change_of_the_disk_leaves_the_state_before_or_after(
    state, spec, path
) -> None:
    """Real kills of real processes, at each file that is made, renamed or removed."""
    found: list[int] = []
    while len(found) < MAX_STEPS:
        # A process of its own each time, which knows nothing of the one before.
        writer = CheckpointWriter(path, spec.run_id)
        writer.save(_checkpoint(state, 1))
        assert sorted(_pieces(path)) == sorted(LARGE), "nothing of the killed ones stays"
        assert sorted(p.name for p in path.parent.iterdir()) == ["node", "node.safetensors"]
        step = len(found) + 1
        if not _killed_at(step, path.parent, partial(writer.save, _checkpoint(state, 2))):
            break
        found.append(_number(path, spec))
    # Three pieces, the folder again and the file aside are made; a rename; three pieces removed.
    assert found == [1, 1, 1, 1, 1, 1, 2, 2, 2]
    assert _number(path, spec) == 2


LATER = ("params", "moments")


def _ages(path: Path, spec: RunSpec) -> tuple[int, int, int]:
    """Which checkpoint's theta, moments and everything else lie on the disk; each of them whole."""
    found = load_local(path, spec)
    assert found is not None
    number, theta = int(found.values["number"]), found.state.window
    moments = int(found.groups["moments"]["step"])
    groups = {
        **_checkpoint(found.state, number).groups,
        "moments": _checkpoint(found.state, moments).groups["moments"],
    }
    expected = LocalCheckpoint(state=found.state, groups=groups, values={"number": number})
    _assert_same(found, expected)
    first = next(iter(found.state.params.values()))
    assert float(first.flatten()[0].round()) == theta, "theta, and the window it is said to be of"
    return theta, moments, number


def _save_as_a_miner(writer: CheckpointWriter, state: OuterState) -> None:
    """First what a commitment needs, then the large rest, while something new is made."""
    writer.save(_checkpoint(state, 1))
    writer.save(_checkpoint(state, 2), LATER)
    writer.prepare(_checkpoint(state, 3), LATER)
    writer.save(_checkpoint(state, 4), LATER)
    writer.save(_checkpoint(state, 5))


def test_a_kill_leaves_what_belongs_together_and_an_older_theta_at_most(state, spec, path) -> None:
    """Real kills, at each change of the disk."""
    CheckpointWriter(path, spec.run_id).save(_checkpoint(state, 0))
    found: list[tuple[int, int, int]] = []
    for step in range(1, MAX_STEPS):
        CheckpointWriter(path, spec.run_id).save(_checkpoint(state, 0))
        writer = CheckpointWriter(path, spec.run_id)
        if not _killed_at(step, path.parent, partial(_save_as_a_miner, writer, state)):
            break
        found.append(_ages(path, spec))
    assert found == sorted(found), "nothing becomes older"
    assert sorted(set(found)) == [(0, 0, 0), (1, 1, 1), (1, 1, 2), (3, 3, 4), (5, 5, 5)]
    assert _ages(path, spec) == (5, 5, 5)
    assert sorted(_pieces(path)) == sorted(LARGE)


def test_what_was_written_ahead_is_only_named_by_the_next_save(state, spec, path) -> None:
    writer = CheckpointWriter(path, spec.run_id)
    saved = dataclasses.replace(_checkpoint(state, 1), revisions=dict.fromkeys(LARGE, object()))
    writer.prepare(saved, (*LATER, "pending", "not there"))
    ahead = _pieces(path)
    assert sorted(ahead) == sorted(LATER)
    assert load_local(path, spec) is None, "nothing names the pieces"
    writer.save(saved)
    assert _changed(ahead, _pieces(path)) == {"feedback"}
    _assert_same(load_local(path, spec), saved)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_full_disk_ahead_leaves_the_state_before_and_no_file(is_first, state, spec, path) -> None:
    writer = CheckpointWriter(path, spec.run_id)
    writer.save(_checkpoint(state, 1))
    before, held = _pieces(path), writer
    writer = CheckpointWriter(path, spec.run_id) if is_first else held
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(p.stat().st_size for p in pieces_folder(path).iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, hard))
    try:
        with pytest.raises(StateError, match="free the disk"):
            writer.prepare(_checkpoint(state, 2), LATER)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert _number(path, spec) == 1
    assert _pieces(path) == before
    writer.save(_checkpoint(state, 3), LATER)
    assert _number(path, spec) == 3, "the last save's pieces are no longer trusted"


@pytest.mark.skipif(sys.platform != "linux", reason="the signal of a limit")
def test_a_kill_in_the_middle_of_a_file_leaves_the_state_before(state, spec, path) -> None:
    """The kernel ends the process in the write that makes a file too long."""
    CheckpointWriter(path, spec.run_id).save(_checkpoint(state, 1))
    largest = max(p.stat().st_size for p in pieces_folder(path).iterdir())

    def cut(limit_bytes: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
        CheckpointWriter(path, spec.run_id).save(_checkpoint(state, 2))

    for limit_bytes in (0, 7, largest // 3, largest - 1):
        status = _in_child(partial(cut, limit_bytes))
        assert os.waitstatus_to_exitcode(status) == -signal.SIGXFSZ
        assert _number(path, spec) == 1
    CheckpointWriter(path, spec.run_id).save(_checkpoint(state, 2))
    assert _number(path, spec) == 2
    assert sorted(_pieces(path)) == sorted(LARGE)


def test_a_full_disk_leaves_the_state_before_and_room(state, spec, path) -> None:
    writer = CheckpointWriter(path, spec.run_id)
    writer.save(_checkpoint(state, 1))
    before = _pieces(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(p.stat().st_size for p in pieces_folder(path).iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, hard))
    try:
        with pytest.raises(StateError, match=r"--neuron\.state_dir.*free the disk"):
            writer.save(_checkpoint(state, 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert _number(path, spec) == 1
    assert _pieces(path) == before, "the new pieces that fitted are gone"
    writer.save(_checkpoint(state, 2))
    assert _number(path, spec) == 2


def test_nothing_is_named_before_it_is_on_the_disk(
    state, spec, path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut may lose: whatever was written or renamed since its last fsync."""
    story: list[tuple[str, str]] = []
    fsync, replace, unlink = os.fsync, Path.replace, Path.unlink

    def noted_fsync(number: int) -> None:
        fsync(number)
        story.append(("fsync", Path(os.readlink(f"/proc/self/fd/{number}")).name))

    def noted_replace(self: Path, target: Path) -> Path:
        story.append(("replace", self.name))
        return replace(self, target)

    def noted_unlink(self: Path, missing_ok: bool = False) -> None:
        story.append(("unlink", self.name))
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    monkeypatch.setattr(Path, "unlink", noted_unlink)
    writer = CheckpointWriter(path, spec.run_id)
    writer.save(_checkpoint(state, 1))
    old = {name for name, _ in _pieces(path).values()}
    story.clear()
    writer.save(_checkpoint(state, 2))
    new = {name for name, _ in _pieces(path).values()}
    named = story.index(("replace", "node.partial"))
    on_disk = [what for what in story[:named] if what[0] == "fsync"]
    assert {name for _, name in on_disk} == {*new, "node", "node.partial"}
    assert on_disk.index(("fsync", "node")) > max(on_disk.index(("fsync", n)) for n in new)
    removed = [i for i, what in enumerate(story) if what[0] == "unlink"]
    assert {story[i][1] for i in removed} == old
    assert story.index(("fsync", "deep")) in range(named, min(removed))


def test_pieces_of_a_killed_process_make_room_before_the_first_write(
    state, spec, path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CheckpointWriter(path, spec.run_id).save(_checkpoint(state, 1))
    stray = pieces_folder(path) / "moments-0000000000000000.safetensors"
    stray.write_bytes(bytes(10))
    write, seen = write_tensors, list[bool]()

    def watched(*args):
        seen.append(stray.exists())
        return write(*args)

    monkeypatch.setattr(module, "write_tensors", watched)
    CheckpointWriter(path, spec.run_id).save(_checkpoint(state, 2))
    assert seen
    assert not any(seen)


def test_a_removed_file_means_a_new_beginning(state, spec, path) -> None:
    """As the messages say: remove it to join anew."""
    CheckpointWriter(path, spec.run_id).save(_checkpoint(state, 1))
    old = _pieces(path)
    path.unlink()
    assert load_local(path, spec) is None
    CheckpointWriter(path, spec.run_id).save(_checkpoint(state, 2))
    assert _number(path, spec) == 2
    assert not set(old.values()) & set(_pieces(path).values())


@pytest.mark.parametrize("group", LARGE)
@pytest.mark.parametrize("damage", ["missing", "short", "long", "header", "text"])
def test_a_damaged_piece_is_refused_with_the_remedy(damage, group, state, spec, path) -> None:
    CheckpointWriter(path, spec.run_id).save(_checkpoint(state, 1))
    piece = pieces_folder(path) / _pieces(path)[group][0]
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
        CheckpointWriter(path, spec.run_id).save(_checkpoint(state, 1))


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
    saved = _checkpoint(state, 1)
    _save_as_format(path, "3", saved, spec)
    assert _number(path, spec) == 1
    CheckpointWriter(path, spec.run_id).save(_checkpoint(state, 2))
    assert _number(path, spec) == 2
    assert sorted(_pieces(path)) == sorted(LARGE)


def test_the_file_of_an_unknown_version_is_refused_with_the_remedy(state, spec, path) -> None:
    _save_as_format(path, "5", _checkpoint(state, 1), spec)
    with pytest.raises(ConfigError, match=r"has format 5, and this version reads 3, 4: start the"):
        load_local(path, spec)
