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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from template.errors import ObjectError
from template.protocol.parts import (
    FLOAT_BYTES,
    PartSource,
    group_tensors,
    hash_parts,
    part_bytes_of,
    part_length,
)
from template.protocol.spec import RunSpec
from template.protocol.strangers import parse_json, refusing
from template.training.checkpoint import (
    carried_values,
    check_params,
    load_tensors,
    restored_state,
)
from template.training.companions import COMPANIONS, MAX_COMPANIONS_BYTES
from template.training.model import config_json, tensor_shapes
from template.training.norms import NORM_BYTES
from template.training.outer import OuterState, state_digest
from template.training.spread import Intake, Spreader, SpreadTensors

CONFIG_FILE = "config.json"
INDEX_FILE = "model.safetensors.index.json"
ONLY_PART = "model.safetensors"
FORMAT = 5
"""Version of the manifest. After a change, newcomers of the old version find no checkpoint."""
ROOM_BYTES = 2**20
"""Maximum length of a safetensors header."""
MAX_NUMBER_CHARS = 32
"""Maximum length of a number in a manifest, with separators."""
MAX_ENTRY_CHARS = 160
"""Maximum length of a file's entry in a manifest."""
ROOM_CHARS = 1024
"""Allowance for the rest of a manifest."""
SPREAD_THREADS = 2
"""Of hashing tensors that lie with several processes: each thread brings a whole tensor here."""
_WHAT = "checkpoint manifest"
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A checkpoint for a bucket: the manifest, and the files by SHA-256.

    `parts`: of the files with tensors, where an upload reads them.
    """

    manifest: bytes
    blobs: Mapping[bytes, bytes]
    parts: Mapping[bytes, Callable[[], PartSource]] = field(compare=False)


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
    """The checkpoint of a state with the `companion_files`; the same bytes on every node.

    The parts are made when read, from the state's tensors.
    """
    groups = group_tensors(tensor_shapes(spec), spec.checkpoint.part_bytes)
    names = part_names(len(groups))
    small = {CONFIG_FILE: config_json(spec), **(companions or {})}
    if len(groups) > 1:
        small[INDEX_FILE] = _build_index(names, groups, _count(tensor_shapes(spec)))
    digests = {name: hashlib.sha256(data).digest() for name, data in small.items()}
    sizes = {name: len(data) for name, data in small.items()}
    blobs: dict[bytes, Callable[[], bytes]] = {
        digests[name]: partial(bytes, data) for name, data in small.items()
    }
    threads = SPREAD_THREADS if isinstance(state.params, SpreadTensors) else None
    part_digests = hash_parts(state.params, spec.checkpoint.part_bytes, threads)
    parts: dict[bytes, Callable[[], PartSource]] = {}
    for name, group, digest in zip(names, groups, part_digests, strict=True):
        digests[name] = digest
        sizes[name] = part_length({n: tensor_shapes(spec)[n] for n in group})
        blobs[digest] = partial(part_bytes_of, state.params, group)
        parts[digest] = partial(PartSource, state.params, group)
    manifest = {
        "format": FORMAT,
        "run_id": spec.run_id.hex(),
        "files": [
            {"name": name, "sha256": digests[name].hex(), "bytes": sizes[name]}
            for name in sorted(digests)
        ],
        "state": carried_values(state),
    }
    return Published(
        manifest=json.dumps(manifest, sort_keys=True).encode(),
        blobs=MadeWhenRead(blobs),
        parts=parts,
    )


class MadeWhenRead(Mapping[bytes, bytes]):
    """Blobs by SHA-256, made anew at every reading: one of them in memory beside the tensors."""

    def __init__(self, makers: Mapping[bytes, Callable[[], bytes]]) -> None:
        self._makers = dict(makers)

    def with_data(self, blobs: Mapping[bytes, bytes]) -> "MadeWhenRead":
        """These blobs first, which are in memory anyway, and then those of `self`."""
        return MadeWhenRead({d: partial(bytes, data) for d, data in blobs.items()} | self._makers)

    def __getitem__(self, digest: bytes) -> bytes:
        return self._makers[digest]()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def _count(shapes: Mapping[str, Sequence[int]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


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
    return FLOAT_BYTES * _count(shapes) + num_files * ROOM_BYTES


def restore_published(
    manifest: PublishedManifest,
    parts: Iterable[bytes | Path],
    spec: RunSpec,
    *,
    are_verified: bool = False,
    spreader: Spreader | None = None,
) -> OuterState:
    """The state in a manifest and the parts, given in order, as bytes or files; ObjectError for a
    mismatch.

    Parts are read one by one: only the tensors stay in memory. The checkpoint digest is verified
    and covers tensors, norms, the reference stake and alpha's exponent. `are_verified`: the caller
    has compared each part with its SHA-256. The root is not verified here: a newcomer compares root
    and checkpoint digest with the step that the voted root proves.
    """
    intake = Intake(spreader)
    for part, data in zip(manifest.parts, parts, strict=True):
        if not are_verified and _digest_of(data) != part.digest:
            raise ObjectError(
                f"checkpoint: refused: {part.name} has another digest than the manifest says"
            )
        intake.add(load_tensors(data))
    params = intake.done()
    check_params(params, spec)
    state = restored_state(manifest.carried, params).hashed()
    if state_digest(state) != state.checkpoint_digest:
        raise ObjectError("checkpoint: refused: the state differs from its checkpoint digest")
    return state


def _digest_of(data: bytes | Path) -> bytes:
    if isinstance(data, bytes):
        return hashlib.sha256(data).digest()
    with data.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def checkpoint_limit_bytes(spec: RunSpec) -> int:
    """Maximum bytes of a checkpoint with manifest: exact except for the norms in the manifest."""
    shapes = tensor_shapes(spec)
    groups = group_tensors(shapes, spec.checkpoint.part_bytes)
    tensors = sum(part_length({name: shapes[name] for name in group}) for group in groups)
    index = 0
    if len(groups) > 1:
        index = len(_build_index(part_names(len(groups)), groups, _count(shapes)))
    small = len(config_json(spec)) + MAX_COMPANIONS_BYTES
    return tensors + index + small + published_limit_bytes(spec)


@lru_cache(maxsize=4)
def published_limit_bytes(spec: RunSpec) -> int:
    """Maximum bytes of a checkpoint's manifest: the norms as if every window had been full."""
    shapes, num_windows = tensor_shapes(spec), spec.schedule.num_windows
    groups = group_tensors(shapes, spec.checkpoint.part_bytes)
    clip_windows = min(spec.outer.clip_windows, num_windows)
    rows = 1 + clip_windows * spec.outer.peers_per_step
    # Base64 writes three bytes as four characters.
    carried = -(-4 * NORM_BYTES * rows * len(shapes) // 3) + MAX_NUMBER_CHARS * (clip_windows + 1)
    files = MAX_ENTRY_CHARS * (len(groups) + 2 + len(COMPANIONS))
    return carried + files + ROOM_CHARS
