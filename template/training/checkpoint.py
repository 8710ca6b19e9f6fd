"""The local checkpoint of a node, and parameters as a file.

The local checkpoint is a single safetensors file with a node's whole state, written completely or
not at all. `template.training.published` has the checkpoint for other nodes.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from template.errors import ConfigError, ObjectError, disk_trouble, unreadable
from template.protocol.spec import RunSpec
from template.protocol.strangers import MALFORMED, fault, refusing, text_of, whole
from template.training.alpha import MAX_EXPONENT
from template.training.finite import is_finite
from template.training.model import Params, tensor_shapes
from template.training.norms import count_accepted, norms_text, parse_norms
from template.training.outer import OuterState

_FORMAT = 3
_WINDOW_LIMIT = 2**32
_STAKE_LIMIT = 2**64
_DIGEST_BYTES = 32


def load_tensors(data: bytes | Path) -> Params:
    """All tensors of a safetensors file, or of its bytes; ObjectError for other bytes.

    The tensors are memory of their own: the file may be removed. StateError if it cannot be read.
    """
    try:
        if isinstance(data, bytes):
            return dict(load(data))
        with safe_open(data, framework="pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        assert isinstance(data, Path), "bytes in memory can be read"
        raise unreadable(data, error) from error
    except (SafetensorError, *MALFORMED) as error:
        raise ObjectError(f"checkpoint: refused: not a safetensors file: {fault(error)}") from error


def check_params(params: Mapping[str, Tensor], spec: RunSpec) -> None:
    """ObjectError unless `params` are the run's tensors: names, shapes, finite float32."""
    shapes = tensor_shapes(spec)
    if {name: tuple(t.shape) for name, t in params.items()} != shapes:
        raise ObjectError("checkpoint: refused: tensor names or shapes differ from the run's model")
    for name, tensor in params.items():
        if tensor.dtype != torch.float32 or not is_finite(tensor):
            raise ObjectError(f"checkpoint: refused: {name} is not finite float32")


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


def restored_state(carried: Mapping[str, Any], params: Params) -> OuterState:
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
    """A node's own state: the run's state, groups of tensors by name, and plain JSON values."""

    state: OuterState
    groups: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


def save_local(path: Path, checkpoint: LocalCheckpoint, run_id: bytes) -> None:
    """Write the file completely or not at all: a kill at any moment leaves the previous file.

    StateError if the disk refuses the file.
    """
    tensors = {f"params/{name}": tensor for name, tensor in checkpoint.state.params.items()}
    for group, members in checkpoint.groups.items():
        tensors |= {f"{group}/{name}": tensor for name, tensor in members.items()}
    metadata = {
        "format": str(_FORMAT),
        "run_id": run_id.hex(),
        "state": json.dumps(carried_values(checkpoint.state)),
        "values": json.dumps(dict(checkpoint.values)),
    }
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, metadata=metadata)
        # Without fsync, a power cut after the rename could leave an empty file.
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            partial.unlink()
        # The folder or the file aside may be at fault: the message names what stands in the way.
        raise disk_trouble(partial if partial.is_dir() else path, error) from error


def load_local(path: Path, spec: RunSpec) -> LocalCheckpoint | None:
    """The node's checkpoint, or None without a file; ConfigError for an unusable file.

    StateError if this user cannot read the file: another user's, or a folder in its place.
    """
    try:
        path.open("rb").close()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["run_id"] != spec.run_id.hex():
            raise ConfigError(f"{path}: of another run; name another --neuron.state_dir")
        carried, values = json.loads(metadata["state"]), json.loads(metadata["values"])
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _unusable(path, error) from error
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, member = name.partition("/")
        groups.setdefault(group, {})[member] = tensor
    params = groups.pop("params", {})
    try:
        check_params(params, spec)
        state = restored_state(carried, params)
    except ObjectError as error:
        raise _unusable(path, error) from error
    return LocalCheckpoint(state=state, groups=groups, values=values)


def _unusable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"--neuron.state_dir: {path} cannot be read ({error}); remove it to join anew"
    )
