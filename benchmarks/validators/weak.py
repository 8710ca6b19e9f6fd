"""What rules pay a miner with half of the others' gain, where gains are sure and where not.

Drops of the loss by a model: a miner's gain of a window varies by a part of the usual gain, and
that of each held-out page by `page_noise` usual gains. Pay is that of `evaluation.weights`.

Legend: W windows, M miners, S held-out sequences, E epochs.
"""

from typing import Any, Final

import numpy as np

from benchmarks.validators.crowd import Rule, last_window, weights
from benchmarks.validators.played import PlayedCrowd, shipped_rules

MINERS, WINDOWS, SEQUENCES = 8, 160, 64
SEEDS: Final = tuple(range(1, 13))
FIRST_EPOCH: Final = 8
USUAL_GAIN, WEAK_GAIN, WINDOW_NOISE = 1e-3, 0.5, 0.3
PAGE_NOISES: Final = (4.0, 12.0)
"""With 64 pages a standard error of 0.5 and of 1.5 gains; in the last third of a played swarm a
window's gain varies by 1.7 gains."""
RULES: Final = {
    "16 windows": Rule(account=16),
    "8 windows": Rule(account=8),
    "4 windows": Rule(account=4),
    "16 windows, duels of 1/2": Rule(account=16, duel=0.5),
    "16 windows, duels of all": Rule(account=16, duel=1.0),
}


def weak_crowd(page_noise: float, seed: int) -> PlayedCrowd:
    """Miner 0 gains `WEAK_GAIN` of what the others gain."""
    rng = np.random.default_rng((seed, 4))
    mean_M = np.array([WEAK_GAIN, *[1.0] * (MINERS - 1)])
    gains_WM = mean_M + WINDOW_NOISE * rng.standard_normal((WINDOWS, MINERS))
    errors_WMS = page_noise * rng.standard_normal((WINDOWS, MINERS, SEQUENCES))
    return PlayedCrowd.of(USUAL_GAIN * (gains_WM[:, :, None] + errors_WMS), shipped_rules(), seed)


def measure_weak() -> list[dict[str, Any]]:
    """For each noise and rule: the weak miner's pay over another's mean pay, with its standard
    error over seeds; the difference from the first rule, of equal seeds, with its own; the part of
    epochs in which some miner gets nothing.
    """
    rows: list[dict[str, Any]] = []
    for page_noise in PAGE_NOISES:
        crowds = [weak_crowd(page_noise, seed) for seed in SEEDS]
        usual = None
        for name, rule in RULES.items():
            pay_and_unpaid = np.array([_pay_of(crowd, rule) for crowd in crowds])
            pay = pay_and_unpaid[:, 0]
            usual = pay if usual is None else usual
            rows.append(
                {
                    "page_noise": page_noise,
                    "rule": name,
                    "pay": float(pay.mean()),
                    "pay_error": _error(pay),
                    "more": float((pay - usual).mean()),
                    "more_error": _error(pay - usual),
                    "epochs_with_unpaid": float(pay_and_unpaid[:, 1].mean()),
                }
            )
    return rows


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _pay_of(crowd: PlayedCrowd, rule: Rule) -> tuple[float, float]:
    known_W = np.ones(crowd.num_windows, dtype=np.bool_)
    epochs = range(FIRST_EPOCH, crowd.num_epochs)
    rows_EM = np.array([weights(crowd, rule, last_window(e), known_W) for e in epochs])
    weak, others = rows_EM[:, 0].mean(), rows_EM[:, 1:].mean()
    return float(weak / others), float((rows_EM <= 1e-12).any(axis=1).mean())
