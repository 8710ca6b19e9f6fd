"""Error feedback: what is sent and what stays behind add up to what was put in."""

import pytest
import torch

from compression import accumulate, encode_tensor, residual_after, tensor_layout


def draw(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_accumulate_is_decay_times_residual_plus_delta() -> None:
    residual, delta = draw((5, 7), 1), draw((5, 7), 2)
    before = residual.clone(), delta.clone()
    assert torch.equal(accumulate(residual, delta, 0.5), residual * 0.5 + delta)
    assert torch.equal(accumulate(residual, delta, 0.0), delta)
    assert torch.equal(residual, before[0])
    assert torch.equal(delta, before[1])


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay"):
        accumulate(torch.zeros(2), torch.zeros(2), decay)


def test_unequal_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        accumulate(torch.zeros(2, 1), torch.zeros(2), 0.5)


def test_sent_plus_residual_is_the_input(shape: tuple[int, ...]) -> None:
    """Within one rounding of a float32 difference; not sent elements stay bit for bit."""
    accumulated = draw(shape, 3)
    before = accumulated.clone()
    _, sent = encode_tensor(accumulated, tensor_layout(shape, 64))
    residual = residual_after(accumulated, sent)
    assert torch.equal(accumulated, before)
    dense = torch.zeros(shape, dtype=torch.float64)
    dense.view(-1)[sent.indices] = sent.values.double()
    error = (dense + residual.double() - accumulated.double()).abs()
    assert (error <= 2.0**-24 * (dense.abs() + accumulated.double().abs())).all()
    untouched = dense == 0
    assert torch.equal(residual[untouched], accumulated[untouched])


def test_feedback_sends_everything_in_the_end() -> None:
    """A constant pseudo-gradient, sent sparsely for long, arrives with its full size."""
    delta, layout = draw((64, 64), 4) * 1e-3, tensor_layout((64, 64), 64)
    residual, arrived = torch.zeros(64, 64), torch.zeros(64, 64)
    num_windows = 300
    for _ in range(num_windows):
        accumulated = accumulate(residual, delta, 0.999)
        _, sent = encode_tensor(accumulated, layout)
        residual = residual_after(accumulated, sent)
        sent.add_to(arrived, coefficient=1.0)
    missing = (arrived / num_windows - delta).norm() / delta.norm()
    assert float(missing) < 0.35
    assert float(residual.norm()) < num_windows * float(delta.norm()) / 2
