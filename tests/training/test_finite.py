"""One value decides, wherever it lies, and large finite values do not."""

import math

import pytest
import torch

from template.training.finite import are_finite, is_finite


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("place", [0, 1, 700, 4095, 4096, 9999])
def test_one_bad_value_is_found_at_every_place(bad: float, place: int) -> None:
    values = torch.ones(10_000)
    values[place] = bad
    assert not is_finite(values)
    assert not is_finite(values.reshape(100, 100).T)
    assert not are_finite([torch.ones(2), values])


def test_infinities_of_both_signs_do_not_cancel() -> None:
    assert not is_finite(torch.tensor([math.inf, -math.inf, 1.0]))


def test_finite_values_whose_sum_overflows_are_finite() -> None:
    largest = torch.full((1000,), torch.finfo(torch.float32).max)
    assert math.isinf(float(largest.sum()))
    assert is_finite(largest)
    assert is_finite(-largest)
    assert are_finite([largest, torch.empty(0), torch.zeros(3)])
    largest[500] = math.nan
    assert not is_finite(largest)
