"""Block ranges: how a model is cut into parts, and which part a seed draws."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.swarm import ROOT
from template.cli.plan_flags import read_plan_or_spec
from template.protocol.ranges import (
    WHOLE,
    BlockRange,
    cut_model,
    drawn_range,
    num_elements,
)
from template.training.model import tensor_shapes

LAYER = {"attn.weight": (4, 4), "mlp.weight": (8, 4)}


def model(layers: int, *, embedding: int = 16, head: bool = False) -> dict[str, tuple[int, ...]]:
    """Shapes of a small model, in no order."""
    shapes: dict[str, tuple[int, ...]] = {"model.norm.weight": (4,)}
    for layer in range(layers):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in LAYER.items()}
    shapes["model.embed_tokens.weight"] = (embedding, 4)
    return shapes | ({"lm_head.weight": (embedding, 4)} if head else {})


def place(name: str) -> float:
    """Of a tensor in the row of blocks."""
    if "embed" in name:
        return -1
    return int(name.split(".")[2]) if ".layers." in name else math.inf


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 200), st.booleans())
def test_every_tensor_is_in_one_part_and_parts_follow_the_layers(
    layers: int, parts: int, embedding: int, head: bool
) -> None:
    shapes = model(layers, embedding=embedding, head=head)
    try:
        cut = cut_model(shapes, parts)
    except ValueError:
        return  # a part would be empty: tested below
    assert len(cut) == parts
    joined = [name for part in cut for name in part]
    assert sorted(joined) == sorted(shapes)
    assert [place(n) for part in cut for n in sorted(part, key=place)] == sorted(
        place(n) for n in shapes
    )
    assert {name: shape for part in cut for name, shape in part.items()} == shapes


def test_layers_are_ordered_by_their_numbers_and_not_by_their_names() -> None:
    low, high = cut_model(model(12), 2)
    assert "model.layers.2.attn.weight" in low
    assert "model.layers.10.attn.weight" in high
    assert "model.norm.weight" in high


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_parts_of_a_shipped_plan_are_about_equal(parts: int) -> None:
    shapes = tensor_shapes(read_plan_or_spec(ROOT / "runs" / "8b.toml"))
    sizes = [num_elements(part) for part in cut_model(shapes, parts)]
    assert sum(sizes) == num_elements(shapes)
    assert max(sizes) <= 1.35 * sum(sizes) / parts


def test_one_part_is_the_whole_model() -> None:
    assert cut_model(model(3), 1) == (model(3),)
    assert WHOLE.is_whole
    assert not BlockRange(part=1, parts=2).is_whole


def test_no_part_may_be_empty() -> None:
    cut_model(model(2), 2)
    with pytest.raises(ValueError, match="fewer parts"):
        cut_model(model(2), 5)
    with pytest.raises(ValueError, match="fewer parts"):
        cut_model(model(4, embedding=10_000), 3)
    with pytest.raises(ValueError, match="at least 1"):
        cut_model(model(2), 0)


def test_a_block_without_parameters_belongs_to_a_part() -> None:
    """At the very end of the row too, where its middle is the end of the last part."""
    shapes = {"layers.0.a": (4, 4), "layers.1.a": (4, 4), "norm": (0,)}
    assert [sorted(part) for part in cut_model(shapes, 2)] == [
        ["layers.0.a"],
        ["layers.1.a", "norm"],
    ]


def test_a_model_without_layers_is_one_part() -> None:
    assert len(cut_model({"table": (4, 4)}, 1)) == 1
    with pytest.raises(ValueError, match="fewer parts"):
        cut_model({"table": (4, 4)}, 2)


@pytest.mark.parametrize(("part", "parts"), [(-1, 1), (1, 1), (4, 4), (0, 0)])
def test_a_part_outside_the_model_is_refused(part: int, parts: int) -> None:
    with pytest.raises(ValueError, match="count from 0"):
        BlockRange(part=part, parts=parts)


def test_a_seed_draws_all_parts_alike_and_the_same_one_again() -> None:
    drawn = [drawn_range(number.to_bytes(32, "little"), 4) for number in range(4000)]
    assert drawn == [drawn_range(number.to_bytes(32, "little"), 4) for number in range(4000)]
    counts = Counter(each.part for each in drawn)
    assert all(900 < counts[part] < 1100 for part in range(4)), counts
    assert all(drawn_range(bytes(32), 1) == WHOLE for _ in range(2))


def test_the_draw_of_a_seed_is_golden() -> None:
    # Every node has to draw the same part for ever.
    assert [drawn_range(bytes([n] * 32), 8).part for n in range(8)] == GOLDEN


GOLDEN = [5, 7, 6, 6, 2, 5, 5, 1]
