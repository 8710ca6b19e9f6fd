"""State roots and digests: equal on two nodes only if both hold the same model.

R_1 = H(run id, digest of theta_0). R_{w+2} = H(R_{w+1}, w, checkpoint digest or empty, voting stake
of w in rao, pace of w plus 1, then hotkey, coldkey and payload digest of each member of A_w in uid
order): everything that an outer step adds to the state. A vote carries the first 16 bytes of a
root.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from torch import Tensor

from template.protocol.hashing import labelled_hash, uint_bytes
from template.protocol.member import Member as Member
from template.protocol.parts import PART_BYTES, hash_parts, little_endian
from template.protocol.record import SAMPLE_DIGEST_BYTES

SAMPLE_ELEMENTS = 2**20
SPAN_ELEMENTS = 256


def tensors_digest(tensors: Mapping[str, Tensor], part_bytes: int = PART_BYTES) -> bytes:
    """Digest over names, shapes and float32 bytes of all tensors, whatever their order; 32 bytes.

    A tree of two levels: the leaves are the SHA-256s of the files that hold the tensors, up to
    `part_bytes` each (`template.protocol.parts`).
    """
    return parts_digest(hash_parts(tensors, part_bytes))


def parts_digest(digests: Iterable[bytes]) -> bytes:
    """The digest of the tensors in parts with these SHA-256s."""
    return labelled_hash("tessera/tensors", *digests)


def first_root(run_id: bytes, theta0_digest: bytes) -> bytes:
    return labelled_hash("tessera/root/first", run_id, theta0_digest)


def next_root(
    root: bytes,
    window: int,
    members: Iterable[Member],
    checkpoint: bytes,
    voting_stake_rao: int,
    pace: int,
) -> bytes:
    """R_{w+2} from R_{w+1}.

    `checkpoint`: the checkpoint digest of theta_{w+1}, or empty. `voting_stake_rao`: total stake
    of all votes on w, since the reference stake is part of the state. `pace`: -1, 0 or 1, the move
    of alpha's exponent, which is part of the state too.
    """
    # Members in uid order, the order of the outer step: one set has one root.
    ordered = sorted(members, key=lambda member: member.uid)
    parts = [part for m in ordered for part in (m.public_key, m.coldkey, m.digest)]
    numbers = (
        uint_bytes(window), checkpoint, uint_bytes(voting_stake_rao), uint_bytes(pace + 1),
    )  # fmt: skip
    return labelled_hash("tessera/root/next", root, *numbers, *parts)


def sample_digest(tensors: Mapping[str, Tensor], block_hash: bytes) -> bytes:
    """8-byte digest of 2^20 elements drawn by a block hash, or of all elements of a small model.

    Elements are drawn as 4096 spans of 256 (with repeats) from all tensors laid end to end
    in name order. Before the block, a node cannot know which elements will be compared.
    """
    flats = [tensors[name].detach().reshape(-1) for name in sorted(tensors)]
    ends = list(accumulate(flat.numel() for flat in flats))
    digest = hashlib.sha256(block_hash)
    if not ends or ends[-1] <= SAMPLE_ELEMENTS:
        for flat in flats:
            digest.update(little_endian(flat))
        return digest.digest()[:SAMPLE_DIGEST_BYTES]
    for start in _span_starts(block_hash, ends[-1] - SPAN_ELEMENTS + 1):
        digest.update(_read_span(flats, ends, start))
    return digest.digest()[:SAMPLE_DIGEST_BYTES]


def _span_starts(block_hash: bytes, limit: int) -> list[int]:
    starts = []
    for counter in range(SAMPLE_ELEMENTS // SPAN_ELEMENTS // 4):
        word = labelled_hash("tessera/sample", block_hash, uint_bytes(counter))
        # A 32-byte hash gives four 64-bit draws; the modulo bias is below limit / 2^64.
        starts += [int.from_bytes(word[i : i + 8], "little") % limit for i in range(0, 32, 8)]
    return sorted(starts)


def _read_span(flats: Sequence[Tensor], ends: Sequence[int], start: int) -> bytes:
    """`flats` laid end to end, `ends` the positions where they end: one span from `start`."""
    index = bisect_right(ends, start)
    start -= ends[index] - flats[index].numel()
    parts, missing = [], SPAN_ELEMENTS
    # A span may run over the ends of several small tensors.
    while missing:
        part = flats[index][start : start + missing]
        parts.append(little_endian(part))
        missing -= part.numel()
        index, start = index + 1, 0
    return b"".join(parts)
