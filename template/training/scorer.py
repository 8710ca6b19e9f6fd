"""Forward passes for measuring payloads: losses per sequence at theta, and at theta minus a
payload's step. Values changed by a payload are saved first and written back afterwards, since
theta - d + d differs from theta in float32. Float32 throughout: in bf16, losses differ by 400 times
the tolerance of the audit.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from compression import SparseTensor
from template.errors import ConfigError
from template.protocol.payload import Payload
from template.protocol.spec import ChatSpec, RunSpec
from template.training.answers import answer_tokens
from template.training.devices import free_bytes
from template.training.evaluator import filling_batch_pages, usual_batch_pages
from template.training.losses import CHUNKED_VOCAB, token_losses
from template.training.model import Params, build_model, copy_params, load_params


class Scorer:
    """A model for evaluation on one device: an `Evaluator`. Not thread-safe."""

    def __init__(self, spec: RunSpec, device: str, batch_pages: int | None = None) -> None:
        """`batch_pages`: pages of one pass; None: see `pages_of_pass`."""
        self._model = build_model(spec).to(device).eval()
        self._named = dict(self._model.named_parameters())
        self._device = device
        self.batch_pages = batch_pages or pages_of_pass(spec, torch.device(device))
        """Pages of one pass."""
        self._is_chunked = spec.model.vocab_size >= CHUNKED_VOCAB

    def load(self, params: Mapping[str, Tensor]) -> None:
        """As in `Evaluator`."""
        load_params(self._model, params)

    def load_half_way(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
        """As in `Evaluator`."""
        load_params(self._model, first)
        for name, parameter in self._named.items():
            parameter.data.lerp_(second[name].to(parameter.device), 0.5)

    def params(self) -> Params:
        """A copy of the loaded parameters, for checks of bit-exact restoring."""
        return copy_params(self._model)

    def losses(self, pages: np.ndarray, chat: ChatSpec | None = None) -> np.ndarray:
        """As in `Evaluator`."""
        return self.part_losses(pages, 1, chat)[:, 0]

    @torch.no_grad()
    def part_losses(
        self, pages: np.ndarray, parts: int, chat: ChatSpec | None = None
    ) -> np.ndarray:
        """As in `Evaluator`."""
        found = [
            self._batch_losses(torch.from_numpy(pages[i : i + self.batch_pages]), parts, chat)
            for i in range(0, len(pages), self.batch_pages)
        ]
        return np.concatenate(found) if found else np.empty((0, parts))

    def _batch_losses(self, tokens: Tensor, parts: int, chat: ChatSpec | None) -> np.ndarray:
        counted = None if chat is None else answer_tokens(tokens, chat)
        try:
            losses = losses_of_tokens(self._model, tokens.to(self._device), self._is_chunked)
            return means_of_parts(losses, parts, counted)
        except torch.OutOfMemoryError as error:
            raise ConfigError(too_small(len(tokens))) from error

    def stepped_by(
        self, payload: Payload, factors: Mapping[str, float]
    ) -> AbstractContextManager[None]:
        """As in `Evaluator`."""
        return self.stepped(payload.tensors, factors)

    @contextmanager
    def stepped(
        self, tensors: Mapping[str, SparseTensor], factors: Mapping[str, float]
    ) -> Iterator[None]:
        """Within the block the model is theta - sum of factor * payload.

        The exact theta is restored at the end of the block, after an exception too.
        """
        saved: dict[str, Moved] = {}
        try:
            for name, sparse in tensors.items():
                data, factor = self._named[name].data, factors[name]
                saved[name] = move(data, sparse, factor)
            yield
        finally:
            for name, moved in saved.items():
                move_back(self._named[name].data, moved)


Moved = tuple[Tensor, Tensor]
"""Places of a tensor laid flat, and the values before."""


def move(target: Tensor, sparse: SparseTensor, factor: float) -> Moved:
    """target -= factor * sparse, in place; what `move_back` needs."""
    where = sparse.indices.to(target.device)
    before = target.view(-1)[where].clone()
    sparse.add_to(target, coefficient=-factor)
    return where, before


def move_back(target: Tensor, moved: Moved) -> None:
    """Undo `move`, to the last bit."""
    where, before = moved
    target.view(-1)[where] = before


def losses_of_tokens(model: PreTrainedModel, tokens: Tensor, is_chunked: bool) -> Tensor:
    """Loss of each predicted token, float32 [pages, page_tokens - 1]."""
    if is_chunked:
        hidden = model.model(input_ids=tokens).last_hidden_state
        return token_losses(hidden, model.lm_head.weight, tokens)
    logits = model(input_ids=tokens).logits[:, :-1].float()
    return functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")


def means_of_parts(losses: Tensor, parts: int, counted: Tensor | None = None) -> np.ndarray:
    """The mean of each of so many equal parts of each page, float64 [pages, parts].

    `losses`: [pages, predicted tokens]; a part has a token at least. `counted`: the mask of
    `answer_tokens` on the CPU; the parts are then equal parts of a page's counted tokens in order,
    and are at most as many as the page has counted tokens.
    """
    # On the CPU, since not every device knows float64.
    exact = losses.cpu().to(torch.float64)
    if counted is not None:
        return _means_of_counted(exact, parts, counted).numpy()
    edges = [exact.shape[1] * part // parts for part in range(parts + 1)]
    means = [exact[:, first:end].mean(dim=1) for first, end in pairwise(edges)]
    return torch.stack(means, dim=1).numpy()


def _means_of_counted(losses_PT: Tensor, parts: int, counted_PT: Tensor) -> Tensor:
    counts_P = counted_PT.sum(dim=1, keepdim=True)
    # The number of counted tokens before each token.
    ranks_PT = counted_PT.cumsum(dim=1) - 1
    edges = [counts_P * part // parts for part in range(parts + 1)]
    means = []
    for first_P, end_P in pairwise(edges):
        is_in_PT = counted_PT & (ranks_PT >= first_P) & (ranks_PT < end_P)
        # A choice and no product: a loss without a number may lie beside the answers.
        sums_P = torch.where(is_in_PT, losses_PT, 0.0).sum(dim=1)
        means.append(sums_P / (end_P - first_P)[:, 0])
    return torch.stack(means, dim=1)


def pages_of_pass(spec: RunSpec, device: torch.device, reserved_bytes: float = 0.0) -> int:
    """Pages of one pass on a device: what fills its free memory without `reserved_bytes`, where
    torch tells; otherwise a number that follows from the spec alone.
    """
    free = free_bytes(device)
    if free is None:
        return usual_batch_pages(spec.data.page_tokens)
    return filling_batch_pages(spec.model, spec.data.page_tokens, free - reserved_bytes)


def too_small(pages: int) -> str:
    """What an operator reads when a pass does not fit."""
    return (
        f"--neuron.scoring_batch: a device's memory does not bear a pass of {pages} pages; name a "
        "smaller number, or take more or larger devices"
    )
