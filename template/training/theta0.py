"""theta_0 in parts, as checkpoints have them: no file grows with the model, and each value takes
three bytes, since the owner rounds theta_0 to 24 bits.

The run spec names the SHA-256 of the index: the SHA-256s of all parts, 32 bytes each, one after
another. Names, order and lengths of the parts follow from the spec.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from template.errors import ObjectError
from template.protocol.parts import group_tensors, hash_parts, part_bytes_of
from template.protocol.spec import RunSpec
from template.training.checkpoint import check_params, load_part
from template.training.model import Params
from template.training.published import MadeWhenRead, layout_of
from template.training.spread import Intake, Spreader

DIGEST_BYTES = 32

ReadBlob = Callable[[bytes, int], bytes]
"""SHA-256 and length -> the bytes, compared with the SHA-256."""
ReadPart = Callable[[bytes, int], bytes | Path]
"""The same, or a file with the bytes."""


def build_theta0(params: Params, part_bytes: int) -> tuple[bytes, MadeWhenRead]:
    """The digest for the run spec, and the blobs by SHA-256: the index and the parts.

    A part is made when read, from `params`, which must not change. ValueError unless `params` are
    rounded to 24 bits.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in params.items()}
    groups, digests = group_tensors(shapes, part_bytes), hash_parts(params, part_bytes)
    index = b"".join(digests)
    digest = hashlib.sha256(index).digest()
    parts = {
        part: partial(part_bytes_of, params, group)
        for part, group in zip(digests, groups, strict=True)
    }
    return digest, MadeWhenRead({digest: partial(bytes, index), **parts})


def theta0_part_lengths(spec: RunSpec) -> list[int]:
    """Exact length of each part."""
    return [part.num_bytes for part in layout_of(spec)]


def index_length(spec: RunSpec) -> int:
    """Exact length of the index."""
    return DIGEST_BYTES * len(theta0_part_lengths(spec))


def theta0_bytes(spec: RunSpec) -> int:
    """Exact length of theta_0's parts and index together."""
    return index_length(spec) + sum(theta0_part_lengths(spec))


def parse_index(index: bytes, spec: RunSpec) -> list[tuple[bytes, int]]:
    """SHA-256 and length of each part, in order; ObjectError for an index of another model."""
    lengths = theta0_part_lengths(spec)
    if len(index) != DIGEST_BYTES * len(lengths):
        raise ObjectError(
            f"theta_0: refused: an index of {len(index)} bytes for {len(lengths)} parts of the "
            "run's model"
        )
    starts = range(0, len(index), DIGEST_BYTES)
    digests = [index[start : start + DIGEST_BYTES] for start in starts]
    return list(zip(digests, lengths, strict=True))


def load_theta0(
    read: ReadBlob,
    spec: RunSpec,
    read_part: ReadPart | None = None,
    spreader: Spreader | None = None,
) -> Mapping[str, Tensor]:
    """theta_0, read part by part; ObjectError for parts that are not the run's tensors.

    `read_part`: reads the parts, where these are not read as the index.
    """
    index = read(bytes.fromhex(spec.checkpoint.theta0_digest), index_length(spec))
    intake = Intake(spreader)
    for part, (digest, num_bytes) in zip(layout_of(spec), parse_index(index, spec), strict=True):
        intake.add(load_part((read_part or read)(digest, num_bytes), part.shapes))
    params = intake.done()
    check_params(params, spec)
    return params
