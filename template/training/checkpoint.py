"""The local checkpoint of a node, and parameters from the parts that others publish.

The local checkpoint is a safetensors file with a node's whole state, written completely or not at
all. A node that saves again and again keeps the large groups in files of their own, named by the
first (`CheckpointWriter`). `template.training.published` has the checkpoint for other nodes.
"""

import json
import secrets
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import SEEK_END, BufferedReader, BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from compression import SHORT_BYTES, unpack_short
from compression.workers import for_each
from template.errors import ConfigError, ObjectError, StateError, disk_trouble, unreadable
from template.protocol.parts import STRETCH_VALUES, part_header, part_length
from template.protocol.spec import RunSpec
from template.protocol.strangers import refusing, text_of, whole
from template.training.alpha import MAX_EXPONENT
from template.training.finite import is_finite
from template.training.model import Params, tensor_shapes
from template.training.norms import count_accepted, norms_text, parse_norms
from template.training.outer import OuterState
from template.training.row_files import RowFiles
from template.training.spread import SavedFile, Spreader, SpreadTensors, finite, shapes_of
from template.training.tensor_files import (
    num_bytes_of,
    read_metadata,
    read_tensors,
    sync_folder,
    write_tensors,
)

_FORMAT: Final = "4"
_READABLE: Final = ("3", _FORMAT)
"""Format 3 had the whole state in a single file, as small states have it still."""
PIECE_BYTES: Final = 2**20
"""A group of so many bytes gets a file of its own."""
STATE: Final = "params"
"""The group of the run's own state: theta, with root and norms."""
_WINDOW_LIMIT = 2**32
_STAKE_LIMIT = 2**64
_DIGEST_BYTES = 32


def load_part(data: bytes | Path, shapes: Mapping[str, Sequence[int]]) -> Params:
    """The tensors of a part (`template.protocol.parts`) with these names and shapes, or of its
    bytes; ObjectError for other bytes.

    Header and length follow from the shapes, so nothing of a stranger's file is parsed. Values are
    unpacked a stretch at a time into tensors of their own: the file may be removed. StateError if
    it cannot be read.
    """
    try:
        with BytesIO(data) if isinstance(data, bytes) else data.open("rb") as file:
            return _read_part(file, shapes)
    except OSError as error:
        assert isinstance(data, Path), "bytes in memory can be read"
        raise unreadable(data, error) from error


def _read_part(file: BytesIO | BufferedReader, shapes: Mapping[str, Sequence[int]]) -> Params:
    # Before any memory for the values.
    if file.seek(0, SEEK_END) != part_length(shapes):
        raise ObjectError("checkpoint: refused: a part has another length than its tensors need")
    header = part_header(shapes)
    file.seek(0)
    if file.read(len(header)) != header:
        raise ObjectError("checkpoint: refused: a part names other tensors than the run's model")
    room = np.empty(SHORT_BYTES * STRETCH_VALUES, dtype=np.uint8)
    params = {}
    for name in sorted(shapes):
        tensor = torch.empty(tuple(shapes[name]))
        values = tensor.view(-1).numpy()
        for first in range(0, values.size, STRETCH_VALUES):
            some = values[first : first + STRETCH_VALUES]
            packed = room[: SHORT_BYTES * some.size]
            if file.readinto(packed.data) != packed.size:
                raise ObjectError("checkpoint: refused: a part ends early")
            unpack_short(packed, some)
        params[name] = tensor
    return params


def check_params(params: Mapping[str, Tensor], spec: RunSpec) -> None:
    """ObjectError unless `params` are the run's tensors: names, shapes, finite float32."""
    if shapes_of(params) != tensor_shapes(spec):
        raise ObjectError("checkpoint: refused: tensor names or shapes differ from the run's model")
    if isinstance(params, SpreadTensors):
        wrong = [] if finite(params) else ["a tensor"]
    else:
        wrong = [n for n, t in params.items() if t.dtype != torch.float32 or not is_finite(t)]
    if wrong:
        raise ObjectError(f"checkpoint: refused: {wrong[0]} is not finite float32")


def carried_values(state: OuterState) -> dict[str, Any]:
    """A state without the tensors, as plain JSON values."""
    return {
        "window": state.window,
        "root": state.root.hex(),
        "norms": norms_text(state.initial_norms, state.accepted_norms),
        "accepted": count_accepted(state.accepted_norms),
        "reference_rao": state.reference_rao,
        "exponent": state.exponent,
        "checkpoint_digest": state.checkpoint_digest.hex(),
    }


