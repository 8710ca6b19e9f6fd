"""Losses of a window's pool by quarters of a page: at theta, and at theta less one payload's step.

Each step is the step of the outer update at `step_share` of its length, clipped as there but before
the caps of length and energy, which compare payloads. A step is measured on the held-out pages and
on the payload's own claims. theta is restored bit for bit after each payload, and every batch of
pages is a pass of its own, so neither the order nor the time of the passes changes a loss: a batch
measured ahead counts as if measured at the end.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol

import numpy as np

from evaluation.judge import Measured
from evaluation.verdict_log import MIN_HELD_OUT
from evaluation.work import HELD_OUT, QUARTERS, shown_to
from template.context import ReadContext
from template.data.assignment import Paging
from template.data.manifest import Manifest
from template.data.pages import PageReader
from template.errors import Unavailable
from template.protocol.payload import Payload
from template.protocol.run import Run
from template.protocol.spec import ChatSpec, RunSpec
from template.scoring.pool import Pool
from template.training.energy import Norms
from template.training.evaluator import Evaluator
from template.training.outer import OuterState, scored_coefficients
from template.training.scorer import Scorer


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A payload, and the coefficient of each tensor by name."""

    payload: Payload
    coefficients: Mapping[str, float]


def scored_step(payload: Payload, references: Norms, state: OuterState, spec: RunSpec) -> Step:
    """The step at which a payload is scored; `references`: the clip reference of each tensor."""
    coefficients = scored_coefficients(
        state.alpha(spec.outer),
        payload.header.staleness,
        payload.norms,
        references,
        spec.outer,
        spec.evaluation.step_share,
    )
    return Step(payload=payload, coefficients=coefficients)


def open_scorer(context: ReadContext) -> Evaluator:
    """The model for evaluation: on this process' device, or on all ranks."""
    if context.ranks is not None:
        return context.ranks.scorer()
    return Scorer(context.run.first, context.device, context.scoring_batch)


class Measurer:
    """Holds the evaluation model. Not thread-safe."""

    def __init__(self, spec: RunSpec, scorer: Evaluator, pages: PageReader) -> None:
        self._pages, self._scorer, self._chat = pages, scorer, spec.data.chat
        self.curve = pages.held_out_pages(curve_ids(pages.manifest, spec.evaluation.curve_pages))
        """Fixed pages for the loss curve, int64 [curve_pages, page_tokens]."""

    @property
    def pages(self) -> PageReader:
        """The dataset."""
        return self._pages

    @property
    def paging(self) -> Paging:
        """The dataset's pages for training."""
        return self._pages.paging

    def leave_out_missing(self, pool: Pool) -> Pool:
        """The pool without the pages of shards that no bucket has now.

        A page that cannot be had is left out, with all pages of its shard: one lost shard must not
        stop all scoring. Unavailable if fewer than `MIN_HELD_OUT` held-out pages remain.
        """
        missing = self._pages.find_missing_shards(pool.ids_S)
        if not missing:
            return pool
        kept = pool.select(~np.isin(self._pages.shards_of(pool.ids_S), sorted(missing)))
        if int((kept.owners_S == HELD_OUT).sum()) < MIN_HELD_OUT:
            raise Unavailable(f"no bucket has shards {sorted(missing)} of the dataset")
        return kept

    def shards_of(self, ids_S: np.ndarray) -> np.ndarray:
        """The number of each page's shard, int64 [S]."""
        return self._pages.shards_of(ids_S)

    def begin(self, state: OuterState, step_start: OuterState | None = None) -> "Measurement":
        """Measure a window, at the theta of `state`. Until its end nothing else may be measured.

        `step_start`: the state before the last outer step, for losses half-way through that step.
        """
        return Measurement(self._scorer, self._pages, state, step_start, self._chat)

    def measure_pool(
        self,
        state: OuterState,
        pool: Pool,
        steps: Mapping[int, Step],
        is_late: Callable[[], bool] = lambda: False,
        step_start: OuterState | None = None,
    ) -> Measured:
        """As `Measurement.finish`, with nothing measured before."""
        return self.begin(state, step_start).finish(pool, steps, is_late)

    def measure_half_way(self, start: OuterState, end: OuterState, pool: Pool) -> np.ndarray:
        """Losses half-way between two states on the pool's held-out pages, float64 [H]."""
        return self.begin(end, start).half_way(pool)

    def measure_curve(self, state: OuterState) -> float:
        """Mean loss on the pages of the loss curve, nats per token that counts."""
        self._scorer.load(state.params)
        return float(self._scorer.losses(self.curve, self._chat).mean())


