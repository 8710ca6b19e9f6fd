"""Loss on answers only: against the naive reference, at the boundaries, in every user of it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from template.protocol.spec import ChatSpec, RunSpec
from template.training.answers import MIN_COUNTED, answer_shares, answer_tokens
from template.training.inner import InnerTrainer
from template.training.losses import next_token_loss, shared_loss
from template.training.model import Params, build_model, copy_params, load_params
from template.training.options import InnerOptions
from template.training.rates import inner_lr
from template.training.scorer import Scorer, means_of_parts

CHAT = ChatSpec(system=1, user=5, assistant=2, end=3)
S, U, A, E, X = 1, 5, 2, 3, 9
"""The four markers and a word."""


def naive(page: Sequence[int], chat: ChatSpec = CHAT) -> list[bool]:
    """The rule as it is written: an answer opens after `assistant`, and ends with `end`."""
    found, is_open = [], False
    for place, token in enumerate(page):
        if place:
            found.append(is_open)
        if token == chat.assistant:
            is_open = True
        elif token == chat.end:
            is_open = False
    return found if sum(found) >= 4 else [True] * len(found)


def mask(page: Sequence[int]) -> list[bool]:
    found = answer_tokens(torch.tensor([page]), CHAT)
    assert found.dtype == torch.bool
    return found[0].tolist()


def places(page: Sequence[int]) -> list[int]:
    """Places in the page of the counted tokens."""
    return [place for place, counts in enumerate(mask(page), start=1) if counts]


ALL = list(range(1, 12))


@pytest.mark.parametrize(
    ("page", "counted"),
    [
        ([U, X, X, E, X, X, X, X, X, X, X, X], ALL),  # none
        ([U, X, X, E, A, E, X, X, X, X, X, X], ALL),  # one: an empty answer
        ([U, X, X, E, A, X, X, E, X, X, X, X], ALL),  # three
        ([U, X, X, E, A, X, X, X, E, X, X, X], [5, 6, 7, 8]),  # four
        ([U, X, X, E, X, X, A, X, X, X, X, X], [7, 8, 9, 10, 11]),  # cut by the page's end
        ([U, X, X, E, X, X, X, X, X, X, X, A], ALL),  # an answer without a token
        ([A, X, E, U, X, E, A, X, X, E, X, X], [1, 2, 7, 8, 9]),  # two answers
        ([X, X, E, X, E, A, X, X, X, E, E, X], [6, 7, 8, 9]),  # an end without a begin
        ([A, X, A, X, X, E, X, X, X, X, X, X], [1, 2, 3, 4, 5]),  # a begin within an answer
        ([A, U, X, S, X, E, X, X, X, X, X, X], [1, 2, 3, 4, 5]),  # other markers within one
        ([A, X, X, X, X, X, X, X, X, X, X, X], ALL),  # all of it an answer
    ],
)
def test_what_counts(page: list[int], counted: list[int]) -> None:
    assert places(page) == counted
    assert mask(page) == naive(page)


@given(st.lists(st.sampled_from([S, U, A, E, X, 11]), min_size=8, max_size=40))
def test_any_page_counts_as_the_naive_rule_says(page: list[int]) -> None:
    assert mask(page) == naive(page)


@given(st.lists(st.lists(st.sampled_from([A, E, X]), min_size=10, max_size=10), min_size=1))
def test_pages_do_not_know_each_other(pages: list[list[int]]) -> None:
    found = answer_tokens(torch.tensor(pages), CHAT)
    assert found.tolist() == [naive(page) for page in pages]
    shares = answer_shares(torch.tensor(pages), CHAT)
    torch.testing.assert_close(shares.sum(dim=1), torch.full((len(pages),), 1 / len(pages)))


def chat_pages(spec: RunSpec, count: int, seed: int = 1) -> np.ndarray:
    """Random pages with answers of many lengths; some have none, some fewer than four tokens."""
    draw = np.random.default_rng(seed)
    pages = draw.integers(6, spec.model.vocab_size, size=(count, spec.data.page_tokens))
    for number, page in enumerate(pages):
        first = number % 7
        if number % 5 != 4:
            page[first] = A
            page[min(first + 2 + number % 9, len(page) - 1)] = E
    return pages


def with_chat(spec: RunSpec, **model: Any) -> RunSpec:
    changed = replace(spec, data=replace(spec.data, chat=CHAT))
    return replace(changed, model=replace(spec.model, **model))


def naive_losses(spec: RunSpec, theta: Params, pages: np.ndarray) -> list[list[float]]:
    """Of each page the losses of the counted tokens in order, in five lines."""
    model = build_model(spec).eval()
    load_params(model, theta)
    found = []
    for page in torch.from_numpy(pages):
        with torch.no_grad():
            logs = functional.log_softmax(model(input_ids=page[None]).logits[0].double(), dim=-1)
        losses = [-float(logs[t - 1, page[t]]) for t in range(1, len(page))]
        kept = naive(page.tolist())
        found.append([loss for loss, counts in zip(losses, kept, strict=True) if counts])
    return found


def test_the_scorer_takes_the_mean_of_the_answers(spec, theta0) -> None:
    pages = chat_pages(spec, 23)
    scorer = Scorer(spec, "cpu", batch_pages=5)
    scorer.load(theta0)
    expected = naive_losses(spec, theta0, pages)
    means = [np.mean(losses) for losses in expected]
    np.testing.assert_allclose(scorer.losses(pages, CHAT), means, rtol=1e-5)
    quarters = [
        [np.mean(losses[len(losses) * q // 4 : len(losses) * (q + 1) // 4]) for q in range(4)]
        for losses in expected
    ]
    found = scorer.part_losses(pages, 4, CHAT)
    np.testing.assert_allclose(found, quarters, rtol=1e-5)
    assert np.isfinite(found).all()
    assert not np.allclose(scorer.losses(pages), means, rtol=1e-3)


def test_a_loss_that_is_no_number_beside_the_answers_does_not_spread() -> None:
    losses = torch.tensor([[float("nan"), 1.0, 2.0, 3.0, 4.0, float("inf")]])
    counted = torch.tensor([[False, True, True, True, True, False]])
    assert means_of_parts(losses, 4, counted).tolist() == [[1.0, 2.0, 3.0, 4.0]]
    assert means_of_parts(losses, 1, counted).tolist() == [[2.5]]


def test_without_the_table_the_parts_are_those_of_before() -> None:
    losses = torch.rand(3, 11, generator=torch.Generator().manual_seed(1))
    expected = [[float(row[11 * q // 4 : 11 * (q + 1) // 4].double().mean()) for q in range(4)]
                for row in losses]  # fmt: skip
    assert means_of_parts(losses, 4).tolist() == expected
    everything = torch.ones(3, 11, dtype=torch.bool)
    np.testing.assert_allclose(means_of_parts(losses, 4, everything), expected, rtol=1e-12)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_the_chunked_loss_weighs_tokens_as_the_plain_one(rows: int) -> None:
    draw = torch.Generator().manual_seed(1)
    words, tokens = 50, torch.randint(50, (3, 12), generator=draw)
    tokens[:, 2], tokens[1:, 9] = A, E
    shares = answer_shares(tokens, CHAT)

    def made() -> tuple[torch.Tensor, torch.Tensor]:
        draw.manual_seed(2)
        hidden = torch.randn(3, 12, 8, generator=draw).requires_grad_()
        return hidden, torch.randn(words, 8, generator=draw).requires_grad_()

    (hidden, head), (plain_hidden, plain_head) = made(), made()
    loss = next_token_loss(hidden, head, tokens, rows * words, shares)
    expected = shared_loss(plain_hidden @ plain_head.T, tokens, shares)
    (2 * loss).backward()
    (2 * expected).backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(hidden.grad, plain_hidden.grad)
    torch.testing.assert_close(head.grad, plain_head.grad)


def _train(spec: RunSpec, theta: Params, batches: list[np.ndarray], pages: int | None) -> Params:
    trainer = InnerTrainer(spec, "cpu", InnerOptions(micro_batch=pages))
    return dict(trainer.train(theta, 2, batches, lambda: False).pseudo_gradient)


def _plain(spec: RunSpec, theta: Params, batches: list[np.ndarray]) -> Params:
    """Plain PyTorch: page by page, the mean of the counted tokens; the mean of the pages."""
    model = build_model(spec).train()
    load_params(model, theta)
    training = spec.training
    optimizer = torch.optim.AdamW(
        model.parameters(),
        betas=(training.adam_beta1, training.adam_beta2),
        weight_decay=training.weight_decay,
    )
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = inner_lr(spec, 2, step)
        optimizer.zero_grad()
        for page in torch.from_numpy(batch):
            logits = model(input_ids=page[None]).logits[0, :-1]
            losses = functional.cross_entropy(logits, page[1:], reduction="none")
            (losses[torch.tensor(naive(page.tolist()))].mean() / len(batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.max_gradient_norm)
        optimizer.step()
    return {name: theta[name] - end for name, end in copy_params(model).items()}


def _apart(first: Params, second: Params) -> float:
    """The length of the difference, as a share of the length of the second."""
    apart = sum(float((first[name] - second[name]).square().sum()) for name in second)
    return (apart / sum(float(delta.square().sum()) for delta in second.values())) ** 0.5


@pytest.mark.parametrize("pages", [None, 1, 3])
def test_the_inner_loop_learns_the_answers_alone(spec, theta0, pages: int | None) -> None:
    chat = with_chat(spec)
    size = spec.training.batch_pages
    batches = list(chat_pages(spec, 3 * size).reshape(3, size, -1))
    found = _train(chat, theta0, batches, pages)
    assert _apart(found, _plain(chat, theta0, batches)) < 1e-3
    assert _apart(found, _train(spec, theta0, batches, pages)) > 0.1


def test_a_large_vocabulary_learns_the_same(spec, theta0) -> None:
    """Above the limit the loss goes in chunks."""
    large = with_chat(spec, vocab_size=2**14)
    theta = copy_params(build_model(large))
    size = spec.training.batch_pages
    batches = list(chat_pages(spec, 2 * size).reshape(2, size, -1))
    assert _apart(_train(large, theta, batches, 2), _plain(large, theta, batches)) < 1e-3


def test_a_succession_changes_what_counts(spec, theta0) -> None:
    size = spec.training.batch_pages
    batches = list(chat_pages(spec, size).reshape(1, size, -1))
    trainer = InnerTrainer(spec, "cpu")
    trainer.follow(with_chat(spec))
    found = trainer.train(theta0, 2, batches, lambda: False).pseudo_gradient
    assert _apart(dict(found), _train(with_chat(spec), theta0, batches, None)) == 0


def test_a_page_counts_as_a_whole_below_what_quarters_need() -> None:
    assert MIN_COUNTED == 4
