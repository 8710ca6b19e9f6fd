"""Scoring: losses that do not depend on the batch, and a model put back to the last bit."""

import numpy as np
import pytest
import torch

from template.protocol.payload import PayloadHeader, decode_payload, encode_payload
from template.protocol.root import tensors_digest
from template.training.model import build_model, load_params
from template.training.outer import apply_updates
from template.training.scorer import Scorer


@pytest.fixture
def pages(spec) -> np.ndarray:
    shape = (13, spec.data.page_tokens)
    return np.random.default_rng(1).integers(0, spec.model.vocab_size, size=shape)


@pytest.fixture
def scorer(spec, theta0) -> Scorer:
    scorer = Scorer(spec, "cpu")
    scorer.load(theta0)
    return scorer


@pytest.fixture
def payload(form):
    generator = torch.Generator().manual_seed(5)
    dense = {name: torch.randn(shape, generator=generator) for name, shape in form.shapes.items()}
    header = PayloadHeader(window=0, base_window=0, pages_consumed=0, public_key=bytes(32))
    return decode_payload(encode_payload(header, dense, form)[0], form)


@pytest.fixture
def tensors(payload):
    return payload.tensors


def test_losses_are_those_of_transformers(spec, theta0, scorer, pages) -> None:
    model = build_model(spec).eval()
    load_params(model, theta0)
    tokens = torch.from_numpy(pages)
    with torch.no_grad():
        expected = [float(model(input_ids=row[None], labels=row[None]).loss) for row in tokens]
    losses = scorer.losses(pages)
    assert losses.dtype == np.float64
    assert losses.shape == (13,)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    assert np.ptp(losses) > 1e-3


@pytest.mark.parametrize("batch_pages", [1, 4, 13])
def test_the_batch_size_moves_a_loss_by_rounding_only(
    batch_pages, spec, theta0, scorer, pages
) -> None:
    other = Scorer(spec, "cpu", batch_pages=batch_pages)
    other.load(theta0)
    np.testing.assert_allclose(other.losses(pages), scorer.losses(pages), rtol=1e-6)


def test_the_same_pages_twice_have_the_same_bits(scorer, pages) -> None:
    assert scorer.losses(pages).tobytes() == scorer.losses(pages).tobytes()


def test_no_pages_have_no_losses(scorer, spec) -> None:
    assert scorer.losses(np.empty((0, spec.data.page_tokens), dtype=np.int64)).shape == (0,)


def test_within_the_block_the_model_stands_where_the_step_leads(
    scorer, theta0, payload, tensors, pages
) -> None:
    factors = {name: 0.1 * (i + 1) for i, name in enumerate(sorted(tensors))}
    before = scorer.losses(pages)
    with scorer.stepped(tensors, factors):
        inside, losses = scorer.params(), scorer.losses(pages)
    assert tensors_digest(inside) == tensors_digest(apply_updates(theta0, [(payload, factors)]))
    assert not np.array_equal(losses, before)
    assert tensors_digest(scorer.params()) == tensors_digest(theta0)
    assert scorer.losses(pages).tobytes() == before.tobytes()


def test_every_bit_is_restored_after_an_exception_in_the_block(scorer, theta0, tensors) -> None:
    with (
        pytest.raises(RuntimeError, match="in the block"),
        scorer.stepped(tensors, dict.fromkeys(tensors, 0.3)),
    ):
        raise RuntimeError("in the block")
    assert tensors_digest(scorer.params()) == tensors_digest(theta0)


def test_every_bit_is_restored_when_the_step_itself_fails_half_way(scorer, theta0, tensors) -> None:
    factors = dict.fromkeys(tensors, 0.3)
    factors.pop(list(tensors)[-1])
    with pytest.raises(KeyError), scorer.stepped(tensors, factors):
        pytest.fail("the block must not run")
    assert tensors_digest(scorer.params()) == tensors_digest(theta0)


def test_a_step_to_infinity_and_back(scorer, theta0, tensors, pages) -> None:
    with scorer.stepped(tensors, dict.fromkeys(tensors, 1e38)):
        assert not np.isfinite(scorer.losses(pages)).all()
    assert tensors_digest(scorer.params()) == tensors_digest(theta0)
