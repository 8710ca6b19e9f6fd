"""Learning rates of the inner loop: pure functions of the window and the step within it."""

import math

from template.protocol.spec import RunSpec


def inner_lr(spec: RunSpec, window: int, step: int) -> float:
    """Warm-up, stable phase and decay: linear over `warmup_windows`, then `inner_lr`, then a cosine
    to `final_lr_share` over the last `decay_share` of the run's windows.

    The windows are those of the spec: a succession has a warm-up and a decay of its own, which end
    with the run. Before the decay the rate is the same whatever the length of the run. Independent
    of a node's past: after missed windows a miner has the same rate as all others.
    Source of the three phases: arXiv 2404.06395, section 4; 2405.18392.
    """
    training = spec.training
    position = window - spec.first_window + step / training.inner_steps
    if position < training.warmup_windows:
        return (
            training.inner_lr
            * (position + 1 / training.inner_steps)
            / (training.warmup_windows + 1 / training.inner_steps)
        )
    end = spec.schedule.num_windows - spec.first_window
    start = max(training.warmup_windows, end - training.decay_share * end)
    if position <= start or training.decay_share == 0:
        return training.inner_lr
    progress = min(1.0, (position - start) / max(end - start, 1e-9))
    floor = training.final_lr_share
    return training.inner_lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def warm_start_lr(spec: RunSpec, step: int) -> float:
    """Learning rate of the owner's warm start: the run's warm-up, then `inner_lr`."""
    training = spec.training
    warmup_steps = training.warmup_windows * training.inner_steps
    return training.inner_lr * min(1.0, (step + 1) / (warmup_steps + 1))
