"""The published checkpoint: what anybody can load, and a joiner can prove.

A JSON manifest and files by SHA-256 in Hugging Face's layout: `config.json`, and the tensors in
one `model.safetensors` or in parts `model-0000i-of-0000N.safetensors` beside
`model.safetensors.index.json`. Put into one folder they load with
`AutoModelForCausalLM.from_pretrained`. The bytes follow from state and spec alone, so that a part
of one node's checkpoint is a part of every node's. Owns the layout; fetches and stores nothing.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from template.errors import ObjectError
from template.protocol.spec import RunSpec
from template.training.checkpoint import (
    MALFORMED,
    carried_values,
    check_params,
    load_tensors,
    params_bytes,
    restored_state,
)
from template.training.model import Params, config_json, tensor_shapes
from template.training.outer import OuterState, state_digest

CONFIG_FILE = "config.json"
INDEX_FILE = "model.safetensors.index.json"
ONLY_PART = "model.safetensors"
FORMAT = 2
"""Another number: joiners of the other format find no checkpoint."""
ROOM_BYTES = 2**20
"""For the header of one safetensors file, at most."""
FLOAT_BYTES = 4
MAX_NUMBER_CHARS = 32
"""Of a number in a manifest, with what stands around it."""
MAX_ENTRY_CHARS = 160
"""Of a file's entry in a manifest."""
ROOM_CHARS = 1024
"""For what else stands in a manifest."""
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A checkpoint as it lies in a bucket: the manifest, and its files by SHA-256."""

    manifest: bytes
    blobs: Mapping[bytes, bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedFile:
    """One file of a checkpoint, as its manifest names it."""

    name: str
    digest: bytes
    num_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedManifest:
    """A parsed manifest. `parts` hold the tensors, in the order of their numbers."""

    files: tuple[PublishedFile, ...]
    parts: tuple[PublishedFile, ...]
    carried: Mapping[str, Any]


def publish(state: OuterState, spec: RunSpec) -> Published:
    """The checkpoint of a state; the same bytes from every node that stands on it."""
    files = {CONFIG_FILE: config_json(spec), **_tensor_files(state.params, spec)}
    digests = {name: hashlib.sha256(data).digest() for name, data in files.items()}
    manifest = {
        "format": FORMAT,
        "run_id": spec.run_id.hex(),
        "files": [
            {"name": name, "sha256": digests[name].hex(), "bytes": len(files[name])}
            for name in sorted(files)
        ],
        "state": carried_values(state),
    }
    return Published(
        manifest=json.dumps(manifest, sort_keys=True).encode(),
        blobs={digests[name]: files[name] for name in files},
    )


def _tensor_files(params: Params, spec: RunSpec) -> dict[str, bytes]:
    groups = _split(tensor_shapes(spec), spec.checkpoint.part_bytes)
    names = part_names(len(groups))
    files = {
        file: params_bytes({name: params[name] for name in group})
        for file, group in zip(names, groups, strict=True)
    }
    if len(groups) > 1:
        files[INDEX_FILE] = _index(names, groups, sum(t.numel() for t in params.values()))
    return files


def _split(shapes: Mapping[str, Sequence[int]], part_bytes: int) -> list[list[str]]:
    """Tensors in name order, each part filled up to `part_bytes`; a larger tensor has its own."""
    groups: list[list[str]] = []
    free_bytes = 0
    for name in sorted(shapes):
        num_bytes = FLOAT_BYTES * math.prod(shapes[name])
        if not groups or num_bytes > free_bytes:
            groups.append([])
            free_bytes = part_bytes
        groups[-1].append(name)
        free_bytes -= num_bytes
    return groups


def part_names(count: int) -> list[str]:
    """What the files of `count` parts are called."""
    if count == 1:
        return [ONLY_PART]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _index(files: Sequence[str], groups: Sequence[Sequence[str]], numel: int) -> bytes:
    placed = {name: file for file, group in zip(files, groups, strict=True) for name in group}
    index = {"metadata": {"total_size": FLOAT_BYTES * numel}, "weight_map": placed}
    return json.dumps(index, sort_keys=True, indent=2).encode()


def parse_published(data: bytes, spec: RunSpec) -> PublishedManifest:
    """The manifest of a checkpoint of this run; ObjectError says what is wrong with it.

    Names are those that this layout has and no other, and the parts together are no longer than
    the run's model: what a joiner may be made to read is known before it reads any.
    """
    try:
        manifest = json.loads(data)
        if manifest["format"] != FORMAT or manifest["run_id"] != spec.run_id.hex():
            raise ObjectError("checkpoint manifest: of another run or format")
        files = tuple(_file(entry) for entry in manifest["files"])
        carried = manifest["state"]
    except MALFORMED as error:
        raise ObjectError(f"checkpoint manifest: not one: {error!r}") from error
    if not isinstance(carried, dict):
        raise ObjectError("checkpoint manifest: its state is not an object")
    return PublishedManifest(files=files, parts=_parts(files, spec), carried=carried)


def named_digests(data: bytes) -> frozenset[bytes]:
    """Which files a manifest of ours, of any run and format, names; ObjectError if it is none."""
    try:
        return frozenset(bytes.fromhex(entry["sha256"]) for entry in json.loads(data)["files"])
    except MALFORMED as error:
        raise ObjectError(f"checkpoint manifest: not one: {error!r}") from error


def _file(entry: Mapping[str, Any]) -> PublishedFile:
    name, sha256, num_bytes = entry["name"], entry["sha256"], entry["bytes"]
    if not isinstance(name, str) or not isinstance(sha256, str) or type(num_bytes) is not int:
        raise ObjectError("checkpoint manifest: a file has a name, a SHA-256 and a length")
    if not _HEX_DIGEST.fullmatch(sha256) or num_bytes <= 0:
        raise ObjectError("checkpoint manifest: a file's SHA-256 or length is none")
    return PublishedFile(name=name, digest=bytes.fromhex(sha256), num_bytes=num_bytes)


def _parts(files: Sequence[PublishedFile], spec: RunSpec) -> tuple[PublishedFile, ...]:
    shapes = tensor_shapes(spec)
    parts = sorted((f for f in files if f.name.endswith(".safetensors")), key=lambda f: f.name)
    if not 1 <= len(parts) <= len(shapes):
        raise ObjectError(f"checkpoint manifest: {len(parts)} parts of {len(shapes)} tensors")
    known = [*part_names(len(parts)), CONFIG_FILE, *([INDEX_FILE] if len(parts) > 1 else [])]
    if sorted(f.name for f in files) != sorted(known):
        raise ObjectError("checkpoint manifest: its files are not those of this layout")
    if sum(part.num_bytes for part in parts) > tensors_limit_bytes(shapes, len(parts)):
        raise ObjectError("checkpoint manifest: its parts are longer than the run's model")
    return tuple(parts)


def tensors_limit_bytes(shapes: Mapping[str, Sequence[int]], num_files: int = 1) -> int:
    """Bytes of all tensors in float32, and room for the headers of so many files."""
    numel = sum(math.prod(shape) for shape in shapes.values())
    return FLOAT_BYTES * numel + num_files * ROOM_BYTES


def restore_published(
    manifest: PublishedManifest, parts: Iterable[bytes], spec: RunSpec
) -> OuterState:
    """The state that a manifest and its parts, in their order, describe; ObjectError if they do
    not fit. Parts are taken one by one: only the tensors stay in memory.

    The root is not proven here: a joiner compares the one that it leads to with the one
    that the stake majority votes. It leads there only with the checkpoint digest of the
    run, and that digest is checked: it covers the tensors and all else that is carried.
    """
    params: Params = {}
    for part, data in zip(manifest.parts, parts, strict=True):
        if hashlib.sha256(data).digest() != part.digest:
            raise ObjectError(f"checkpoint: {part.name} has another digest")
        params |= load_tensors(data)
    check_params(params, spec)
    state = restored_state(manifest.carried, params)
    if state_digest(state) != state.checkpoint_digest:
        raise ObjectError("checkpoint: what it carries is not what its checkpoint digest says")
    return state


def checkpoint_limit_bytes(spec: RunSpec) -> int:
    """Bytes of one checkpoint, manifest and all: exact but for the norms that the manifest
    carries, which are counted as if every window had been full.
    """
    shapes = tensor_shapes(spec)
    groups = _split(shapes, spec.checkpoint.part_bytes)
    tensors = sum(_part_bytes({name: shapes[name] for name in group}) for group in groups)
    index = 0
    if len(groups) > 1:
        numel = sum(math.prod(shape) for shape in shapes.values())
        index = len(_index(part_names(len(groups)), groups, numel))
    norms = sum(len(name) + MAX_NUMBER_CHARS for name in shapes)
    members = 1 + spec.outer.clip_windows * spec.outer.peers_per_step
    carried = members * norms + MAX_NUMBER_CHARS * spec.outer.quorum_windows
    files = MAX_ENTRY_CHARS * (len(groups) + 2)
    return tensors + index + len(config_json(spec)) + carried + files + ROOM_CHARS


def theta0_bytes(spec: RunSpec) -> int:
    """Exact length of the file of theta_0."""
    return _part_bytes(tensor_shapes(spec))


def _part_bytes(shapes: Mapping[str, Sequence[int]]) -> int:
    """Exact length of a safetensors file of these float32 tensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(shapes):
        start, end = end, end + FLOAT_BYTES * math.prod(shapes[name])
        header[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [start, end]}
    num_chars = len(json.dumps(header, separators=(",", ":")))
    return 8 + -(-num_chars // 8) * 8 + end
