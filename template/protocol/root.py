"""State roots and digests: equal on two nodes only if both hold the same model.

R_1 = H(run id, digest of theta_0). R_{w+2} = H(R_{w+1}, w, checkpoint digest or empty, voting stake
of w in rao, pace of w plus 1, then hotkey, coldkey and payload digest of each member of A_w in uid
order): everything that an outer step adds to the state. Where the ballot on w adopts a spec, the
root is the hash of that root and the spec's id. A vote carries the first 16 bytes of a root.
"""

import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from torch import Tensor

from compression.bands import band_cuts
from template.protocol.hashing import labelled_hash, uint_bytes
from template.protocol.member import Member as Member
from template.protocol.parts import FLOAT_BYTES, little_endian
from template.protocol.record import SAMPLE_DIGEST_BYTES
from template.protocol.tree import tensors_digest as tensors_digest

SAMPLE_ELEMENTS = 2**20
SPAN_ELEMENTS = 256


def first_root(run_id: bytes, theta0_digest: bytes) -> bytes:
    return labelled_hash("tessera/root/first", run_id, theta0_digest)


def next_root(  # noqa: PLR0913, PLR0917  all that a step adds to the state
    root: bytes,
    window: int,
    members: Iterable[Member],
    checkpoint: bytes,
    voting_stake_rao: int,
    pace: int,
    adopted: bytes = b"",
) -> bytes:
    """R_{w+2} from R_{w+1}.

    `checkpoint`: the checkpoint digest of theta_{w+1}, or empty. `voting_stake_rao`: total stake
    of all votes on w, since the reference stake is part of the state. `pace`: -1, 0 or 1, the move
    of alpha's exponent, which is part of the state too. `adopted`: id of the spec that the ballot
    on w adopts, or empty: nodes under different specs have different roots.
    """
    # Members in uid order, the order of the outer step: one set has one root.
    ordered = sorted(members, key=lambda member: member.uid)
    parts = [part for m in ordered for part in (m.public_key, m.coldkey, m.digest)]
    numbers = (
        uint_bytes(window), checkpoint, uint_bytes(voting_stake_rao), uint_bytes(pace + 1),
    )  # fmt: skip
    step = labelled_hash("tessera/root/next", root, *numbers, *parts)
    return labelled_hash("tessera/root/adopted", step, adopted) if adopted else step


def sample_digest(tensors: Mapping[str, Tensor], block_hash: bytes) -> bytes:
    """8-byte digest of 2^20 elements drawn by a block hash, or of all elements of a small model.

    Elements are drawn as 4096 spans of 256 (with repeats) from all tensors laid end to end
    in name order. Before the block, a node cannot know which elements will be compared.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    pieces = sample_pieces(shapes, block_hash)
    return digest_of_sample(block_hash, pieces, [read_pieces(tensors, pieces)])


class SamplePiece(NamedTuple):
    """Elements `start` to `stop` (exclusive) of a rank's band of a tensor, laid flat."""

    rank: int
    name: str
    start: int
    stop: int


def sample_pieces(
    shapes: Mapping[str, Sequence[int]], block_hash: bytes, ranks: int = 1
) -> list[SamplePiece]:
    """The elements of `sample_digest` in order, as pieces of the bands of a model's ranks."""
    names = sorted(shapes)
    ends = list(accumulate(math.prod(shapes[name]) for name in names))
    total = ends[-1] if ends else 0
    spans = [(0, total)]
    if total > SAMPLE_ELEMENTS:
        starts = _span_starts(block_hash, total - SPAN_ELEMENTS + 1)
        spans = [(start, start + SPAN_ELEMENTS) for start in starts]
    cuts = {name: _flat_cuts(shapes[name], ranks) for name in names}
    return [
        piece
        for start, stop in spans
        for name, first, last in _within_tensors(names, ends, start, stop)
        for piece in _within_bands(name, cuts[name], first, last)
    ]


def read_pieces(bands: Mapping[str, Tensor], pieces: Iterable[SamplePiece], rank: int = 0) -> bytes:
    """The values of a rank's pieces, in order. ValueError unless float32."""
    flats = {name: tensor.detach().reshape(-1) for name, tensor in bands.items()}
    return b"".join(
        little_endian(flats[name][start:stop], name)
        for owner, name, start, stop in pieces
        if owner == rank
    )


def digest_of_sample(
    block_hash: bytes, pieces: Iterable[SamplePiece], parts: Sequence[bytes]
) -> bytes:
    """The `sample_digest`, from what every rank read of its pieces.

    ValueError if a part has not the length of its rank's pieces.
    """
    digest, used = hashlib.sha256(block_hash), [0] * len(parts)
    for rank, _name, start, stop in pieces:
        end = used[rank] + FLOAT_BYTES * (stop - start)
        digest.update(parts[rank][used[rank] : end])
        used[rank] = end
    for rank, (part, expected) in enumerate(zip(parts, used, strict=True)):
        if len(part) != expected:
            raise ValueError(f"rank {rank}: {len(part)} bytes of a sample, not {expected}")
    return digest.digest()[:SAMPLE_DIGEST_BYTES]


def _span_starts(block_hash: bytes, limit: int) -> list[int]:
    starts = []
    for counter in range(SAMPLE_ELEMENTS // SPAN_ELEMENTS // 4):
        word = labelled_hash("tessera/sample", block_hash, uint_bytes(counter))
        # A 32-byte hash gives four 64-bit draws; the modulo bias is below limit / 2^64.
        starts += [int.from_bytes(word[i : i + 8], "little") % limit for i in range(0, 32, 8)]
    return sorted(starts)


def _flat_cuts(shape: Sequence[int], ranks: int) -> list[int]:
    """The ranks' limits among a tensor's elements."""
    return [row * math.prod(shape[1:]) for row in band_cuts(shape, ranks)]


def _within_tensors(
    names: Sequence[str], ends: Sequence[int], start: int, stop: int
) -> Iterator[tuple[str, int, int]]:
    """A span of the tensors laid end to end, which end at `ends`: its elements of each tensor.

    A span may run over the ends of several small tensors.
    """
    index = bisect_right(ends, start)
    while start < stop:
        first = ends[index - 1] if index else 0
        end = min(stop, ends[index])
        if start < end:
            yield names[index], start - first, end - first
        index, start = index + 1, end


def _within_bands(name: str, cuts: Sequence[int], start: int, stop: int) -> Iterator[SamplePiece]:
    """Elements of a tensor, as elements of the bands between `cuts`."""
    rank = bisect_right(cuts, start) - 1
    while start < stop:
        end = min(stop, cuts[rank + 1])
        if start < end:
            yield SamplePiece(rank, name, start - cuts[rank], end - cuts[rank])
        rank, start = rank + 1, end
