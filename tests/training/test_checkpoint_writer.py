"""A node that saves again and again: each tensor once, and a kill at any moment mixes nothing."""

import dataclasses
import errno
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

from template.errors import StateError
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
from tests.support.checkpoints import (
    LARGE,
    assert_same,
    number_on_disk,
    numbered,
    pieces_on_disk,
)
from tests.support.states import equal_states

MAX_STEPS = 200


@pytest.fixture(autouse=True)
def _all_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 64)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "node.safetensors"


def _changed(before: dict[str, tuple[str, int]], after: dict[str, tuple[str, int]]) -> set[str]:
    return {group for group in after if after[group] != before.get(group)}


def test_a_state_in_pieces_comes_back_bit_for_bit(state, spec, path) -> None:
    writer = CheckpointWriter(path, spec.run_id)
    for number in (1, 2, 3):
        saved = numbered(state, number)
        writer.save(saved)
        found = load_local(path, spec)
        assert_same(found, saved)
        assert found is not None
        assert equal_states(found.state, saved.state)
        assert sorted(pieces_on_disk(path)) == sorted(LARGE)
        assert sorted(p.name for p in path.parent.iterdir()) == ["node", "node.safetensors"]


def test_what_did_not_change_is_not_written_again(state, spec, path) -> None:
    """A miner's window: training changes feedback and moments, the outer step changes theta."""
    writer = CheckpointWriter(path, spec.run_id)
    tokens: dict[str, object] = {"feedback": object(), "moments": object()}
    saved = dataclasses.replace(numbered(state, 1), revisions=tokens)
    writer.save(saved)
    begun = pieces_on_disk(path)
    tokens = {"feedback": object(), "moments": object()}
    saved = dataclasses.replace(
        saved, groups=numbered(state, 2).groups, revisions=tokens, values={"number": 2}
    )
    writer.save(saved)
    trained = pieces_on_disk(path)
    assert _changed(begun, trained) == {"feedback", "moments"}
    saved = dataclasses.replace(saved, state=numbered(state, 3).state, values={"number": 3})
    writer.save(saved)
    stepped = pieces_on_disk(path)
    assert _changed(trained, stepped) == {"params"}
    saved = dataclasses.replace(saved, revisions={**tokens, "feedback": object()})
    writer.save(saved)
    assert _changed(stepped, pieces_on_disk(path)) == {"feedback"}
    saved = dataclasses.replace(saved, state=dataclasses.replace(saved.state, reference_rao=5))
    before = pieces_on_disk(path)
    writer.save(saved)
    assert _changed(before, pieces_on_disk(path)) == set()
    found = load_local(path, spec)
    assert_same(found, saved)
    assert found is not None
    assert equal_states(found.state, saved.state)


def test_a_group_without_a_token_is_written_every_time(state, spec, path) -> None:
    writer = CheckpointWriter(path, spec.run_id)
    saved = numbered(state, 1)
    writer.save(saved)
    before = pieces_on_disk(path)
    writer.save(dataclasses.replace(saved, revisions={"moments": object()}))
    assert _changed(before, pieces_on_disk(path)) == {"feedback", "moments"}


def test_theta_in_other_tensors_is_written_again(state, spec, path) -> None:
    """A healed theta has the root of the damaged one."""
    writer = CheckpointWriter(path, spec.run_id)
    saved = numbered(state, 1)
    writer.save(saved)
    before = pieces_on_disk(path)
    params = dict(saved.state.params)
    name = next(iter(params))
    params[name] = params[name].clone()
    saved = dataclasses.replace(saved, state=dataclasses.replace(saved.state, params=params))
    writer.save(saved)
    assert "params" in _changed(before, pieces_on_disk(path))


def test_the_writer_holds_no_theta_back(state, spec, path) -> None:
    writer = CheckpointWriter(path, spec.run_id)
    saved = numbered(state, 1)
    held = [weakref.ref(tensor) for tensor in saved.state.params.values()]
    writer.save(saved)
    del saved
    assert [ref() for ref in held] == [None] * len(held)