class Measurers:
    """The measurer of each dataset of a run, each way to count its tokens and each length of the
    loss curve, with one model for evaluation.
    """

    def __init__(self, run: Run, scorer: Evaluator, datasets: "OpenDatasets") -> None:
        self._run, self._scorer, self._datasets = run, scorer, datasets
        self._made: dict[tuple[str, ChatSpec | None, int], Measurer] = {}

    def at(self, window: int) -> Measurer:
        """The measurer for a window's pages."""
        spec = self._run.at(window)
        key = (spec.data.manifest_digest, spec.data.chat, spec.evaluation.curve_pages)
        if key not in self._made:
            self._made[key] = Measurer(spec, self._scorer, self._datasets.at(window))
        return self._made[key]


class OpenDatasets(Protocol):
    """The datasets of a run, as `template.sync.dataset.Datasets`."""

    def at(self, window: int) -> PageReader:
        """The dataset of a window."""


THETA: Final = -1
HALF_WAY: Final = -2
"""Beside uids: whose losses a batch has."""


def batch_rows(pool: Pool, batch_pages: int) -> list[slice]:
    """The pool's rows of each pass.

    Pages of two owners share no pass: held-out pages are known before any payload, and each
    payload's claims with that payload.
    """
    if pool.owners_S.size == 0:
        return []
    starts = [0, *(np.flatnonzero(np.diff(pool.owners_S)) + 1).tolist(), pool.owners_S.size]
    edges = [
        *(first for start, end in pairwise(starts) for first in range(start, end, batch_pages)),
        pool.owners_S.size,
    ]
    return [slice(first, end) for first, end in pairwise(edges)]


def shown_pool(pool: Pool, whose: int) -> Pool:
    """The part of the pool that is measured for a uid, `THETA` (all of it) or `HALF_WAY`."""
    if whose == THETA:
        return pool
    # No claim has the owner HALF_WAY.
    return pool.select(shown_to(pool.owners_S, whose))


