"""How many pages a pass has: what fills a device, and what follows from the spec alone."""

import dataclasses

import numpy as np
import pytest
import torch

from template.errors import ConfigError
from template.training.evaluator import (
    FILLED_SHARE,
    MAX_FILLED_TOKENS,
    filling_batch_pages,
    forward_bytes,
    usual_batch_pages,
)
from template.training.model import initial_params
from template.training.scorer import Scorer


@pytest.mark.parametrize(
    ("tokens", "pages"), [(1, 64), (256, 64), (2048, 8), (16384, 1), (10**6, 1)]
)
def test_without_a_known_memory_the_number_follows_from_the_spec(tokens: int, pages: int) -> None:
    assert usual_batch_pages(tokens) == pages


@pytest.mark.parametrize("free_bytes", [0, 10**8, 10**9, 3 * 10**9, 10**10, 10**11, 10**15])
def test_a_pass_fills_the_share_and_no_more(free_bytes: int, spec) -> None:
    model = dataclasses.replace(spec.model, hidden_size=2048, intermediate_size=8192)
    pages = filling_batch_pages(model, 2048, free_bytes)
    room = FILLED_SHARE * free_bytes
    assert 1 <= pages <= MAX_FILLED_TOKENS // 2048
    assert pages == 1 or forward_bytes(model, 2048 * pages) <= room
    if pages < MAX_FILLED_TOKENS // 2048:
        assert forward_bytes(model, 2048 * (pages + 1)) > room


def test_a_mixture_takes_the_room_of_the_experts_that_a_token_meets(spec) -> None:
    dense = dataclasses.replace(spec.model, intermediate_size=100)
    mixture = dataclasses.replace(
        dense,
        architecture="qwen3_moe",
        num_experts=8,
        num_experts_per_tok=4,
        moe_intermediate_size=90,
    )
    assert forward_bytes(mixture, 10) - forward_bytes(dense, 10) == 4 * 10 * 4 * (360 - 100)


def test_on_a_cpu_the_default_is_the_usual(spec) -> None:
    assert Scorer(spec, "cpu").batch_pages == usual_batch_pages(spec.data.page_tokens)
    assert Scorer(spec, "cpu", batch_pages=3).batch_pages == 3


@pytest.mark.parametrize("pages_of_pass", [1, 8, 64])
def test_the_number_of_pages_moves_a_loss_by_less_than_the_audit_tolerates(
    pages_of_pass: int, spec
) -> None:
    """Whatever --neuron.scoring_batch says: a validator and its auditor may choose differently."""
    shape = (64, spec.data.page_tokens)
    pages = np.random.default_rng(1).integers(0, spec.model.vocab_size, size=shape)
    params = initial_params(spec, 5)
    losses = []
    for batch_pages in (64, pages_of_pass):
        scorer = Scorer(spec, "cpu", batch_pages=batch_pages)
        scorer.load(params)
        losses.append(scorer.losses(pages))
    assert np.abs(losses[0] - losses[1]).max() < spec.evaluation.loss_tolerance / 5


def test_a_full_device_names_the_flag(spec, monkeypatch) -> None:
    scorer = Scorer(spec, "cpu", batch_pages=2)

    def full(**_values: object) -> None:
        raise torch.OutOfMemoryError("4 GiB asked for")

    monkeypatch.setattr(scorer._model, "forward", full)
    with pytest.raises(ConfigError, match=r"--neuron\.scoring_batch: .* 2 pages"):
        scorer.losses(np.zeros((5, spec.data.page_tokens), dtype=np.int64))