@pytest.mark.parametrize("is_cut", [True, False])
def test_a_piece_that_somebody_removed_is_written_again(is_cut, state, spec, path) -> None:
    writer = CheckpointWriter(path, spec.run_id)
    saved = dataclasses.replace(numbered(state, 1), revisions=dict.fromkeys(LARGE, object()))
    writer.save(saved)
    before = pieces_on_disk(path)
    piece = pieces_folder(path) / before["moments"][0]
    if is_cut:
        os.truncate(piece, 10)
    else:
        piece.unlink()
    writer.save(saved)
    assert _changed(before, pieces_on_disk(path)) == {"moments"}
    assert_same(load_local(path, spec), saved)


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
        writer.save(numbered(state, 1))
        assert number_on_disk(path, spec) == 1
        return
    with pytest.raises(StateError, match="cannot be written"):
        writer.save(numbered(state, 1))


def test_a_save_after_a_failed_one_trusts_nothing(
    state, spec, path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rename was done, and the disk said that the rename was not."""
    writer = CheckpointWriter(path, spec.run_id)
    writer.save(numbered(state, 1))
    saved = dataclasses.replace(numbered(state, 2), revisions=dict.fromkeys(LARGE, object()))
    replace = Path.replace

    def lie(self: Path, target: Path) -> Path:
        replace(self, target)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", lie)
        with pytest.raises(StateError):
            writer.save(saved)
    assert number_on_disk(path, spec) == 2
    writer.save(numbered(state, 3))
    assert number_on_disk(path, spec) == 3


def test_a_group_that_became_small_is_in_the_file_that_names_pieces(state, spec, path) -> None:
    writer = CheckpointWriter(path, spec.run_id)
    writer.save(numbered(state, 1))
    saved = numbered(state, 2)
    saved = dataclasses.replace(saved, groups={"feedback": {"a": torch.zeros(2)}})
    writer.save(saved)
    assert sorted(pieces_on_disk(path)) == ["params"]
    assert_same(load_local(path, spec), saved)


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
        writer.save(numbered(state, 1))
        assert sorted(pieces_on_disk(path)) == sorted(LARGE), "nothing of the killed ones stays"
        assert sorted(p.name for p in path.parent.iterdir()) == ["node", "node.safetensors"]
        step = len(found) + 1
        if not _killed_at(step, path.parent, partial(writer.save, numbered(state, 2))):
            break
        found.append(number_on_disk(path, spec))
    # Three pieces, the folder again and the file aside are made; a rename; three pieces removed.
    assert found == [1, 1, 1, 1, 1, 1, 2, 2, 2]
    assert number_on_disk(path, spec) == 2


LATER = ("params", "moments")


def _ages(path: Path, spec: RunSpec) -> tuple[int, int, int]:
    """Which checkpoint's theta, moments and everything else lie on the disk; each of them whole."""
    found = load_local(path, spec)
    assert found is not None
    number, theta = int(found.values["number"]), found.state.window
    moments = int(found.groups["moments"]["step"])
    groups = {
        **numbered(found.state, number).groups,
        "moments": numbered(found.state, moments).groups["moments"],
    }
    expected = LocalCheckpoint(state=found.state, groups=groups, values={"number": number})
    assert_same(found, expected)
    first = next(iter(found.state.params.values()))
    assert float(first.flatten()[0].round()) == theta, "theta, and the window it is said to be of"
    return theta, moments, number


def _save_as_a_miner(writer: CheckpointWriter, state: OuterState) -> None:
    """First what a commitment needs, then the large rest, while something new is made."""
    writer.save(numbered(state, 1))
    writer.save(numbered(state, 2), LATER)
    writer.prepare(numbered(state, 3), LATER)
    writer.save(numbered(state, 4), LATER)
    writer.save(numbered(state, 5))


def test_a_kill_leaves_what_belongs_together_and_an_older_theta_at_most(state, spec, path) -> None:
    """Real kills, at each change of the disk."""
    CheckpointWriter(path, spec.run_id).save(numbered(state, 0))
    found: list[tuple[int, int, int]] = []
    for step in range(1, MAX_STEPS):
        CheckpointWriter(path, spec.run_id).save(numbered(state, 0))
        writer = CheckpointWriter(path, spec.run_id)
        if not _killed_at(step, path.parent, partial(_save_as_a_miner, writer, state)):
            break
        found.append(_ages(path, spec))
    assert found == sorted(found), "nothing becomes older"
    assert sorted(set(found)) == [(0, 0, 0), (1, 1, 1), (1, 1, 2), (3, 3, 4), (5, 5, 5)]
    assert _ages(path, spec) == (5, 5, 5)
    assert sorted(pieces_on_disk(path)) == sorted(LARGE)


def test_what_was_written_ahead_is_only_named_by_the_next_save(state, spec, path) -> None:
    writer = CheckpointWriter(path, spec.run_id)
    saved = dataclasses.replace(numbered(state, 1), revisions=dict.fromkeys(LARGE, object()))
    writer.prepare(saved, (*LATER, "pending", "not there"))
    ahead = pieces_on_disk(path)
    assert sorted(ahead) == sorted(LATER)
    assert load_local(path, spec) is None, "nothing names the pieces"
    writer.save(saved)
    assert _changed(ahead, pieces_on_disk(path)) == {"feedback"}
    assert_same(load_local(path, spec), saved)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_full_disk_ahead_leaves_the_state_before_and_no_file(is_first, state, spec, path) -> None:
    writer = CheckpointWriter(path, spec.run_id)
    writer.save(numbered(state, 1))
    before, held = pieces_on_disk(path), writer
    writer = CheckpointWriter(path, spec.run_id) if is_first else held
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(p.stat().st_size for p in pieces_folder(path).iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, hard))
    try:
        with pytest.raises(StateError, match="free the disk"):
            writer.prepare(numbered(state, 2), LATER)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert number_on_disk(path, spec) == 1
    assert pieces_on_disk(path) == before
    writer.save(numbered(state, 3), LATER)
    assert number_on_disk(path, spec) == 3, "the last save's pieces are no longer trusted"


