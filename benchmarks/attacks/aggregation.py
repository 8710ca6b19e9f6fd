"""Rules of the outer step to compare ours with. They merge payloads as vectors, with no clip.

A payload keeps one value in 64, and honest ones share few places. So a median over all R
payloads is nearly always the zero of those who did not send a coordinate, and a mean trimmed at
both ends nearly so. Over a coordinate's senders it is a median of one, two or three values, which
a lone sender decides. Both readings of the median are here.

Legend: R payloads, N parameters.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.learning.messages import Message
from benchmarks.learning.strategies.mean import Mean
from benchmarks.learning.strategies.ours import Ours
from benchmarks.learning.strategies.senders import Senders
from benchmarks.learning.strategy import LocalUpdate
from benchmarks.learning.workers import Workers

WEISZFELD_STEPS = 8
TRIMMED_SHARE = 0.25
"""Cut at either end: the attackers' share, as if it were known."""

Combine = Callable[[Tensor, Tensor], Tensor]
"""Payloads [R, N], and where each has a value, bool [R, N] -> the step over alpha [N]."""


class Combined(LocalUpdate):
    """theta - alpha * a function of all payloads."""

    def __init__(self, workers: Workers, combine: Combine) -> None:
        super().__init__(workers)
        self._combine = combine

    def merge(self, params_N: Tensor, messages: Sequence[Message], alpha: float) -> Tensor:
        rows_RN = torch.stack([message.dense for message in messages])
        sent_RN = torch.zeros_like(rows_RN, dtype=torch.bool)
        for row_N, message in zip(sent_RN, messages, strict=True):
            for name, view in self.workers.space.views(row_N).items():
                view.view(-1)[message.tensors[name].indices] = True
        return params_N - alpha * self._combine(rows_RN, sent_RN)


def median_of_all(rows_RN: Tensor, sent_RN: Tensor) -> Tensor:
    """Of every coordinate over all payloads, 0 where one has no value; of two middle ones the mean
    (arXiv 1803.01498).
    """
    return trimmed_mean(rows_RN, (len(rows_RN) - 1) // 2)


def median_of_senders(rows_RN: Tensor, sent_RN: Tensor) -> Tensor:
    """Of every coordinate over those who sent it, 0 where nobody did."""
    found_N, senders_N = torch.zeros_like(rows_RN[0]), sent_RN.sum(dim=0)
    last_RN = torch.where(sent_RN, rows_RN, math.inf).sort(dim=0).values
    for count in range(1, len(rows_RN) + 1):
        where_N = senders_N == count
        found_N[where_N] = trimmed_mean(last_RN[:count, where_N], (count - 1) // 2)
    return found_N


def trimmed_of_all(rows_RN: Tensor, sent_RN: Tensor) -> Tensor:
    """The mean over all payloads less the largest and the smallest values of every coordinate
    (arXiv 1803.01498).
    """
    return trimmed_mean(rows_RN, math.ceil(TRIMMED_SHARE * len(rows_RN)))


def trimmed_mean(rows_RN: Tensor, cut: int) -> Tensor:
    """The mean of every coordinate without its `cut` largest and smallest values."""
    ordered_RN = rows_RN.sort(dim=0).values
    return ordered_RN[cut : len(rows_RN) - cut].mean(dim=0)


def geometric_median(rows_RN: Tensor, sent_RN: Tensor) -> Tensor:
    """The vector with the least sum of distances to all payloads, nearly: a few Weiszfeld steps
    from the mean, in doubles (arXiv 1912.13445).
    """
    points_RN = rows_RN.double()
    centre_N = points_RN.mean(dim=0)
    for _ in range(WEISZFELD_STEPS):
        distances_R = (points_RN - centre_N).norm(dim=1).clamp(min=1e-12)
        centre_N = (points_RN / distances_R[:, None]).sum(dim=0) / (1 / distances_R).sum()
    return centre_N.to(rows_RN.dtype)


class OursWith(Ours):
    """Ours with another cap (1: none), and the last `together` payloads of one coldkey."""

    def __init__(self, workers: Workers, share: float, together: int = 0) -> None:
        super().__init__(workers)
        self.outer = replace(self.outer, max_energy_share=share)
        self._together = together

    def coldkeys(self, messages: Sequence[Message]) -> list[bytes]:
        own = super().coldkeys(messages)
        alone = max(0, len(own) - self._together)
        return own[:alone] + [b"together"] * (len(own) - alone)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """`alphas`: outer rates to choose from; those of rules that do not divide by R are an Rth."""

    make: Callable[[Workers], LocalUpdate]
    alphas: tuple[float, ...] = (4.0, 8.0)


SENDERS_ALPHAS = (1.0, 2.0)
RULES: Mapping[str, Rule] = {
    "ours": Rule(make=Ours),
    "mean": Rule(make=Mean),
    "mean over senders": Rule(make=Senders, alphas=SENDERS_ALPHAS),
    "median": Rule(make=partial(Combined, combine=median_of_all)),
    "median over senders": Rule(
        make=partial(Combined, combine=median_of_senders), alphas=SENDERS_ALPHAS
    ),
    "trimmed mean": Rule(make=partial(Combined, combine=trimmed_of_all)),
    "geometric median": Rule(make=partial(Combined, combine=geometric_median)),
}
