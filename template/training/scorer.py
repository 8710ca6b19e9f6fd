"""Forward passes for measuring payloads: losses per sequence at theta, and at theta minus a
payload's step. Values changed by a payload are saved first and written back afterwards, since
theta - d + d differs from theta in float32.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from compression import SparseTensor
from template.protocol.spec import RunSpec
from template.training.model import Params, build_model, copy_params, load_params


class Scorer:
    """A model for evaluation. Not thread-safe."""

    def __init__(self, spec: RunSpec, device: str, batch_pages: int = 64) -> None:
        model: torch.nn.Module = build_model(spec)
        self._model = model.to(device).eval()
        self._named = dict(self._model.named_parameters())
        self._device = device
        self._batch_pages = batch_pages

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
            self._batch_losses(torch.from_numpy(pages[i : i + self._batch_pages]))
            for i in range(0, len(pages), self._batch_pages)
        ]
        return np.concatenate(parts) if parts else np.empty(0)

    def _batch_losses(self, tokens: Tensor) -> np.ndarray:
        tokens = tokens.to(self._device)
        logits = self._model(input_ids=tokens).logits[:, :-1].float()
        losses = functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        return losses.to(torch.float64).mean(dim=1).cpu().numpy()

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
