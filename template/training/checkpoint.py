"""Checkpoints: the published one that anybody can load, and the local one of a node.

Published: a manifest (JSON) and two files by SHA-256, `model.safetensors` and
`config.json`, in Hugging Face's layout: put into one folder they load with
`AutoModelForCausalLM.from_pretrained`. Local: one safetensors file with everything that a
node carries, written whole or not at all.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save, save_file
from torch import Tensor

from template.errors import ConfigError, disk_trouble
from template.protocol.spec import RunSpec
from template.training.model import Params, model_config, tensor_shapes
from template.training.outer import OuterState, state_digest

PARAMS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
_FORMAT = 1
_MALFORMED = (ValueError, KeyError, TypeError, OverflowError, RecursionError)
"""What a stranger's JSON can raise: infinite numbers and deep nesting among the rest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A checkpoint as it lies in a bucket: the manifest, and its files by SHA-256."""

    manifest: bytes
    blobs: Mapping[bytes, bytes]


def publish(state: OuterState, spec: RunSpec) -> Published:
    """The checkpoint of a state; the same bytes from every node that stands on it."""
    files = {
        PARAMS_FILE: params_bytes(state.params),
        CONFIG_FILE: model_config(spec).to_json_string().encode(),
    }
    digests = {name: hashlib.sha256(data).digest() for name, data in files.items()}
    manifest = {
        "format": _FORMAT,
        "run_id": spec.run_id.hex(),
        "files": [
            {"name": name, "sha256": digests[name].hex(), "bytes": len(files[name])}
            for name in sorted(files)
        ],
        "state": _carried(state),
    }
    return Published(
        manifest=json.dumps(manifest, sort_keys=True).encode(),
        blobs={digests[name]: files[name] for name in files},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedManifest:
    """A parsed manifest; `params_digest` names the tensors' file, of `params_bytes` bytes."""

    params_digest: bytes
    params_bytes: int
    carried: dict[str, Any]


def parse_published(data: bytes, spec: RunSpec) -> PublishedManifest:
    """The manifest of a checkpoint of this run; ConfigError says what is wrong with it."""
    try:
        manifest = json.loads(data)
        if manifest["format"] != _FORMAT or manifest["run_id"] != spec.run_id.hex():
            raise ConfigError("checkpoint manifest: of another run or format")
        entry = next(e for e in manifest["files"] if e["name"] == PARAMS_FILE)
        return PublishedManifest(
            params_digest=bytes.fromhex(entry["sha256"]),
            params_bytes=int(entry["bytes"]),
            carried=manifest["state"],
        )
    except (*_MALFORMED, StopIteration) as error:
        raise ConfigError(f"checkpoint manifest: not one: {error!r}") from error


def restore_published(manifest: PublishedManifest, data: bytes, spec: RunSpec) -> OuterState:
    """The state that a manifest and its tensors' file describe. ConfigError if they do not fit.

    The root is not proven here: a joiner compares the one that it leads to with the one
    that the stake majority votes. It leads there only with the checkpoint digest of the
    run, and that digest is checked: it covers the tensors and all else that is carried.
    """
    if hashlib.sha256(data).digest() != manifest.params_digest:
        raise ConfigError("checkpoint: the tensors' file has another digest")
    state = _restored(manifest.carried, parse_params(data, spec))
    if state_digest(state) != state.checkpoint_digest:
        raise ConfigError("checkpoint: what it carries is not what its checkpoint digest says")
    return state


def params_bytes(params: Mapping[str, Tensor]) -> bytes:
    """Parameters as a safetensors file."""
    return save({name: params[name] for name in sorted(params)}, metadata={"format": "pt"})


def parse_params(data: bytes, spec: RunSpec) -> Params:
    """Parameters from a safetensors file, checked against the run's model; else ConfigError."""
    try:
        params = load(data)
    except (SafetensorError, *_MALFORMED) as error:
        raise ConfigError(f"checkpoint: not a safetensors file: {error!r}") from error
    _check_params(params, spec)
    return dict(params)


def _check_params(params: Mapping[str, Tensor], spec: RunSpec) -> None:
    shapes = tensor_shapes(spec)
    if {name: tuple(t.shape) for name, t in params.items()} != shapes:
        raise ConfigError("checkpoint: its tensors are not those of the run's model")
    for name, tensor in params.items():
        if tensor.dtype != torch.float32 or not torch.isfinite(tensor).all():
            raise ConfigError(f"checkpoint: {name} is not finite float32")


def _carried(state: OuterState) -> dict[str, Any]:
    return {
        "window": state.window,
        "root": state.root.hex(),
        "initial_norms": dict(state.initial_norms),
        "accepted_norms": [[w, [dict(n) for n in norms]] for w, norms in state.accepted_norms],
        "voting_stakes_rao": list(state.voting_stakes_rao),
        "checkpoint_digest": state.checkpoint_digest.hex(),
    }


def _restored(carried: Mapping[str, Any], params: Params) -> OuterState:
    try:
        return OuterState(
            window=int(carried["window"]),
            params=params,
            root=bytes.fromhex(carried["root"]),
            initial_norms={n: float(carried["initial_norms"][n]) for n in params},
            accepted_norms=tuple(
                (int(w), tuple({n: float(norms[n]) for n in params} for norms in members))
                for w, members in carried["accepted_norms"]
            ),
            voting_stakes_rao=tuple(int(s) for s in carried["voting_stakes_rao"]),
            checkpoint_digest=bytes.fromhex(carried["checkpoint_digest"]),
        )
    except _MALFORMED as error:
        raise ConfigError(f"checkpoint: its state is not one: {error!r}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalCheckpoint:
    """A node's own state: the run's, groups of tensors by name, and plain JSON values."""

    state: OuterState
    groups: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


def save_local(path: Path, checkpoint: LocalCheckpoint, run_id: bytes) -> None:
    """Write the file whole or not at all: a kill at any moment leaves the one before.

    StateError if the disk does not take it.
    """
    tensors = {f"params/{name}": tensor for name, tensor in checkpoint.state.params.items()}
    for group, members in checkpoint.groups.items():
        tensors |= {f"{group}/{name}": tensor for name, tensor in members.items()}
    metadata = {
        "format": str(_FORMAT),
        "run_id": run_id.hex(),
        "state": json.dumps(_carried(checkpoint.state)),
        "values": json.dumps(dict(checkpoint.values)),
    }
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, metadata=metadata)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise disk_trouble(path, error) from error


def load_local(path: Path, spec: RunSpec) -> LocalCheckpoint | None:
    """The node's checkpoint, or None if it has none; ConfigError if it cannot be used."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["run_id"] != spec.run_id.hex():
            raise ConfigError(f"{path}: of another run; name another --neuron.state_dir")
        carried, values = json.loads(metadata["state"]), json.loads(metadata["values"])
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"--neuron.state_dir: {path} cannot be read ({error}); remove it to join anew"
        ) from error
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, member = name.partition("/")
        groups.setdefault(group, {})[member] = tensor
    params = groups.pop("params", {})
    _check_params(params, spec)
    return LocalCheckpoint(state=_restored(carried, params), groups=groups, values=values)
