"""Parts are files of the safetensors library, hashed where their tensors lie."""

import hashlib
import tracemalloc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from template.protocol.parts import (
    PartSource,
    group_tensors,
    hash_parts,
    part_bytes_of,
    part_length,
)

names = st.text("abcdefgXYZ0123456789._\u00e9", min_size=1, max_size=40)
shapes = st.lists(st.integers(0, 9), max_size=3).map(tuple)


@given(st.dictionaries(names, shapes, min_size=1, max_size=8), st.integers(1, 2000))
def test_parts_are_what_the_library_writes(drawn: dict[str, tuple[int, ...]], limit: int) -> None:
    """Names of every length, so that every padding of the header occurs."""
    tensors = {
        name: torch.arange(float(torch.Size(shape).numel())).reshape(shape) + len(name)
        for name, shape in drawn.items()
    }
    digests = []
    for group in group_tensors(drawn, limit):
        theirs = save({name: tensors[name] for name in group}, metadata={"format": "pt"})
        ours = part_bytes_of(tensors, group)
        assert ours == theirs
        assert part_length({name: drawn[name] for name in group}) == len(theirs)
        assert load(ours).keys() == set(group)
        digests.append(hashlib.sha256(theirs).digest())
    assert hash_parts(tensors, limit) == tuple(digests)


def test_digests_are_the_same_for_any_number_of_threads() -> None:
    tensors = {f"{i:02d}": torch.arange(50.0) * i for i in range(40)}
    found = {hash_parts(tensors, 800, threads) for threads in (1, 2, 3, 7)}
    assert len(found) == 1
    assert len(found.pop()) == 10


def test_a_tensor_is_hashed_without_a_copy() -> None:
    """Also a tensor larger than a part; a view in another order is copied."""
    large = torch.arange(1000.0)
    assert hash_parts({"a": large}, 1) == hash_parts({"a": large.clone()}, 1)
    assert hash_parts({"a": large.reshape(20, 50).T}, 1) != hash_parts({"a": large}, 1)
    with pytest.raises(ValueError, match=r"a is torch\.bfloat16"):
        hash_parts({"a": large.bfloat16()})


def test_a_part_is_read_in_stretches_where_its_tensors_lie() -> None:
    """Of any length and place, as an upload in parts reads; nothing is made whole."""
    tensors = {
        "b": torch.arange(1000, dtype=torch.float32).reshape(10, 100),
        "a": torch.randn(7),
        "empty": torch.zeros(0, 3),
        "z": torch.randn(33, 5),
    }
    whole = part_bytes_of(tensors, list(tensors))
    source = PartSource(tensors, list(tensors))
    assert source.num_bytes == len(whole)
    assert source.read(0, source.num_bytes) == whole
    for step in (1, 13, 64, 4_097):
        starts = range(0, len(whole), step)
        pieces = [source.read(start, min(step, len(whole) - start)) for start in starts]
        assert b"".join(pieces) == whole
    large = {"large": torch.zeros(2**20)}
    tracemalloc.start()
    try:
        source = PartSource(large, ["large"])
        for start in range(0, source.num_bytes - 2**16, 2**16):
            source.read(start, 2**16)
        assert tracemalloc.get_traced_memory()[1] < 2**18 < source.num_bytes
    finally:
        tracemalloc.stop()
