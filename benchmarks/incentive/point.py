"""One point of the law: what payloads of so many pages show on a model of one size.

Two miners train from the run's warm start without repeating a page, encode with error feedback, and
are measured as validators measure: a share of the outer step, quarters of pages, own pages beside
pages that nobody trains on. The mean of both payloads is the step to the next window.

Legend: N parameters, P pages, T tokens, H held-out pages.
"""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks.attacks.model import LeanWorkers
from benchmarks.learning.judge import measure
from benchmarks.learning.messages import Message, SparseCodec
from benchmarks.learning.record import append
from benchmarks.learning.strategies.ours import Ours
from benchmarks.learning.text import load_pages
from benchmarks.learning.trial import Trial
from evaluation.gain import paired_gain
from evaluation.work import HELD_OUT

MINERS: Final = 2
WINDOWS: Final = 4
FIRST: Final = 1
"""The first window that counts: error feedback of windows before hides a part of what is new."""
STEPS: Final = 30
"""Inner steps of a payload, as in the shipped plans: more pages are larger batches."""
WARM_PAGES: Final = 8
"""Of a step of the warm start."""
HELD: Final = 256
SHOWN: Final = 256
"""Own pages that are looked at, at most."""
ALPHA: Final = 2.0
"""Of the step that a payload is scored at a share of, and that both payloads are applied by."""
RATES: Final[Mapping[str, float]] = {
    "tiny": 4e-3, "small": 2e-3, "medium": 2e-3, "large": 1e-3, "huge": 5e-4,
}  # fmt: skip
"""Model -> inner learning rate, constant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """`pages`: of a payload, over all its `steps`. `model`: name in `MODELS` of the learning
    suite's workers.
    """

    model: str
    pages: int
    seed: int
    steps: int = STEPS

    def __post_init__(self) -> None:
        if self.pages % self.steps:
            raise ValueError(f"{self.pages} pages in {self.steps} equal steps")

    @property
    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def trial(self) -> Trial:
        return Trial(
            strategy="ours",
            lag=0,
            miners=MINERS,
            model=self.model,
            inner_steps=self.steps,
            batch_pages=WARM_PAGES,
            rounds=WINDOWS,
            seed=self.seed,
            inner_lr=RATES[self.model],
            outer_lr=ALPHA,
            warm_steps=240,
        )


def play(point: Point) -> dict[str, Any]:
    """The line of the record: parameters, and for each counted payload its effect, the variance of
    the effect by chance, and its gain in standard deviations of a page.
    """
    began = time.monotonic()
    workers = LeanWorkers(point.trial)
    ours = Ours(workers)
    codec = SparseCodec(workers.space, point.trial.top_k, point.trial.decay)
    text = load_pages(workers.spec.data.page_tokens).train
    ids = np.random.default_rng((7, point.seed)).permutation(len(text))
    held_PT, ids = text[ids[:HELD]], ids[HELD:]
    params_N = workers.theta0()
    residual_RN = torch.zeros(MINERS, workers.space.num_elements)
    samples = []
    for window in range(WINDOWS):
        messages = []
        for miner in range(MINERS):
            own = _own(ids, point, window, miner)
            end_N = params_N.clone()
            for batch in own.reshape(point.steps, -1):
                workers.step(end_N, miner, text[batch], RATES[point.model])
            messages.append(codec.send(params_N - end_N, residual_RN[miner], 1))
            shown = own[:: max(1, len(own) // SHOWN)][:SHOWN]
            if window >= FIRST:
                beside = messages[-1:]
                samples.append(_measured(workers, ours, params_N, held_PT, text[shown], beside))
        params_N = ours.merge(params_N, messages, ALPHA)
    return {
        "key": point.key,
        "point": asdict(point),
        "parameters": workers.space.num_elements,
        "samples": samples,
        "loss": workers.held_out_loss(params_N, HELD),
        "seconds": round(time.monotonic() - began, 1),
    }


def record_point(point: Point, record: Path) -> str:
    """Play one point and append it; what the pool's processes do."""
    torch.set_num_threads(1)
    row = play(point)
    append(record, row)
    mean = math.fsum(sample["effect"] for sample in row["samples"]) / len(row["samples"])
    return f"{point.model}, {point.pages} pages, seed {point.seed}: effect {mean:.3f}"


def _own(ids: np.ndarray, point: Point, window: int, miner: int) -> np.ndarray:
    """A payload's pages, int64 [P]: none twice in a window, and none that is held out."""
    rng = np.random.default_rng((8, point.seed, window))
    drawn = rng.permutation(ids)[miner * point.pages : (miner + 1) * point.pages]
    if len(drawn) < point.pages:
        raise ValueError(f"{point.pages} pages of {MINERS} miners are more than the text has")
    return drawn


def _measured(
    workers: LeanWorkers,
    ours: Ours,
    params_N: torch.Tensor,
    held_HT: np.ndarray,
    own_PT: np.ndarray,
    messages: list[Message],
) -> dict[str, float]:
    share = workers.spec.evaluation.step_share
    (message,) = messages
    step_N = ours.scored(message, messages, ALPHA, share)
    pages_ST = np.concatenate([held_HT, own_PT])
    owners_S = np.array([HELD_OUT] * len(held_HT) + [0] * len(own_PT))
    measured = measure(workers, params_N, pages_ST, owners_S, {0: step_N})
    work = measured.work_of(0)
    if work is None:
        raise ValueError("a payload whose step gives no finite loss")
    gain = paired_gain(measured.held_out_H, measured.held_out_after_H(0))
    deviation = gain.standard_error * math.sqrt(len(held_HT))
    return {
        "effect": work.effect,
        "variance": work.variance,
        "gain": gain.mean,
        "gain_effect": gain.mean / deviation if deviation else 0.0,
    }