def restored_state(carried: Mapping[str, Any], params: Mapping[str, Tensor]) -> OuterState:
    """The inverse of `carried_values`; ObjectError for a stranger's malformed values."""
    with refusing("checkpoint: the state is malformed"):
        initial, accepted = parse_norms(carried["norms"], carried["accepted"], params)
        return OuterState(
            window=whole(carried["window"], "window", _WINDOW_LIMIT),
            params=params,
            root=_digest(carried["root"], (_DIGEST_BYTES,)),
            initial_norms=initial,
            accepted_norms=accepted,
            reference_rao=whole(carried["reference_rao"], "reference stake", _STAKE_LIMIT),
            exponent=whole(
                carried["exponent"], "exponent of alpha", MAX_EXPONENT + 1, -MAX_EXPONENT
            ),
            checkpoint_digest=_digest(carried["checkpoint_digest"], (0, _DIGEST_BYTES)),
        )


def _digest(value: object, sizes: tuple[int, ...]) -> bytes:
    digest = bytes.fromhex(text_of(value, "a digest"))
    if len(digest) not in sizes:
        raise ValueError(f"a digest has {len(digest)} bytes instead of {sizes}")
    return digest


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalCheckpoint:
    """A node's own state: the run's state, groups of tensors by name, and plain JSON values.

    `revisions`: group -> a token, another object after every change of the group's tensors. A
    group without a token may have changed.
    """

    state: OuterState
    groups: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    revisions: Mapping[str, object] = field(default_factory=dict)

    def all_groups(self) -> dict[str, Mapping[str, Tensor]]:
        """The groups, and theta among them."""
        return {STATE: self.state.params, **self.groups}


Pieces = tuple[SavedFile, ...]
"""A group's files in the folder of pieces: one, or one of each process that holds the group."""


def pieces_folder(path: Path) -> Path:
    """Where the pieces of the checkpoint at `path` lie."""
    return path.with_suffix("")


def save_local(path: Path, checkpoint: LocalCheckpoint, run_id: bytes) -> None:
    """Write a single file, completely or not at all: a kill at any moment leaves the file before.

    Groups that lie with several processes become pieces beside the file, which `remove_local`
    removes. StateError if the disk refuses a file.
    """
    groups = checkpoint.all_groups()
    spread = {g: members for g, members in groups.items() if isinstance(members, SpreadTensors)}
    try:
        pieces = _write_pieces(path, run_id, spread)
        _write_index(path, checkpoint, run_id, pieces, carried_values(checkpoint.state))
    except OSError as error:
        raise _refused(path, error) from error


