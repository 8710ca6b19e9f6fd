"""The loss in chunks: that of all logits at once, in a fraction of the memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from template.training.losses import next_token_loss, spread_loss, token_losses

PAGES, TOKENS, HIDDEN, WORDS = 3, 17, 8, 1000


class _Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation has made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(part, Tensor):
                self.numel = max(self.numel, part.numel())
        return out


@contextmanager
def _largest() -> Iterator[_Largest]:
    with _Largest() as mode:
        yield mode


def _inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    hidden = torch.randn(PAGES, TOKENS, HIDDEN, generator=draw).to(dtype).requires_grad_()
    head = torch.randn(WORDS, HIDDEN, generator=draw).to(dtype).requires_grad_()
    return hidden, head, torch.randint(WORDS, (PAGES, TOKENS), generator=draw)


def _whole(hidden: Tensor, head: Tensor, tokens: Tensor, reduction: str = "mean") -> Tensor:
    logits = functional.linear(hidden, head)[:, :-1].float()
    return functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction=reduction)


@pytest.mark.parametrize("rows", [1, 5, 47, 48, 1000])
def test_loss_and_gradients_are_those_of_all_logits_at_once(rows: int) -> None:
    """48 predicted tokens: with the last chunk full, short, and alone."""
    hidden, head, tokens = _inputs()
    loss = next_token_loss(hidden, head, tokens, chunk_logits=rows * WORDS)
    (2 * loss).backward()
    other_hidden, other_head, _ = _inputs()
    expected = _whole(other_hidden, other_head, tokens)
    (2 * expected).backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(hidden.grad, other_hidden.grad)
    torch.testing.assert_close(head.grad, other_head.grad)
    assert hidden.grad is not None
    assert not hidden.grad[:, -1].any(), "a page's last token predicts nothing"


def test_in_bf16_the_sums_are_float32() -> None:
    hidden, head, tokens = _inputs(torch.bfloat16)
    loss = next_token_loss(hidden, head, tokens, chunk_logits=7 * WORDS)
    loss.backward()
    exact_hidden, exact_head = (x.detach().float().requires_grad_() for x in (hidden, head))
    _whole(exact_hidden, exact_head, tokens).backward()
    assert loss.dtype == torch.float32
    assert hidden.grad is not None
    assert head.grad is not None
    assert (hidden.grad.dtype, head.grad.dtype) == (torch.bfloat16, torch.bfloat16)
    for found, exact in ((hidden.grad, exact_hidden.grad), (head.grad, exact_head.grad)):
        assert exact is not None
        assert (found.float() - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("rows", [1, 5, 48])
def test_the_losses_of_tokens_are_those_of_all_logits_at_once(rows: int) -> None:
    hidden, head, tokens = _inputs()
    losses = token_losses(hidden, head, tokens, chunk_logits=rows * WORDS)
    assert losses.shape == (PAGES, TOKENS - 1)
    torch.testing.assert_close(losses, _whole(hidden, head, tokens, "none").detach())


def test_no_tensor_is_as_large_as_all_logits() -> None:
    """In training and in scoring; the whole path in the same run shows that the measure sees it."""
    hidden, head, tokens = _inputs()
    all_logits = PAGES * (TOKENS - 1) * WORDS
    with _largest() as whole:
        _whole(hidden, head, tokens).backward()
    with _largest() as trained:
        next_token_loss(hidden, head, tokens, chunk_logits=4 * WORDS).backward()
    with _largest() as scored:
        token_losses(hidden, head, tokens, chunk_logits=4 * WORDS)
    assert whole.numel >= all_logits
    assert trained.numel == max(4 * WORDS, head.numel())
    assert scored.numel == max(4 * WORDS, head.numel())


def _router(pages: int, tokens: int, favourite: float) -> Tensor:
    logits = torch.zeros(pages * tokens, 4)
    logits[:, 0] = favourite
    return logits


def test_a_mixture_whose_tokens_crowd_pays_more() -> None:
    generator = torch.Generator().manual_seed(2)
    even = torch.randn(2 * 4096, 4, generator=generator) * 0.01
    assert spread_loss([even], 2, 2) == pytest.approx(1.0, abs=0.01)
    assert spread_loss([_router(2, 8, 20.0)], 2, 1) == pytest.approx(4.0, rel=1e-3)
    assert spread_loss([even, _router(2, 4096, 20.0)], 2, 1) == pytest.approx(2.5, rel=0.01)


def test_the_loss_of_a_batch_is_the_mean_of_its_pages() -> None:
    """So passes of any size add up to the same; transformers' own loss is of the whole batch."""
    logits = torch.randn(6 * 9, 4, generator=torch.Generator().manual_seed(3))
    by_page = [spread_loss([page], 1, 2) for page in logits.view(6, 9, 4)]
    torch.testing.assert_close(spread_loss([logits], 6, 2), torch.stack(by_page).mean())
