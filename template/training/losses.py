"""The loss of a causal language model, without all logits at once where the vocabulary is large.

A token's logits, their float32 copy and both gradients take 12 bytes per word of the vocabulary:
3.2 MB at 262,144 words. Above `CHUNKED_VOCAB` words the loss goes over the tokens in chunks, with
the gradients of a chunk computed beside its loss. Below, the path is that of `transformers`, whose
bits runs of small models keep.

Legend: N tokens, H hidden size, V vocabulary, P pages, E experts.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CHUNKED_VOCAB = 2**14
"""Words from which the loss is computed in chunks."""
CHUNK_LOGITS = 2**25
"""Logits of one chunk: 128 MiB as float32."""


def next_token_loss(
    hidden_PTH: Tensor,
    head_VH: Tensor,
    tokens_PT: Tensor,
    chunk_logits: int = CHUNK_LOGITS,
    shares_PT: Tensor | None = None,
) -> Tensor:
    """Mean loss over the predicted tokens 1.. of each page, nats; differentiable once.

    Hidden states and head have one dtype, in which the multiplications are done. `shares_PT`: each
    predicted token's share in the loss, float32 [pages, page_tokens - 1]; None for equal shares.
    """
    hidden_NH = hidden_PTH[:, :-1].reshape(-1, hidden_PTH.shape[-1])
    shares_N = None if shares_PT is None else shares_PT.reshape(-1)
    loss: Tensor = _ChunkedLoss.apply(
        hidden_NH, head_VH, tokens_PT[:, 1:].reshape(-1), chunk_logits, shares_N
    )
    return loss


def shared_loss(logits_PTV: Tensor, tokens_PT: Tensor, shares_PT: Tensor) -> Tensor:
    """As `next_token_loss` with shares, from all logits [pages, page_tokens, V] at once."""
    losses_PT = functional.cross_entropy(
        logits_PTV[:, :-1].float().transpose(1, 2), tokens_PT[:, 1:], reduction="none"
    )
    return (losses_PT * shares_PT).sum()


@torch.no_grad()
def token_losses(
    hidden_PTH: Tensor, head_VH: Tensor, tokens_PT: Tensor, chunk_logits: int = CHUNK_LOGITS
) -> Tensor:
    """Loss of each predicted token, float32 [pages, page_tokens - 1]; not differentiable."""
    hidden_NH = hidden_PTH[:, :-1].reshape(-1, hidden_PTH.shape[-1])
    targets_N = tokens_PT[:, 1:].reshape(-1)
    parts = [
        functional.cross_entropy(
            functional.linear(hidden_NH[rows], head_VH).float(), targets_N[rows], reduction="none"
        )
        for rows in _chunks(len(hidden_NH), len(head_VH), chunk_logits)
    ]
    return torch.cat(parts).view(len(tokens_PT), -1)


def spread_loss(router_logits: Sequence[Tensor], num_pages: int, experts_per_token: int) -> Tensor:
    """Loss of a mixture whose tokens crowd on few experts: 1 where every expert has an equal part.

    `router_logits`: one [tokens, E] for each layer. Taken page by page, unlike the loss of
    `transformers`, so that the cut of a batch into passes changes nothing.
    Source: Switch Transformers (arXiv 2101.03961), equations 4 to 6; by sequence as in
    DeepSeek-V3 (arXiv 2412.19437), section 2.1.2.
    """
    layers = []
    for logits in router_logits:
        probabilities_PTE = logits.float().softmax(dim=-1).view(num_pages, -1, logits.shape[-1])
        chosen = probabilities_PTE.topk(experts_per_token, dim=-1).indices
        hits_PTE = torch.zeros_like(probabilities_PTE).scatter_(-1, chosen, 1.0)
        shares_PE = hits_PTE.mean(dim=1) / experts_per_token
        layers.append((shares_PE * probabilities_PTE.mean(dim=1)).sum(dim=-1) * logits.shape[-1])
    return torch.stack(layers).mean()


class _ChunkedLoss(torch.autograd.Function):
    """Mean cross-entropy of `hidden @ head.T`, or the sum by the tokens' shares; the forward pass
    computes the gradients too.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        head_VH: Tensor,
        targets_N: Tensor,
        chunk_logits: int,
        shares_N: Tensor | None,
    ) -> Tensor:
        total, count = torch.zeros((), device=hidden_NH.device), len(targets_N)
        needs_hidden, needs_head = ctx.needs_input_grad[:2]  # a frozen one has no gradient
        grad_hidden = torch.empty_like(hidden_NH) if needs_hidden else None
        grad_head = torch.zeros_like(head_VH, dtype=torch.float32) if needs_head else None
        # Autocast would choose the dtypes anew; the caller has chosen.
        with torch.autocast(hidden_NH.device.type, enabled=False):
            for rows in _chunks(count, len(head_VH), chunk_logits):
                targets_n = targets_N[rows, None]
                logits = functional.linear(hidden_NH[rows], head_VH).float()
                logs_n = logits.logsumexp(dim=1, keepdim=True)
                losses_n = logs_n - logits.gather(1, targets_n)
                shares_n = None if shares_N is None else shares_N[rows, None]
                total += (losses_n if shares_n is None else losses_n * shares_n).sum()
                # Softmax less the target, in the memory of the logits.
                slopes = logits.sub_(logs_n).exp_()
                slopes.scatter_add_(1, targets_n, slopes.new_full(targets_n.shape, -1.0))
                scaled = slopes.div_(count) if shares_n is None else slopes.mul_(shares_n)
                slopes = scaled.to(hidden_NH.dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] = slopes @ head_VH
                if grad_head is not None:
                    grad_head += slopes.T @ hidden_NH[rows]
        ctx.save_for_backward(
            grad_hidden, None if grad_head is None else grad_head.to(head_VH.dtype)
        )
        return total / count if shares_N is None else total

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, head = (made if made is None else made * slope for made in ctx.saved_tensors)
        return hidden, head, None, None, None


def _chunks(num_tokens: int, num_words: int, chunk_logits: int) -> list[slice]:
    rows = max(1, chunk_logits // num_words)
    return [slice(first, first + rows) for first in range(0, num_tokens, rows)]
