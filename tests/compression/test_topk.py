"""Top-k against sorting by (-|x|, index), ties and limits included."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compression.topk import select_topk


def naive_topk(values_NC: Tensor, k: int) -> list[list[int]]:
    return [
        sorted(sorted(range(len(row)), key=lambda i: (-abs(row[i]), i))[:k])
        for row in values_NC.tolist()
    ]


@pytest.mark.parametrize(("num_elements", "k"), [(1, 1), (2, 1), (100, 7), (100, 100), (4096, 64)])
def test_the_largest_magnitudes_are_chosen(num_elements: int, k: int) -> None:
    values_NC = torch.randn(5, num_elements, generator=torch.Generator().manual_seed(k))
    assert select_topk(values_NC, k).tolist() == naive_topk(values_NC, k)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_ties_go_to_the_lowest_index(data: st.DataObject) -> None:
    num_elements = data.draw(st.integers(1, 12))
    level = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1.0, 2.0])
    row = st.lists(level, min_size=num_elements, max_size=num_elements)
    values_NC = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=4)))
    k = data.draw(st.integers(1, num_elements))
    assert select_topk(values_NC, k).tolist() == naive_topk(values_NC, k)


def test_all_equal_keeps_the_front() -> None:
    assert select_topk(torch.zeros(2, 9), 4).tolist() == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize("k", [0, -1, 9])
def test_k_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="k is"):
        select_topk(torch.ones(1, 8), k)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_a_single_value_that_is_not_finite_is_refused(poison: float) -> None:
    values_NC = torch.ones(3, 8)
    values_NC[2, 7] = poison
    with pytest.raises(ValueError, match="not finite"):
        select_topk(values_NC, 1)
