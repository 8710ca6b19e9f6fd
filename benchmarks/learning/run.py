"""One trial from theta_0 to its last loss."""

import time
from dataclasses import asdict, dataclass, field

import torch

from benchmarks.learning.averages import Averages
from benchmarks.learning.rules import RULES
from benchmarks.learning.trial import Trial
from benchmarks.learning.workers import CURVE_PAGES, FINAL_PAGES, Workers

CURVE_POINTS = 12
AVERAGES_AT = 4
"""Where the averages are measured within a run: as many points, the last one at its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a trial gave. `curve`: (round, loss on a few held-out pages); losses in nats per
    byte, infinite if the run diverged. `noise_kept`: payloads of noise that were used.
    `averages`: the loss of averages over rounds, by name, on the pages of `held_out_loss`;
    `averages_on_the_way`: (round, the same) and on a few pages, "last" for the run's own.
    """

    held_out_loss: float
    curve: tuple[tuple[int, float], ...]
    tokens: int
    num_params: int
    bytes_up_per_param_round: float
    bytes_down_per_param_round: float
    noise_kept: int
    seconds: float
    averages: dict[str, float] = field(default_factory=dict)
    averages_on_the_way: tuple[tuple[int, dict[str, float]], ...] = ()


def run_trial(trial: Trial, final_pages: int = FINAL_PAGES) -> Outcome:
    """Deterministic but for `seconds`, on one machine and one thread."""
    start_s = time.perf_counter()
    workers = Workers(trial)
    strategy = RULES[trial.strategy](workers)
    params_N = workers.theta0()
    every, seldom = max(1, trial.rounds // CURVE_POINTS), max(1, trial.rounds // AVERAGES_AT)
    curve = [(0, workers.held_out_loss(params_N, CURVE_PAGES))]
    averages, on_the_way = Averages(params_N), []
    for number in range(trial.rounds):
        params_N = strategy.round(number, params_N)
        averages.add(params_N)
        if (number + 1) % every == 0:
            curve.append((number + 1, workers.held_out_loss(params_N, CURVE_PAGES)))
        if (number + 1) % seldom == 0:
            found = averages.losses(lambda x_N: workers.held_out_loss(x_N, CURVE_PAGES))
            last = workers.held_out_loss(params_N, CURVE_PAGES)
            on_the_way.append((number + 1, found | {"last": last}))
        if not torch.isfinite(params_N).all():
            break
    published_N, params_N = params_N, strategy.finish(params_N)
    if params_N is not published_N:
        averages.add(params_N)
    scale = workers.space.num_elements * trial.rounds
    return Outcome(
        held_out_loss=workers.held_out_loss(params_N, final_pages),
        curve=tuple(curve),
        tokens=trial.tokens(workers.spec.data.page_tokens),
        num_params=workers.space.num_elements,
        bytes_up_per_param_round=strategy.bytes_up / scale,
        bytes_down_per_param_round=strategy.bytes_down / scale,
        noise_kept=sum(strategy.noise_kept),
        seconds=time.perf_counter() - start_s,
        averages=averages.losses(lambda x_N: workers.held_out_loss(x_N, final_pages)),
        averages_on_the_way=tuple(on_the_way),
    )


def as_row(trial: Trial, outcome: Outcome, code: str) -> dict[str, object]:
    """One line of the record; `code`: the digest of what made it (`origin`)."""
    return {"key": trial.key, "code": code, "trial": asdict(trial), "outcome": asdict(outcome)}