class CheckpointWriter:
    """Saves one node's checkpoints, one after another. Nobody else may write to the path.

    Every large group is a piece: a file that never changes. The file at the path names the pieces
    and has all else. A save writes the pieces that changed, replaces the file at the path, and
    removes the pieces that nothing names any more: a kill or a power cut at any moment leaves the
    state before or the state after. For one thread at a time.
    """

    def __init__(self, path: Path, run_id: bytes) -> None:
        self._path, self._run_id = path, run_id
        self._pieces: dict[str, Pieces] = {}
        """Group -> the pieces named by the last save of this process."""
        self._revisions: dict[str, object] = {}
        self._carried: dict[str, Any] = {}
        """The state of the last save, without theta."""
        self._params: dict[str, weakref.ref[Any]] = {}
        """The tensors of the last save, of which a state never changes any. Weak, because the next
        outer step leaves no room for theta."""
        self._has_swept = False

    def prepare(self, checkpoint: LocalCheckpoint, groups: Collection[str]) -> None:
        """Write the changed ones of these large groups ahead: the next save only names them.

        StateError if the disk refuses, and the state before stays whole.
        """
        members = checkpoint.all_groups()
        large = [g for g in groups if g in members and _is_large(members[g])]
        with self._refusing():
            self._sweep_once()
            new = {g: members[g] for g in large if not self._is_kept(g, checkpoint)}
            self._pieces |= _write_pieces(self._path, self._run_id, new)
            self._note_written(checkpoint, new.keys())

    def save(self, checkpoint: LocalCheckpoint, older: Collection[str] = ()) -> None:
        """Write what changed; StateError if the disk refuses, and the state before stays whole.

        Of the groups named in `older` the last save's pieces stay, if there are any: `STATE` may
        be behind, and a restart follows the run from there. What has to be on the disk at once
        does not wait for what may come later.
        """
        groups = checkpoint.all_groups()
        large = [g for g, members in groups.items() if _is_large(members)]
        stays = [g for g in large if g in older and self._has(g)]
        kept = {
            group: self._pieces[group]
            for group in large
            if group in stays or self._is_kept(group, checkpoint)
        }
        with self._refusing():
            self._sweep_once()
            new = {g: groups[g] for g in large if g not in kept}
            made = _write_pieces(self._path, self._run_id, new)
            self._note_written(checkpoint, groups.keys() - stays)
            _write_index(self._path, checkpoint, self._run_id, kept | made, self._carried)
            self._pieces = kept | made
            self._sweep()

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """StateError for what the disk refuses, with new files removed again."""
        try:
            yield
        except (OSError, StateError) as error:  # of this process, or of one that holds a group
            self._pieces = {}  # the disk's word on what is there no longer counts
            with suppress(OSError):
                self._sweep()
            if isinstance(error, StateError):
                raise
            raise _refused(self._path, error) from error

    def _note_written(self, checkpoint: LocalCheckpoint, groups: Collection[str]) -> None:
        for group in groups:
            self._revisions.pop(group, None)
            if (token := checkpoint.revisions.get(group)) is not None:
                self._revisions[group] = token
        if STATE in groups:
            self._carried = carried_values(checkpoint.state)
            version = _version_of(checkpoint.state.params)
            self._params = {name: weakref.ref(thing) for name, thing in version.items()}

    def _has(self, group: str) -> bool:
        """Whether the last save's piece of a group is still there."""
        return group in self._pieces and self._is_there(self._pieces[group])

    def _is_kept(self, group: str, checkpoint: LocalCheckpoint) -> bool:
        """Whether the group's piece of the last save holds the group's tensors of today."""
        if not self._has(group):
            return False
        if group == STATE:
            found, version = self._params, _version_of(checkpoint.state.params)
            return found.keys() == version.keys() and all(
                found[name]() is thing for name, thing in version.items()
            )
        token = checkpoint.revisions.get(group)
        return token is not None and token is self._revisions.get(group)

    def _is_there(self, pieces: Pieces) -> bool:
        """Whether nobody has removed or cut a piece since."""
        folder = pieces_folder(self._path)
        try:
            return all((folder / p.name).stat().st_size == p.num_bytes for p in pieces)
        except OSError:
            return False

    def _sweep_once(self) -> None:
        """A process before may have left unnamed pieces, and there must be room for more."""
        if not self._has_swept:
            self._sweep()

    def _sweep(self) -> None:
        """Remove the pieces that neither the file at the path nor the next save names."""
        folder = pieces_folder(self._path)
        try:
            pieces = _pieces_in(read_metadata(self._path))
            named = {piece.name for group in pieces.values() for piece in group}
        except FileNotFoundError:
            named = set()
        except (SafetensorError, ValueError, KeyError):
            return  # an operator's affair; the next save replaces the file
        self._has_swept = True
        named |= {piece.name for group in self._pieces.values() for piece in group}
        strays = [p for p in folder.glob("*.safetensors") if p.name not in named]
        if strays:
            # First the file that no longer names the strays: else a power cut could lose both.
            sync_folder(self._path.parent)
        for stray in strays:
            stray.unlink(missing_ok=True)


def _is_large(members: Mapping[str, Tensor]) -> bool:
    return isinstance(members, SpreadTensors) or num_bytes_of(members) >= PIECE_BYTES


def _version_of(params: Mapping[str, Tensor]) -> Mapping[str, object]:
    """The objects that are never changed: what has the same ones is the same theta."""
    return {"": params} if isinstance(params, SpreadTensors) else params


def _write_pieces(
    path: Path, run_id: bytes, groups: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Pieces]:
    """New files of these groups, on the disk with their names, side by side."""
    if not groups:
        return {}
    folder = pieces_folder(path)
    if not folder.is_dir():
        folder.mkdir(parents=True)
        sync_folder(folder.parent)
    metadata = {"format": _FORMAT, "run_id": run_id.hex()}
    # Names used never before: no file at the path, of today or from an archive, can name these
    # pieces and mean others.
    stems = {group: f"{group}-{secrets.token_hex(8)}" for group in groups}

    def write(group: str) -> Pieces:
        members = groups[group]
        if isinstance(members, SpreadTensors):
            return tuple(members.save(folder, stems[group], metadata))
        name = f"{stems[group]}.safetensors"
        return (SavedFile(name=name, num_bytes=write_tensors(folder / name, members, metadata)),)

    made = dict(zip(groups, for_each(write, groups, len(groups)), strict=True))
    sync_folder(folder)
    return made


