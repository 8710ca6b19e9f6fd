"""Loss on answers only: which predicted tokens of a page count, where a run has `data.chat`.

Pure, and the only place that decides: training, scoring, the loss curve, the model card and the
audit all take a mask from here. Without the table there is no mask, and every predicted token
counts.

Legend: P pages, T tokens of a page.
"""

from typing import Final

import torch
from torch import Tensor

from template.protocol.spec import ChatSpec

MIN_COUNTED: Final = 4
"""A page with fewer counted tokens counts as a whole: losses are told by quarters of a page, and a
page has a loss in every case. A change makes other payloads and other verdicts."""


def answer_tokens(tokens_PT: Tensor, chat: ChatSpec) -> Tensor:
    """Whether each predicted token counts, bool [P, T - 1]; tokens 1.. of each page are predicted.

    A token counts if the last `assistant` or `end` token before it in the page is `assistant`, so
    the answer's own `end` counts, and the `assistant` token before an answer does not. All tokens
    of a page with fewer than `MIN_COUNTED` of these count.
    """
    places_T = torch.arange(tokens_PT.shape[1], device=tokens_PT.device)

    def last_place(token: int) -> Tensor:
        """The place of the last such token up to each place, -1 for none."""
        found_PT = torch.where(tokens_PT == token, places_T, -1)
        return found_PT.cummax(dim=1).values

    is_open_PT = last_place(chat.assistant) > last_place(chat.end)
    counted_PT = is_open_PT[:, :-1]
    is_short_P = counted_PT.sum(dim=1, keepdim=True) < MIN_COUNTED
    return counted_PT | is_short_P


def answer_shares(tokens_PT: Tensor, chat: ChatSpec) -> Tensor:
    """Each predicted token's share in the mean loss of the pages, float32 [P, T - 1]; sum 1.

    A page's loss is the mean over its counted tokens, and the loss of pages is the mean over the
    pages: equal passes of a batch then have equal parts in the loss of the batch, however many
    tokens of each count.
    """
    counted_PT = answer_tokens(tokens_PT, chat)
    counts_P = counted_PT.sum(dim=1, keepdim=True)
    return counted_PT / (counts_P * len(tokens_PT))
