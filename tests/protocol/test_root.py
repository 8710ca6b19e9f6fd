"""State roots and digests: golden values, and what must and must not change them.

`REWRITE_GOLDEN=1 pytest tests/protocol/test_root.py` writes golden.json anew: do so only
together with a change of the protocol, since nodes that differ here cannot agree.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compression import decode_tensor, tensor_layout
from template.protocol.hashing import labelled_hash, uint_bytes
from template.protocol.root import (
    SAMPLE_ELEMENTS,
    SPAN_ELEMENTS,
    Member,
    digest_of_sample,
    first_root,
    next_root,
    read_pieces,
    sample_digest,
    sample_pieces,
    tensors_digest,
)
from tests.support.band_encoding import bands_of

GOLDEN = Path(__file__).with_name("golden.json")
Digest = Callable[[Mapping[str, Tensor]], bytes]

BLOCK_HASH = bytes(range(32))
SECTION = bytes.fromhex("3809f002f0a030")
"""2 of 136 elements of an 8 x 17 tensor: indices 0 and 111, values 1 and -25/16."""


def member(uid: int) -> Member:
    seed = hashlib.sha256(bytes([uid])).digest()
    return Member(
        uid=uid, hotkey=f"h{uid}", public_key=seed, coldkey=seed[1:] + seed[:1], digest=seed[::-1]
    )


def small_tensors() -> dict[str, Tensor]:
    return {"b": torch.arange(12.0).view(3, 4) / 7, "a": torch.tensor([-0.0, 1e-40, 3.5])}


def leafy_tensors() -> dict[str, Tensor]:
    """Several leaves of each kind, the last of them shorter."""
    return {
        "rows": torch.arange(130.0 * 3).view(130, 3),
        "experts": torch.arange(65.0 * 2 * 2).view(65, 2, 2),
        "vector": torch.arange(2.0**18 + 1),
        "scalar": torch.tensor(0.5),
        "none": torch.empty(0, 4),
    }


def large_tensors() -> dict[str, Tensor]:
    """A little more than is sampled. Spans cross from tensor to tensor, some of them short."""
    values = torch.arange(SAMPLE_ELEMENTS + 3000, dtype=torch.float32)
    sizes = [*[1, 99, 100, 1500] * 100, 500_000]
    parts = values.split([*sizes, values.numel() - sum(sizes)])
    return {f"{i:03d}": part.clone() for i, part in enumerate(parts)}


def computed() -> dict[str, str]:
    root = first_root(bytes(16), bytes(32))
    decoded = decode_tensor(SECTION, tensor_layout((8, 17), 64))
    return {
        "first_root": root.hex(),
        "next_root": next_root(root, 3, [member(2), member(1)], b"", 7, 0).hex(),
        "next_root_of_nobody": next_root(root, 3, [], b"", 7, 0).hex(),
        "next_root_with_checkpoint": next_root(root, 3, [member(1)], b"c" * 32, 7, 0).hex(),
        "tensors_digest": tensors_digest(small_tensors()).hex(),
        "tensors_digest_of_leaves": tensors_digest(leafy_tensors()).hex(),
        "sample_of_all": sample_digest(small_tensors(), BLOCK_HASH).hex(),
        "sample_of_spans": sample_digest(large_tensors(), BLOCK_HASH).hex(),
        "decoded_indices": str(decoded.indices.tolist()),
        "decoded_values": str(decoded.values.tolist()),
        "decoded_norm": decoded.norm.hex(),
    }


def test_golden_values() -> None:
    if os.environ.get("REWRITE_GOLDEN") == "1":
        GOLDEN.write_text(json.dumps(computed(), indent=2) + "\n", encoding="ascii")
    assert computed() == json.loads(GOLDEN.read_text(encoding="ascii"))


def test_roots_are_the_labelled_hashes_of_the_definition() -> None:
    first = labelled_hash("tessera/root/first", b"run", b"theta")
    assert first_root(b"run", b"theta") == first
    one, two = member(1), member(2)
    parts = [part for m in (one, two) for part in (m.public_key, m.coldkey, m.digest)]
    expected = labelled_hash(
        "tessera/root/next", first, uint_bytes(8), b"check", uint_bytes(5), uint_bytes(2), *parts
    )
    assert next_root(first, 8, [two, one], b"check", 5, 1) == expected


def test_order_of_members_does_not_matter() -> None:
    members = [member(uid) for uid in (4, 9, 1)]
    roots = {next_root(b"r", 1, order, b"", 7, 0) for order in permutations(members)}
    assert len(roots) == 1


def test_every_part_of_a_step_changes_the_root() -> None:
    one, two = member(1), member(2)
    roots = [
        next_root(b"r", 1, [one, two], b"", 7, 0),
        next_root(b"s", 1, [one, two], b"", 7, 0),
        next_root(b"r", 2, [one, two], b"", 7, 0),
        next_root(b"r", 1, [one, two], b"", 8, 0),
        next_root(b"r", 1, [one, two], b"", 7, 1),
        next_root(b"r", 1, [one, two], b"", 7, -1),
        next_root(b"r", 1, [one], b"", 7, 0),
        next_root(b"r", 1, [], b"", 7, 0),
        next_root(b"r", 1, [one, two], b"c", 7, 0),
        next_root(b"r", 1, [replace(one, digest=two.digest), two], b"", 7, 0),
        next_root(b"r", 1, [replace(one, public_key=two.public_key), two], b"", 7, 0),
        next_root(b"r", 1, [replace(one, coldkey=two.coldkey), two], b"", 7, 0),
        next_root(b"r", 1, [replace(one, uid=3), two], b"", 7, 0),
    ]
    assert len(set(roots)) == len(roots)
    assert first_root(b"a", b"b") != first_root(b"ab", b"")


def flip(tensor: Tensor, position: int) -> None:
    """The lowest bit of one element."""
    tensor.view(-1).view(torch.int32)[position] ^= 1


@pytest.mark.parametrize("digest", [tensors_digest, lambda t: sample_digest(t, BLOCK_HASH)])
def test_every_bit_of_small_tensors_counts_and_order_does_not(digest: Digest) -> None:
    original = digest(small_tensors())
    assert digest(dict(reversed(small_tensors().items()))) == original
    for name, tensor in small_tensors().items():
        for position in range(tensor.numel()):
            changed = small_tensors()
            flip(changed[name], position)
            assert digest(changed) != original


def test_names_and_shapes_enter_the_tensors_digest() -> None:
    tensors = small_tensors()
    digests = {
        tensors_digest(tensors),
        tensors_digest(tensors | {"b": tensors["b"].view(4, 3)}),
        tensors_digest({"c": tensors["b"], "a": tensors["a"]}),
        tensors_digest({"a": tensors["a"]}),
    }
    assert len(digests) == 4


def test_views_have_the_digest_of_their_values() -> None:
    matrix = torch.arange(12.0).view(3, 4)
    one, other = {"m": matrix.T}, {"m": matrix.T.contiguous()}
    assert tensors_digest(one) == tensors_digest(other)
    assert sample_digest(one, BLOCK_HASH) == sample_digest(other, BLOCK_HASH)


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"m is torch\.float64"):
        tensors_digest({"m": torch.zeros(3, dtype=torch.float64)})


def drawn_starts(total: int) -> list[int]:
    """The definition: four 8-byte words of each labelled hash, over the allowed starts."""
    starts = []
    for counter in range(1024):
        word = labelled_hash("tessera/sample", BLOCK_HASH, uint_bytes(counter))
        starts += [int.from_bytes(word[8 * i : 8 * i + 8], "little") for i in range(4)]
    return sorted(start % (total - SPAN_ELEMENTS + 1) for start in starts)


def test_a_sample_is_the_drawn_spans() -> None:
    tensors = large_tensors()
    flat = torch.cat([tensors[name] for name in sorted(tensors)])
    spans = [flat[s : s + SPAN_ELEMENTS].numpy().tobytes() for s in drawn_starts(flat.numel())]
    assert len(spans) * SPAN_ELEMENTS == SAMPLE_ELEMENTS
    expected = hashlib.sha256(BLOCK_HASH + b"".join(spans)).digest()[:8]
    assert sample_digest(tensors, BLOCK_HASH) == expected
    assert sample_digest(dict(reversed(tensors.items())), BLOCK_HASH) == expected


def test_a_sample_sees_a_flipped_bit_where_it_looks_and_only_there() -> None:
    tensors = large_tensors()
    total = sum(t.numel() for t in tensors.values())
    original = sample_digest(tensors, BLOCK_HASH)
    starts = drawn_starts(total)
    covered = {p for start in starts for p in range(start, start + SPAN_ELEMENTS)}
    last, first = tensors["401"], total - tensors["401"].numel()
    inside = next(start for start in starts if start >= first)
    outside = next(p for p in range(first, total) if p not in covered)
    for position in (inside, inside + SPAN_ELEMENTS - 1, outside):
        flip(last, position - first)
        assert (sample_digest(tensors, BLOCK_HASH) != original) == (position in covered)
        flip(last, position - first)
    other_block = bytes(32)
    assert sample_digest(tensors, other_block) != original


def test_a_sample_of_exactly_the_limit_holds_every_element() -> None:
    tensors = {"m": torch.zeros(SAMPLE_ELEMENTS)}
    original = sample_digest(tensors, BLOCK_HASH)
    for position in (0, 12345, SAMPLE_ELEMENTS - 1):
        flip(tensors["m"], position)
        assert sample_digest(tensors, BLOCK_HASH) != original
        flip(tensors["m"], position)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("make", [small_tensors, leafy_tensors, large_tensors])
def test_ranks_read_a_sample_of_their_bands(make, ranks: int) -> None:
    check_sample(make(), ranks)


def check_sample(tensors: Mapping[str, Tensor], ranks: int) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    pieces = sample_pieces(shapes, BLOCK_HASH, ranks)
    bands = [bands_of(tensors, rank, ranks) for rank in range(ranks)]
    parts = [read_pieces(band, pieces, rank) for rank, band in enumerate(bands)]
    assert digest_of_sample(BLOCK_HASH, pieces, parts) == sample_digest(tensors, BLOCK_HASH)
    with pytest.raises(ValueError, match="bytes of a sample"):
        digest_of_sample(BLOCK_HASH, pieces, [*parts[:-1], parts[-1] + b"x"])


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_spans_over_the_ends_of_bands_are_read_from_both(ranks: int) -> None:
    tensors = {"m": torch.arange(1100.0 * 1000).view(1100, 1000), "v": torch.arange(5000.0)}
    check_sample(tensors, ranks)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    pieces = sample_pieces(shapes, BLOCK_HASH, ranks)
    assert {piece.rank for piece in pieces} == set(range(ranks))
    alone = sample_pieces(shapes, BLOCK_HASH)
    assert (len(pieces) > len(alone)) == (ranks > 1), "some span lies on both sides of a cut"
