"""The digest of theta: a tree of hashes over fixed blocks, the same however the blocks are held.

    leaf     SHA-256 of the little-endian float32 values of 64 rows (a vector: of 2^18 values)
    tensor   labelled hash of name, shape and all leaves, in order
    theta    labelled hash of the tensors' digests, in the order of their names

Threads hash the leaves side by side. Of a model in bands (`compression.bands`) each rank hashes its
own rows and hands 32 bytes a leaf on: no tensor moves. contrib/FORMAT.md has the bytes.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from compression.chunking import BLOCK_SIDE
from compression.workers import for_each
from template.protocol.hashing import labelled_hash, uint_bytes
from template.protocol.parts import FLOAT_BYTES, little_endian

LEAF_ROWS = BLOCK_SIDE
"""Rows of a leaf: bands are cut between leaves."""
LEAF_ELEMENTS = 2**18
"""Values of a leaf of a vector."""
DIGEST_BYTES = 32
BATCH_BYTES = 2**26
"""Bytes of tensors hashed at a time: a copy from a GPU, or a tensor made when read, takes room."""

Leaves = Mapping[str, bytes]
"""Tensor name -> its leaves' SHA-256s, one after another."""


def tensors_digest(tensors: Mapping[str, Tensor], num_threads: int | None = None) -> bytes:
    """Digest over names, shapes and float32 bytes of all tensors, whatever their order; 32 bytes.

    ValueError unless float32.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return digest_of_leaves(shapes, hash_leaves(tensors, num_threads))


def hash_leaves(tensors: Mapping[str, Tensor], num_threads: int | None = None) -> dict[str, bytes]:
    """The leaves of tensors, or of a rank's bands of them. ValueError unless float32."""
    found: dict[str, bytes] = {}
    for batch in _batches(tensors):
        blocks = [block for _, blocks in batch for block in blocks]
        digests = iter(for_each(_sha256, blocks, num_threads))
        for name, own in batch:
            found[name] = b"".join(next(digests) for _ in own)
    return found


def join_leaves(bands: Sequence[Leaves]) -> dict[str, bytes]:
    """The leaves of a model from those of every rank's bands, in the order of the ranks."""
    return {name: b"".join(leaves[name] for leaves in bands) for name in bands[0]}


def digest_of_leaves(shapes: Mapping[str, Sequence[int]], leaves: Leaves) -> bytes:
    """The digest of tensors with these shapes and leaves; 32 bytes.

    ValueError if a tensor has more or fewer leaves than its shape says.
    """
    return labelled_hash(
        "tessera/theta", *(_tensor_digest(n, shapes[n], leaves[n]) for n in sorted(shapes))
    )


def _tensor_digest(name: str, shape: Sequence[int], leaves: bytes) -> bytes:
    count = -(-FLOAT_BYTES * math.prod(shape) // _leaf_bytes(shape))
    if len(leaves) != DIGEST_BYTES * count:
        raise ValueError(f"{name}: {len(leaves)} bytes of leaves for {count} leaves")
    sides = b"".join(uint_bytes(side) for side in shape)
    return labelled_hash("tessera/tensor", name.encode(), sides, leaves)


def _leaf_bytes(shape: Sequence[int]) -> int:
    """Bytes of a whole leaf; at least 1, for a tensor of no elements."""
    elements = LEAF_ROWS * math.prod(shape[1:]) if len(shape) > 1 else LEAF_ELEMENTS
    return max(1, FLOAT_BYTES * elements)


def _batches(tensors: Mapping[str, Tensor]) -> Iterator[list[tuple[str, list[memoryview]]]]:
    """Names with the bytes of their leaves, `BATCH_BYTES` at a time, or a larger tensor."""
    batch: list[tuple[str, list[memoryview]]] = []
    num_bytes = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        values, step = little_endian(tensor, name), _leaf_bytes(tensor.shape)
        batch.append((name, [values[at : at + step] for at in range(0, values.nbytes, step)]))
        num_bytes += values.nbytes
        if num_bytes >= BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    yield batch


def _sha256(data: memoryview) -> bytes:
    return hashlib.sha256(data).digest()
