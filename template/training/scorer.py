"""Forward passes for measuring payloads: losses per sequence at theta, and at theta minus a
payload's step. Values changed by a payload are saved first and written back afterwards, since
theta - d + d differs from theta in float32. Float32 throughout: in bf16, losses differ by 400 times
the tolerance of the audit.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from compression import SparseTensor
from template.protocol.spec import RunSpec
from template.training.losses import CHUNKED_VOCAB, token_losses
from template.training.model import Params, build_model, copy_params, load_params

MAX_BATCH_PAGES = 64
MAX_BATCH_TOKENS = 2**14
"""Limits on one forward pass: 8 pages of 2,048 tokens, and no more than 64 short ones."""


class Scorer:
    """A model for evaluation. Not thread-safe."""

    def __init__(self, spec: RunSpec, device: str, batch_pages: int | None = None) -> None:
        """`batch_pages`: pages of one pass; None follows from the spec alone."""
        self._model = build_model(spec).to(device).eval()
        self._named = dict(self._model.named_parameters())
        self._device = device
        self.batch_pages = batch_pages or min(
            MAX_BATCH_PAGES, max(1, MAX_BATCH_TOKENS // spec.data.page_tokens)
        )
        """Pages of one pass."""
        self._is_chunked = spec.model.vocab_size >= CHUNKED_VOCAB

    def load(self, params: Mapping[str, Tensor]) -> None:
        load_params(self._model, params)

    def load_half_way(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
        """The parameters in the middle between two; no second copy is made of them."""
        load_params(self._model, first)
        for name, parameter in self._named.items():
            parameter.data.lerp_(second[name].to(parameter.device), 0.5)

    def params(self) -> Params:
        """A copy of the loaded parameters, for checks of bit-exact restoring."""
        return copy_params(self._model)

    @torch.no_grad()
    def losses(self, pages: np.ndarray) -> np.ndarray:
        """Mean loss of each sequence, nats per predicted token; float64 [num_pages].

        `pages` is int64 [num_pages, page_tokens]; tokens 1.. of each page are predicted.
        """
        parts = [
            self._batch_losses(torch.from_numpy(pages[i : i + self.batch_pages]))
            for i in range(0, len(pages), self.batch_pages)
        ]
        return np.concatenate(parts) if parts else np.empty(0)

    def _batch_losses(self, tokens: Tensor) -> np.ndarray:
        tokens = tokens.to(self._device)
        if self._is_chunked:
            hidden = self._model.model(input_ids=tokens).last_hidden_state
            losses = token_losses(hidden, self._model.lm_head.weight, tokens)
        else:
            logits = self._model(input_ids=tokens).logits[:, :-1].float()
            losses = functional.cross_entropy(
                logits.transpose(1, 2), tokens[:, 1:], reduction="none"
            )
        # On the CPU, since not every device knows float64.
        return losses.cpu().to(torch.float64).mean(dim=1).numpy()

    @contextmanager
    def stepped(
        self, tensors: Mapping[str, SparseTensor], factors: Mapping[str, float]
    ) -> Iterator[None]:
        """Within the block the model is theta - sum of factor * payload.

        The exact theta is restored at the end of the block, after an exception too.
        """
        saved: dict[str, tuple[Tensor, Tensor]] = {}
        try:
            for name, sparse in tensors.items():
                data = self._named[name].data
                where = sparse.indices.to(data.device)
                saved[name] = (where, data.view(-1)[where].clone())
                sparse.add_to(data, coefficient=-factors[name])
            yield
        finally:
            for name, (where, values) in saved.items():
                self._named[name].data.view(-1)[where] = values
