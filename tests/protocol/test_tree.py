"""The digest of theta is the tree of the definition, whoever hashes the leaves."""

import hashlib
import math
import re
import weakref
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from template.protocol import tree
from template.protocol.tree import (
    digest_of_leaves,
    hash_leaves,
    join_leaves,
    tensors_digest,
)
from tests.support.band_encoding import bands_of

SHAPE = st.one_of(
    st.just(()),
    st.tuples(st.sampled_from([0, 1, 63, 64, 65, 2**18, 2**18 + 1])),
    st.tuples(st.sampled_from([0, 1, 63, 64, 65, 129, 400]), st.sampled_from([0, 1, 7, 64])),
    st.tuples(st.sampled_from([0, 1, 64, 65, 129]), st.integers(0, 3), st.integers(1, 3)),
)
MODELS = st.dictionaries(st.sampled_from(["a", "b.c", "\u00e9"]), SHAPE, max_size=3)


def values_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {
        name: (torch.arange(math.prod(shape), dtype=torch.float32) / 7 - len(name)).reshape(shape)
        for name, shape in shapes.items()
    }


def number(value: int) -> bytes:
    return value.to_bytes(8, "little")


def sha256_of(*parts: bytes) -> bytes:
    """As contrib/FORMAT.md says it: every part after its length."""
    data = b"".join(number(len(part)) + part for part in parts)
    return hashlib.sha256(data).digest()


def defined(tensors: Mapping[str, Tensor]) -> bytes:
    """The definition, in one go."""
    found = []
    for name in sorted(tensors):
        tensor = tensors[name]
        step = 4 * (2**18 if tensor.dim() < 2 else 64 * math.prod(tensor.shape[1:]))
        data = tensor.contiguous().numpy().astype("<f4").tobytes()
        leaves = [data[at : at + step] for at in range(0, len(data), step)] if data else []
        sides = b"".join(number(side) for side in tensor.shape)
        joined = b"".join(hashlib.sha256(leaf).digest() for leaf in leaves)
        found.append(sha256_of(b"tessera/tensor", name.encode(), sides, joined))
    return sha256_of(b"tessera/theta", *found)


@settings(max_examples=50, deadline=None)
@given(MODELS, st.sampled_from([1, 2, 3, 5]))
def test_any_number_of_ranks_finds_the_digest_of_the_definition(
    shapes: dict[str, tuple[int, ...]], ranks: int
) -> None:
    tensors = values_of(shapes)
    expected = defined(tensors)
    assert tensors_digest(tensors) == expected
    bands = [hash_leaves(bands_of(tensors, rank, ranks), 1) for rank in range(ranks)]
    assert digest_of_leaves(shapes, join_leaves(bands)) == expected


@pytest.mark.parametrize("batch_bytes", [1, 3000, 2**26])
@pytest.mark.parametrize("num_threads", [1, 2, 7])
def test_threads_and_batches_do_not_matter(monkeypatch, batch_bytes: int, num_threads: int) -> None:
    tensors = values_of({"a": (300, 5), "b": (70,), "c": (65, 2), "d": (0, 3)})
    monkeypatch.setattr(tree, "BATCH_BYTES", batch_bytes)
    assert tensors_digest(tensors, num_threads) == defined(tensors)


def test_the_example_of_the_page() -> None:
    page = Path(__file__).parents[2] / "contrib" / "FORMAT.md"
    (said,) = re.findall(r"```digest\n(.*?)\n```", page.read_text(encoding="ascii"))
    tensors = {"a": torch.tensor([0.0, 0.25, -0.5]), "b": torch.arange(65.0).view(65, 1)}
    assert tensors_digest(tensors).hex() == defined(tensors).hex() == said


def test_other_leaves_than_the_shapes_say_are_refused() -> None:
    """A rank that is missing, or one that hashed a band of another cut."""
    shapes = {"a": (200, 3), "v": (9,)}
    bands = [hash_leaves(bands_of(values_of(shapes), rank, 2)) for rank in range(2)]
    assert digest_of_leaves(shapes, join_leaves(bands)) == defined(values_of(shapes))
    with pytest.raises(ValueError, match="a: 64 bytes of leaves for 4 leaves"):
        digest_of_leaves(shapes, bands[0])
    with pytest.raises(ValueError, match="a: 160 bytes of leaves"):
        digest_of_leaves(shapes, {**join_leaves(bands), "a": bytes(160)})
    swapped = join_leaves(bands[::-1])
    assert digest_of_leaves(shapes, swapped) != defined(values_of(shapes))


def test_only_a_batch_of_copies_is_held_at_a_time(monkeypatch) -> None:
    """Tensors that are made when read: as theta on a GPU, a copy of each comes to the host."""
    monkeypatch.setattr(tree, "BATCH_BYTES", 4 * 64 * 10)
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    class Made(dict[str, Tensor]):
        def __getitem__(self, name: str) -> Tensor:
            nonlocal most
            values = super().__getitem__(name).numpy().copy()
            alive.append(weakref.ref(values))
            most = max(most, sum(ref() is not None for ref in alive))
            return torch.from_numpy(values)

    tensors = values_of({f"{i:02}": (64, 10) for i in range(20)})
    assert digest_of_leaves(
        {name: tuple(t.shape) for name, t in tensors.items()}, hash_leaves(Made(tensors), 1)
    ) == defined(tensors)
    assert most == 2, "the one hashed and the one made next"