def remove_local(path: Path) -> None:
    """Remove a file of `save_local`, and its pieces. OSError if refused."""
    path.unlink(missing_ok=True)
    folder = pieces_folder(path)
    if folder.is_dir():
        for piece in folder.glob("*.safetensors"):
            piece.unlink(missing_ok=True)
        folder.rmdir()


def _flat(groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {
        f"{g}/{name}": tensor for g, members in groups.items() for name, tensor in members.items()
    }


def _write_index(
    path: Path,
    checkpoint: LocalCheckpoint,
    run_id: bytes,
    pieces: Mapping[str, Pieces],
    carried: Mapping[str, Any],
) -> None:
    """Replace the file at the path by one with everything but the pieces. OSError if refused.

    `carried`: of the state whose theta is written, or in a piece.
    """
    groups = {g: members for g, members in checkpoint.all_groups().items() if g not in pieces}
    metadata = {
        "format": _FORMAT,
        "run_id": run_id.hex(),
        "state": json.dumps(dict(carried)),
        "values": json.dumps(dict(checkpoint.values)),
        "pieces": json.dumps(
            {g: [[piece.name, piece.num_bytes] for piece in group] for g, group in pieces.items()}
        ),
    }
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # On the disk before the rename, or a power cut could leave an empty file.
        write_tensors(partial, _flat(groups), metadata)
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise


def _refused(path: Path, error: OSError) -> StateError:
    partial = path.with_suffix(".partial")
    # The folder or the file aside may be at fault: the message names what stands in the way.
    return disk_trouble(partial if partial.is_dir() else path, error)


def load_local(
    path: Path, spec: RunSpec, spreader: Spreader | None = None
) -> LocalCheckpoint | None:
    """The node's checkpoint, or None without a file; ConfigError for an unusable file.

    With `spreader`, theta and the pieces lie with its processes. StateError if this user cannot
    read a file: another user's, or a folder in its place.
    """
    try:
        path.open("rb").close()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        tensors, metadata = read_tensors(path)
        if metadata["run_id"] != spec.run_id.hex():
            raise ConfigError(f"{path}: of another run; name another --neuron.state_dir")
        if metadata["format"] not in _READABLE:
            raise ConfigError(
                f"--neuron.state_dir: {path} has format {metadata['format']}, and this version "
                f"reads {', '.join(_READABLE)}: start the version that wrote it, or remove it to "
                "join anew"
            )
        carried, values = json.loads(metadata["state"]), json.loads(metadata["values"])
        pieces = _pieces_in(metadata)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _unusable(path, error) from error
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, member = name.partition("/")
        groups.setdefault(group, {})[member] = tensor
    read = {group: _read_pieces(path, files, spreader) for group, files in pieces.items()}
    all_groups: dict[str, Mapping[str, Tensor]] = {**groups, **read}
    params = all_groups.pop(STATE, {})
    try:
        if spreader is not None and not isinstance(params, SpreadTensors):
            params = spreader.place(params.items())
        check_params(params, spec)
        state = restored_state(carried, params)
    except ObjectError as error:
        raise _unusable(path, error) from error
    return LocalCheckpoint(state=state, groups=all_groups, values=values)


def _pieces_in(metadata: Mapping[str, str]) -> dict[str, Pieces]:
    """The pieces named by a checkpoint's metadata; none in format 3."""
    found = json.loads(metadata.get("pieces", "{}"))
    return {
        group: tuple(SavedFile(name=name, num_bytes=num_bytes) for name, num_bytes in files)
        for group, files in found.items()
    }


def _read_pieces(path: Path, pieces: Pieces, spreader: Spreader | None) -> Mapping[str, Tensor]:
    """A group's tensors: with the processes of `spreader`, or here."""
    places = [pieces_folder(path) / piece.name for piece in pieces]
    for place, piece in zip(places, pieces, strict=True):
        try:
            num_bytes = place.stat().st_size
        except FileNotFoundError as error:
            raise _unusable(path, error) from error
        except OSError as error:
            raise unreadable(place, error) from error
        if num_bytes != piece.num_bytes:
            fault = f"{place.name} has {num_bytes} bytes instead of {piece.num_bytes}"
            raise _unusable(path, ValueError(fault))
    try:
        return RowFiles(places).read_all() if spreader is None else spreader.read(places)
    except OSError as error:
        raise unreadable(places[0], error) from error
    except (SafetensorError, ValueError) as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"--neuron.state_dir: {path} cannot be read ({error}); remove it to join anew"
    )