@pytest.mark.skipif(sys.platform != "linux", reason="the signal of a limit")
def test_a_kill_in_the_middle_of_a_file_leaves_the_state_before(state, spec, path) -> None:
    """The kernel ends the process in the write that makes a file too long."""
    CheckpointWriter(path, spec.run_id).save(numbered(state, 1))
    largest = max(p.stat().st_size for p in pieces_folder(path).iterdir())

    def cut(limit_bytes: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
        CheckpointWriter(path, spec.run_id).save(numbered(state, 2))

    for limit_bytes in (0, 7, largest // 3, largest - 1):
        status = _in_child(partial(cut, limit_bytes))
        assert os.waitstatus_to_exitcode(status) == -signal.SIGXFSZ
        assert number_on_disk(path, spec) == 1
    CheckpointWriter(path, spec.run_id).save(numbered(state, 2))
    assert number_on_disk(path, spec) == 2
    assert sorted(pieces_on_disk(path)) == sorted(LARGE)


def test_a_full_disk_leaves_the_state_before_and_room(state, spec, path) -> None:
    writer = CheckpointWriter(path, spec.run_id)
    writer.save(numbered(state, 1))
    before = pieces_on_disk(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(p.stat().st_size for p in pieces_folder(path).iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, hard))
    try:
        with pytest.raises(StateError, match=r"--neuron\.state_dir.*free the disk"):
            writer.save(numbered(state, 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert number_on_disk(path, spec) == 1
    assert pieces_on_disk(path) == before, "the new pieces that fitted are gone"
    writer.save(numbered(state, 2))
    assert number_on_disk(path, spec) == 2


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
    writer.save(numbered(state, 1))
    old = {name for name, _ in pieces_on_disk(path).values()}
    story.clear()
    writer.save(numbered(state, 2))
    new = {name for name, _ in pieces_on_disk(path).values()}
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
    CheckpointWriter(path, spec.run_id).save(numbered(state, 1))
    stray = pieces_folder(path) / "moments-0000000000000000.safetensors"
    stray.write_bytes(bytes(10))
    write, seen = write_tensors, list[bool]()

    def watched(*args):
        seen.append(stray.exists())
        return write(*args)

    monkeypatch.setattr(module, "write_tensors", watched)
    CheckpointWriter(path, spec.run_id).save(numbered(state, 2))
    assert seen
    assert not any(seen)
