"""Losses of a window's pool: at theta, and at theta less one payload's step at a time.

Each step is the step of the outer update at `step_share` of its length. theta is restored bit
for bit after each payload, so the order of payloads changes no loss.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from evaluation.judge import Measured
from evaluation.verdict_log import MIN_HELD_OUT
from evaluation.work import HELD_OUT
from template.data.assignment import Paging
from template.data.manifest import Manifest
from template.data.pages import PageReader
from template.errors import ConfigError, Unavailable
from template.protocol.payload import Payload
from template.protocol.spec import RunSpec
from template.scoring.pool import Pool
from template.training.energy import Norms
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


class Measurer:
    """Holds the evaluation model. Not thread-safe."""

    def __init__(self, spec: RunSpec, device: str, pages: PageReader) -> None:
        self._pages = pages
        self._scorer = Scorer(spec, device)
        self.curve = pages.held_out_pages(curve_ids(pages.manifest, spec.evaluation.curve_pages))
        """Fixed pages for the loss curve, int64 [curve_pages, page_tokens]."""

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

    def measure_pool(
        self,
        state: OuterState,
        pool: Pool,
        steps: Mapping[int, Step],
        is_late: Callable[[], bool] = lambda: False,
        step_start: OuterState | None = None,
    ) -> Measured:
        """Losses at theta and after each uid's step, nats per token; `steps` in order.

        `step_start`: the state before the last outer step, for losses half-way through that step.
        `is_late` is asked before each step; the remaining payloads stay unmeasured once true.
        """
        pages = self._pages.pages(pool.ids_S)
        half_way_H = None
        if step_start is not None and not is_late():
            half_way_H = self.measure_half_way(step_start, state, pool)
        self._scorer.load(state.params)
        before_S, after_S = self._scorer.losses(pages), {}
        for uid, step in steps.items():
            if is_late():
                break
            with self._scorer.stepped(step.payload.tensors, step.coefficients):
                after_S[uid] = self._scorer.losses(pages)
        return Measured(
            owners_S=pool.owners_S, before_S=before_S, after_S=after_S, half_way_H=half_way_H
        )

    def measure_half_way(self, start: OuterState, end: OuterState, pool: Pool) -> np.ndarray:
        """Losses half-way between two states on the pool's held-out pages, float64 [H]."""
        self._scorer.load_half_way(start.params, end.params)
        return self._scorer.losses(self._pages.pages(pool.ids_S[pool.owners_S == HELD_OUT]))

    def measure_curve(self, state: OuterState) -> float:
        """Mean loss on the pages of the loss curve, nats per token."""
        self._scorer.load(state.params)
        return float(self._scorer.losses(self.curve).mean())


def curve_ids(manifest: Manifest, count: int) -> np.ndarray:
    """Ids of `count` held-out pages: the pages of segments spread evenly over all, int64 [count].

    Raises ConfigError if the dataset holds out fewer.
    """
    if count > manifest.num_held_out_pages:
        raise ConfigError(
            f"run spec: evaluation.curve_pages is {count}, the dataset holds out "
            f"{manifest.num_held_out_pages}"
        )
    size, held_out = manifest.segment_pages, manifest.held_out.num_segments
    needed = -(-count // size)
    segments = np.arange(needed) * held_out // needed
    return (segments[:, None] * size + np.arange(size)).reshape(-1)[:count]
