"""Losses of pages at a theta, and at theta less a payload's step: on one device or on many.

Imports no model: `template.training.scorer` and `template.ranks` have the devices.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final, Protocol

import numpy as np
from torch import Tensor

from template.protocol.payload import Payload
from template.protocol.spec.model import ModelSpec
from template.protocol.spec.training import ChatSpec
from template.training.losses import CHUNK_LOGITS, CHUNKED_VOCAB

MAX_BATCH_PAGES: Final = 64
MAX_BATCH_TOKENS: Final = 2**14
"""Limits on one forward pass where a device's memory is unknown: 8 pages of 2,048 tokens, and no
more than 64 short ones."""
MAX_FILLED_TOKENS: Final = 2**17
"""Limit on a forward pass that fills a device: more tokens make no pass faster."""
FILLED_SHARE: Final = 0.5
"""Of a device's free memory, for the values of a forward pass: their number is an estimate."""

FLOAT_BYTES: Final = 4
FORWARD_VALUES: Final = 4
"""Values of an MLP's width alive at once in a forward pass without gradients."""
LOGIT_COPIES: Final = 3
"""A chunk's logits, their float32 copy and gradient."""
WHOLE_LOGIT_BYTES: Final = 12
"""For each word of the vocabulary and token, where the loss does not go in chunks."""


class Evaluator(Protocol):
    """A model for evaluation, on one device or on many. One thing at a time.

    A page's loss depends on the pages of its pass, and on the rank that computes the pass, by
    rounding alone: by less than the audit's `evaluation.loss_tolerance`.
    """

    batch_pages: int
    """Pages of one pass, of all devices together."""

    def load(self, params: Mapping[str, Tensor]) -> None:
        """Take these parameters."""

    def load_half_way(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
        """The parameters in the middle between two; no second copy is made of them."""

    def losses(self, pages: np.ndarray, chat: ChatSpec | None = None) -> np.ndarray:
        """Mean loss of each sequence, nats per predicted token; float64 [num_pages].

        `pages` is int64 [num_pages, page_tokens]; tokens 1.. of each page are predicted. `chat`:
        the spec's `data.chat`; the mean is then over the tokens that count by `answer_tokens`.
        """

    def part_losses(
        self, pages: np.ndarray, parts: int, chat: ChatSpec | None = None
    ) -> np.ndarray:
        """Mean losses of so many equal parts of each sequence; float64 [num_pages, parts].

        With `chat` the parts are of the tokens that count, in order, and there are at most
        `answers.MIN_COUNTED`.
        """

    def stepped_by(
        self, payload: Payload, factors: Mapping[str, float]
    ) -> AbstractContextManager[None]:
        """Within the block the model is theta - sum of factor * payload.

        The exact theta is restored at the end of the block, after an exception too. KeyError,
        before any change, for a tensor without a factor.
        """


def usual_batch_pages(page_tokens: int) -> int:
    """Pages of one pass, where a device's memory is unknown."""
    return min(MAX_BATCH_PAGES, max(1, MAX_BATCH_TOKENS // page_tokens))


def filling_batch_pages(model: ModelSpec, page_tokens: int, free_bytes: float) -> int:
    """Pages of one pass that fill a device with so much free memory; at least 1."""
    most = max(1, MAX_FILLED_TOKENS // page_tokens)
    room_bytes = FILLED_SHARE * free_bytes
    pages = 1
    while pages < most and forward_bytes(model, (pages + 1) * page_tokens) <= room_bytes:
        pages += 1
    return pages


def forward_bytes(model: ModelSpec, tokens: int) -> int:
    """Bytes of a forward pass without gradients over so many tokens, beside the parameters."""
    inner = model.intermediate_size
    if model.is_mixture:
        inner = max(inner, model.num_experts_per_tok * model.moe_intermediate_size)
    width = 2 * model.hidden_size + FORWARD_VALUES * inner
    return FLOAT_BYTES * tokens * width + logits_bytes(model, tokens)


def logits_bytes(model: ModelSpec, tokens: int) -> int:
    """Logits and what belongs to them, for a pass of so many tokens."""
    if model.vocab_size < CHUNKED_VOCAB:
        return WHOLE_LOGIT_BYTES * model.vocab_size * tokens
    return LOGIT_COPIES * FLOAT_BYTES * min(CHUNK_LOGITS, model.vocab_size * tokens)
