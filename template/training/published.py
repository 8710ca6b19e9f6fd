"""The published checkpoint: anyone can load the model, and a newcomer can verify the state.

A JSON manifest and files by SHA-256 in Hugging Face's layout: `config.json`, and the tensors in
one `model.safetensors` or in parts `model-0000i-of-0000N.safetensors` beside
`model.safetensors.index.json`; companions (the tokenizer's files, the settings of generation) may
be added. In a common folder the files load with `from_pretrained` of `AutoModelForCausalLM` and of
`AutoTokenizer`. The bytes follow from state, spec and dataset alone, so all nodes publish the same
parts. Owns the layout; fetching and storing happen elsewhere.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from template.errors import ObjectError
from template.protocol.spec import RunSpec
from template.protocol.strangers import parse_json, refusing
from template.training.checkpoint import (
    carried_values,
    check_params,
    load_tensors,
    params_bytes,
    restored_state,
)
from template.training.companions import COMPANIONS, MAX_COMPANIONS_BYTES
from template.training.model import Params, config_json, tensor_shapes
from template.training.outer import OuterState, state_digest

CONFIG_FILE = "config.json"
INDEX_FILE = "model.safetensors.index.json"
ONLY_PART = "model.safetensors"
FORMAT = 3
"""Version of the manifest. After a change, newcomers of the old version find no checkpoint."""
ROOM_BYTES = 2**20
"""Maximum length of a safetensors header."""
FLOAT_BYTES = 4
MAX_NUMBER_CHARS = 32
"""Maximum length of a number in a manifest, with separators."""
MAX_ENTRY_CHARS = 160
"""Maximum length of a file's entry in a manifest."""
ROOM_CHARS = 1024
"""Allowance for the rest of a manifest."""
_WHAT = "checkpoint manifest"
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A checkpoint for a bucket: the manifest, and the files by SHA-256."""

    manifest: bytes
    blobs: Mapping[bytes, bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedFile:
    """A file of a checkpoint, as listed in a manifest."""

    name: str
    digest: bytes
    num_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedManifest:
    """A parsed manifest. `parts`: the files with tensors, in ascending order of part numbers."""

    files: tuple[PublishedFile, ...]
    parts: tuple[PublishedFile, ...]
    carried: Mapping[str, Any]


def build_checkpoint(
    state: OuterState, spec: RunSpec, companions: Mapping[str, bytes] | None = None
) -> Published:
    """The checkpoint of a state with the `companion_files`; the same bytes on every node."""
    small = {CONFIG_FILE: config_json(spec), **(companions or {})}
    files = {**small, **_build_tensor_files(state.params, spec)}
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


def _build_tensor_files(params: Params, spec: RunSpec) -> dict[str, bytes]:
    groups = _group_tensors(tensor_shapes(spec), spec.checkpoint.part_bytes)
    names = part_names(len(groups))
    files = {
        file: params_bytes({name: params[name] for name in group})
        for file, group in zip(names, groups, strict=True)
    }
    if len(groups) > 1:
        files[INDEX_FILE] = _build_index(names, groups, sum(t.numel() for t in params.values()))
    return files


def _group_tensors(shapes: Mapping[str, Sequence[int]], part_bytes: int) -> list[list[str]]:
    """Tensor names by part, in name order, up to `part_bytes` each; a larger tensor is a part."""
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
    """File names of `count` parts."""
    if count == 1:
        return [ONLY_PART]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _build_index(files: Sequence[str], groups: Sequence[Sequence[str]], numel: int) -> bytes:
    placed = {name: file for file, group in zip(files, groups, strict=True) for name in group}
    index = {"metadata": {"total_size": FLOAT_BYTES * numel}, "weight_map": placed}
    return json.dumps(index, sort_keys=True, indent=2).encode()


def parse_published(data: bytes, spec: RunSpec) -> PublishedManifest:
    """The manifest of a checkpoint of this run; ObjectError for a stranger's faulty bytes.

    File names must be exactly the names of this layout, and all parts together at most as long as
    the run's model: so the amount of data for a newcomer to read is bounded beforehand.
    """
    manifest = parse_json(data, _WHAT, max_bytes=published_limit_bytes(spec))
    with refusing(_WHAT):
        if manifest["format"] != FORMAT or manifest["run_id"] != spec.run_id.hex():
            raise ObjectError("checkpoint manifest: refused: of another run or format")
        files = tuple(_parse_file(entry) for entry in manifest["files"])
        carried = manifest["state"]
    if not isinstance(carried, dict):
        raise ObjectError("checkpoint manifest: refused: the state is not a JSON object")
    return PublishedManifest(files=files, parts=_select_parts(files, spec), carried=carried)


def named_digests(data: bytes) -> frozenset[bytes]:
    """SHA-256 of all files in an own manifest of any run and format; ObjectError if malformed."""
    manifest = parse_json(data, _WHAT)
    with refusing(_WHAT):
        return frozenset(bytes.fromhex(entry["sha256"]) for entry in manifest["files"])


def _parse_file(entry: Mapping[str, Any]) -> PublishedFile:
    name, sha256, num_bytes = entry["name"], entry["sha256"], entry["bytes"]
    if not isinstance(name, str) or not isinstance(sha256, str) or type(num_bytes) is not int:
        raise ObjectError(
            "checkpoint manifest: refused: a file needs a name, a SHA-256 and a length"
        )
    if not _HEX_DIGEST.fullmatch(sha256) or num_bytes <= 0:
        raise ObjectError("checkpoint manifest: refused: a file has a malformed SHA-256 or length")
    return PublishedFile(name=name, digest=bytes.fromhex(sha256), num_bytes=num_bytes)


def _select_parts(files: Sequence[PublishedFile], spec: RunSpec) -> tuple[PublishedFile, ...]:
    shapes = tensor_shapes(spec)
    parts = sorted((f for f in files if f.name.endswith(".safetensors")), key=lambda f: f.name)
    if not 1 <= len(parts) <= len(shapes):
        raise ObjectError(
            f"checkpoint manifest: refused: {len(parts)} parts for {len(shapes)} tensors"
        )
    known = [*part_names(len(parts)), CONFIG_FILE, *([INDEX_FILE] if len(parts) > 1 else [])]
    names = sorted(f.name for f in files)
    if names != sorted([*known, *COMPANIONS.intersection(names)]):
        raise ObjectError("checkpoint manifest: refused: the files do not fit this layout")
    if sum(part.num_bytes for part in parts) > tensors_limit_bytes(shapes, len(parts)):
        raise ObjectError("checkpoint manifest: refused: the parts are longer than the run's model")
    return tuple(parts)


def tensors_limit_bytes(shapes: Mapping[str, Sequence[int]], num_files: int = 1) -> int:
    """Maximum bytes of all tensors as float32 in `num_files` files, headers included."""
    numel = sum(math.prod(shape) for shape in shapes.values())
    return FLOAT_BYTES * numel + num_files * ROOM_BYTES


def restore_published(
    manifest: PublishedManifest, parts: Iterable[bytes], spec: RunSpec
) -> OuterState:
    """The state in a manifest and the parts, given in order; ObjectError for a mismatch.

    Parts are read one by one: only the tensors stay in memory. The checkpoint digest is verified
    and covers tensors, norms, the reference stake and alpha's exponent. The root is not verified
    here: a newcomer compares root and checkpoint digest with the step that the voted root proves.
    """
    params: Params = {}
    for part, data in zip(manifest.parts, parts, strict=True):
        if hashlib.sha256(data).digest() != part.digest:
            raise ObjectError(
                f"checkpoint: refused: {part.name} has another digest than the manifest says"
            )
        params |= load_tensors(data)
    check_params(params, spec)
    state = restored_state(manifest.carried, params)
    if state_digest(state) != state.checkpoint_digest:
        raise ObjectError("checkpoint: refused: the state differs from its checkpoint digest")
    return state


def checkpoint_limit_bytes(spec: RunSpec) -> int:
    """Maximum bytes of a checkpoint with manifest: exact except for the norms in the manifest."""
    shapes = tensor_shapes(spec)
    groups = _group_tensors(shapes, spec.checkpoint.part_bytes)
    tensors = sum(_count_part_bytes({name: shapes[name] for name in group}) for group in groups)
    index = 0
    if len(groups) > 1:
        numel = sum(math.prod(shape) for shape in shapes.values())
        index = len(_build_index(part_names(len(groups)), groups, numel))
    small = len(config_json(spec)) + MAX_COMPANIONS_BYTES
    return tensors + index + small + published_limit_bytes(spec)


@lru_cache(maxsize=4)
def published_limit_bytes(spec: RunSpec) -> int:
    """Maximum bytes of a checkpoint's manifest: the norms as if every window had been full."""
    shapes, num_windows = tensor_shapes(spec), spec.schedule.num_windows
    groups = _group_tensors(shapes, spec.checkpoint.part_bytes)
    norms = MAX_NUMBER_CHARS + sum(len(name) + MAX_NUMBER_CHARS for name in shapes)
    clip_windows = min(spec.outer.clip_windows, num_windows)
    members = 1 + clip_windows * spec.outer.peers_per_step
    carried = members * norms + MAX_NUMBER_CHARS * (clip_windows + 1)
    files = MAX_ENTRY_CHARS * (len(groups) + 2 + len(COMPANIONS))
    return carried + files + ROOM_CHARS


def theta0_bytes(spec: RunSpec) -> int:
    """Exact length of theta_0's file."""
    return _count_part_bytes(tensor_shapes(spec))


def _count_part_bytes(shapes: Mapping[str, Sequence[int]]) -> int:
    """Exact length of a safetensors file of float32 tensors with `shapes`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(shapes):
        start, end = end, end + FLOAT_BYTES * math.prod(shapes[name])
        header[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [start, end]}
    num_chars = len(json.dumps(header, separators=(",", ":")))
    # safetensors pads the header with spaces to a multiple of 8, after 8 bytes of length.
    return 8 + -(-num_chars // 8) * 8 + end
