"""What the codec is measured against does what it says, or the ratios mean nothing."""

import pytest
import torch

from benchmarks.codec import baseline
from benchmarks.codec.rice import rice_bits, rice_pack, rice_unpack

SHAPES = {"a": (128, 192), "b": (64,), "c": (70, 30), "d": (8, 4, 6)}


def draw(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator) for n, s in SHAPES.items()}


@pytest.mark.parametrize("name", SHAPES)
def test_chunks_of_the_baseline_come_back(name: str) -> None:
    dense = draw(0)[name]
    assert torch.equal(baseline.from_chunks(baseline.to_chunks(dense), dense.shape), dense)


def test_the_baseline_keeps_the_largest_and_takes_only_bin_means() -> None:
    tensors = draw(0)
    decoded = baseline.decode(baseline.encode(tensors, 64), tensors)
    for name, dense in tensors.items():
        chunks_NC, sent_NC = baseline.to_chunks(dense), baseline.to_chunks(decoded[name])
        k = min(64, chunks_NC.shape[1])
        least_kept_N1 = chunks_NC.abs().topk(k, dim=1).values[:, -1:]
        assert (sent_NC[chunks_NC.abs() < least_kept_N1] == 0).all()
        assert sent_NC.unique().numel() <= 5
        kept = chunks_NC.abs() >= least_kept_N1
        error = (chunks_NC - sent_NC)[kept].norm() / chunks_NC[kept].norm()
        assert 0.0 < error < 0.6


def test_the_wire_of_the_baseline_is_as_large_as_the_peers() -> None:
    packed = baseline.encode_tensor(torch.randn(640, 640), 64)
    assert packed.num_bytes / 640**2 == pytest.approx(0.0391, abs=1e-4)


def test_error_feedback_of_the_baseline_keeps_what_was_not_sent() -> None:
    tensors, feedback = draw(0), draw(1)
    total = {n: feedback[n] * 0.95 + tensors[n] for n in SHAPES}
    sent = baseline.decode(baseline.error_feedback_step(feedback, tensors, 0.95, 64), tensors)
    for name in SHAPES:
        assert torch.allclose(feedback[name] + sent[name], total[name], atol=1e-6)
        assert sent[name].abs().sum() > 0


def test_the_aggregate_of_the_baseline_is_the_mean_over_senders() -> None:
    tensors = draw(0)
    params = {n: torch.zeros(s) for n, s in SHAPES.items()}
    same = [baseline.encode(tensors, 64)] * 3
    baseline.aggregate(params, same, 1.0)
    for name, dense in baseline.decode(same[0], tensors).items():
        assert torch.allclose(params[name], -dense, atol=1e-6)


@pytest.mark.parametrize("b", [1, 5, 7])
def test_golomb_rice_comes_back(b: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randperm(4096, generator=generator)[:64].sort().values for _ in range(50)]
    index_NK = torch.stack([*rows, torch.arange(64), torch.arange(4032, 4096)])
    data = rice_pack(index_NK, b)
    assert len(data) == -(-rice_bits(index_NK, b) // 8)
    assert rice_unpack(data, len(index_NK), 64, b).tolist() == index_NK.tolist()