class Measurement:
    """The losses of one window at one theta, batch by batch, and none of them twice.

    `work` measures ahead whatever is known already; `finish` measures the rest. A `work` under way
    has to be ended or closed before another begins.
    """

    def __init__(
        self,
        scorer: Evaluator,
        pages: PageReader,
        state: OuterState,
        step_start: OuterState | None,
        chat: ChatSpec | None,
    ) -> None:
        """`chat`: the spec's `data.chat`."""
        self._scorer, self._pages, self._chat = scorer, pages, chat
        self._state, self._step_start = state, step_start
        self._loaded: int | None = None
        self._losses: dict[tuple[int, bytes], np.ndarray] = {}
        """Whose step and which pages -> losses of a batch."""

    @property
    def has_half_way(self) -> bool:
        """Whether the step that led here is known."""
        return self._step_start is not None

    @property
    def batch_pages(self) -> int:
        """Pages of one pass, at most."""
        return self._scorer.batch_pages

    def batches(self, pool: Pool) -> list[np.ndarray]:
        """Ids of the pages of each pass."""
        return [pool.ids_S[rows] for rows in batch_rows(pool, self._scorer.batch_pages)]

    def lacks(self, pool: Pool, whose: int) -> bool:
        """Whether a batch that the pool has for a uid, `THETA` or `HALF_WAY` is not measured."""
        batches = self.batches(shown_pool(pool, whose))
        return any((whose, ids.tobytes()) not in self._losses for ids in batches)

    def work(self, pool: Pool, whose: int, step: Step | None = None) -> Generator[None]:
        """Measure the missing batches of the pool's part for this one, one before each `yield`."""
        shown = shown_pool(pool, whose)
        yield from self._work(shown, self._pages.pages(shown.ids_S), whose, step)

    def finish(
        self, pool: Pool, steps: Mapping[int, Step], is_late: Callable[[], bool] = lambda: False
    ) -> Measured:
        """Losses at theta and after each uid's step, nats per token; `steps` in order.

        `is_late` is asked before each step; the remaining payloads stay unmeasured once true.
        """
        pages = self._pages.pages(pool.ids_S)
        half_way_H = None
        if self._step_start is not None and not is_late():
            half_way_H = self.half_way(pool)
        before_SQ, after_KQ = self._all(pool, pages, THETA), {}
        for uid, step in steps.items():
            if is_late():
                break
            shown_S = shown_to(pool.owners_S, uid)
            after_KQ[uid] = self._all(pool.select(shown_S), pages[shown_S], uid, step)
        return Measured(
            owners_S=pool.owners_S, before_SQ=before_SQ, after_KQ=after_KQ, half_way_H=half_way_H
        )

    def half_way(self, pool: Pool) -> np.ndarray:
        """Losses half-way through the last outer step, on the held-out pages, float64 [H]."""
        held_out = pool.select(pool.owners_S == HELD_OUT)
        return self._all(held_out, self._pages.pages(held_out.ids_S), HALF_WAY).mean(axis=1)

    def _all(
        self, pool: Pool, pages: np.ndarray, whose: int, step: Step | None = None
    ) -> np.ndarray:
        for _ in self._work(pool, pages, whose, step):
            pass
        parts = [self._losses[whose, ids.tobytes()] for ids in self.batches(pool)]
        return np.concatenate(parts) if parts else np.empty((0, QUARTERS))

    def _work(
        self, pool: Pool, pages: np.ndarray, whose: int, step: Step | None
    ) -> Generator[None]:
        missing = [
            rows
            for rows in batch_rows(pool, self._scorer.batch_pages)
            if (whose, pool.ids_S[rows].tobytes()) not in self._losses
        ]
        if not missing:
            return
        self._load(HALF_WAY if whose == HALF_WAY else THETA)
        with self._stepped(step):
            for rows in missing:
                losses = self._scorer.part_losses(pages[rows], QUARTERS, self._chat)
                self._losses[whose, pool.ids_S[rows].tobytes()] = losses
                yield

    def _stepped(self, step: Step | None) -> AbstractContextManager[None]:
        if step is None:
            return nullcontext()
        return self._scorer.stepped_by(step.payload, step.coefficients)

    def _load(self, wanted: int) -> None:
        if self._loaded == wanted:
            return
        self._loaded = None
        if wanted == HALF_WAY:
            assert self._step_start is not None, "half-way through a step that is known"
            self._scorer.load_half_way(self._step_start.params, self._state.params)
        else:
            self._scorer.load(self._state.params)
        self._loaded = wanted


def curve_ids(manifest: Manifest, count: int) -> np.ndarray:
    """Ids of `count` held-out pages: the pages of segments spread evenly over all, int64 [count].

    All held-out pages where the dataset holds out fewer: a curve is for people, and must not end
    the nodes of a run that has adopted such a spec.
    """
    count = min(count, manifest.num_held_out_pages)
    size, held_out = manifest.segment_pages, manifest.held_out.num_segments
    needed = -(-count // size)
    segments = np.arange(needed) * held_out // needed
    return (segments[:, None] * size + np.arange(size)).reshape(-1)[:count]
