"""The published checkpoint: a newcomer restores the state exactly and verifies it.

A JSON manifest and files by SHA-256: the tensors in one `theta.safetensors` or in parts
`theta-0000i-of-0000N.safetensors` with three bytes a value (`template.protocol.parts`), which hold
theta exactly, since theta is rounded in every window with a checkpoint. Beside them `config.json`
and companions (the tokenizer's files, the settings of generation): `tessera model latest` makes a
folder of all that other programs load (`template.training.model_folder`). The bytes follow from
state, spec and dataset alone, so all nodes publish the same parts. Owns the layout; fetching and
storing happen elsewhere.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from template.errors import ObjectError
from template.protocol.parts import (
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
    load_part,
    restored_state,
)
from template.training.companions import COMPANIONS, MAX_COMPANIONS_BYTES
from template.training.model import config_json, tensor_shapes
from template.training.norms import NORM_BYTES
from template.training.outer import OuterState, state_digest
from template.training.spread import Intake, Spreader, SpreadTensors

CONFIG_FILE = "config.json"
PART_STEM = "theta"
"""Loaders of models look for `model`: these files have three bytes a value, and are for nodes."""
FORMAT = 6
"""Version of the manifest. After a change, newcomers of the old version find no checkpoint."""
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
    """A parsed manifest. `parts`: the files with tensors, in the order of the run's `layout_of`."""

    files: tuple[PublishedFile, ...]
    parts: tuple[PublishedFile, ...]
    carried: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A part of every checkpoint of a run. `shapes`: of its tensors, by name."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    num_bytes: int


@lru_cache(maxsize=8)
def layout_of(spec: RunSpec) -> tuple[Part, ...]:
    """The parts of a run's checkpoints and of its theta_0: all that is known before any byte."""
    shapes = tensor_shapes(spec)
    groups = group_tensors(shapes, spec.checkpoint.part_bytes)
    parts = []
    for name, group in zip(part_names(len(groups)), groups, strict=True):
        own = {n: shapes[n] for n in group}
        parts.append(Part(name=name, shapes=own, num_bytes=part_length(own)))
    return tuple(parts)


def build_checkpoint(
    state: OuterState, spec: RunSpec, companions: Mapping[str, bytes] | None = None
) -> Published:
    """The checkpoint of a state with the `companion_files`; the same bytes on every node.

    The parts are made when read, from the state's tensors. ValueError unless theta is rounded to 24
    bits, as in every window with a checkpoint.
    """
    small = {CONFIG_FILE: config_json(spec), **(companions or {})}
    digests = {name: hashlib.sha256(data).digest() for name, data in small.items()}
    sizes = {name: len(data) for name, data in small.items()}
    blobs: dict[bytes, Callable[[], bytes]] = {
        digests[name]: partial(bytes, data) for name, data in small.items()
    }
    threads = SPREAD_THREADS if isinstance(state.params, SpreadTensors) else None
    part_digests = hash_parts(state.params, spec.checkpoint.part_bytes, threads)
    parts: dict[bytes, Callable[[], PartSource]] = {}
    for part, digest in zip(layout_of(spec), part_digests, strict=True):
        digests[part.name] = digest
        sizes[part.name] = part.num_bytes
        blobs[digest] = partial(part_bytes_of, state.params, list(part.shapes))
        parts[digest] = partial(PartSource, state.params, list(part.shapes))
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


def part_names(count: int, stem: str = PART_STEM) -> list[str]:
    """File names of `count` parts."""
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def parse_published(data: bytes, spec: RunSpec) -> PublishedManifest:
    """The manifest of a checkpoint of this run; ObjectError for a stranger's faulty bytes.

    Names and lengths of parts must be those of the run's layout: a newcomer knows how much it reads
    before the first byte.
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
    layout, names = layout_of(spec), sorted(file.name for file in files)
    known = [CONFIG_FILE, *(part.name for part in layout)]
    if names != sorted([*known, *COMPANIONS.intersection(names)]):
        raise ObjectError("checkpoint manifest: refused: the files do not fit this layout")
    by_name = {file.name: file for file in files}
    parts = tuple(by_name[part.name] for part in layout)
    if any(file.num_bytes != part.num_bytes for file, part in zip(parts, layout, strict=True)):
        raise ObjectError("checkpoint manifest: refused: a part has another length than the run's")
    return parts


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
    for known, part, data in zip(layout_of(spec), manifest.parts, parts, strict=True):
        if not are_verified and _digest_of(data) != part.digest:
            raise ObjectError(
                f"checkpoint: refused: {part.name} has another digest than the manifest says"
            )
        intake.add(load_part(data, known.shapes))
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
    tensors = sum(part.num_bytes for part in layout_of(spec))
    return tensors + len(config_json(spec)) + MAX_COMPANIONS_BYTES + published_limit_bytes(spec)


@lru_cache(maxsize=4)
def published_limit_bytes(spec: RunSpec) -> int:
    """Maximum bytes of a checkpoint's manifest: the norms as if every window had been full."""
    shapes, num_windows = tensor_shapes(spec), spec.schedule.num_windows
    clip_windows = min(spec.outer.clip_windows, num_windows)
    rows = 1 + clip_windows * spec.outer.peers_per_step
    # Base64 writes three bytes as four characters.
    carried = -(-4 * NORM_BYTES * rows * len(shapes) // 3) + MAX_NUMBER_CHARS * (clip_windows + 1)
    files = MAX_ENTRY_CHARS * (len(layout_of(spec)) + 1 + len(COMPANIONS))
    return carried + files + ROOM_CHARS
