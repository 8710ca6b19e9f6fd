"""Learning rates of the inner loop: pure functions of the window and the step within it."""

import math

from template.protocol.spec import RunSpec


def inner_lr(spec: RunSpec, window: int, step: int) -> float:
    """Linear warm-up over `warmup_windows`, then a cosine to `final_lr_share` at the end.

    Independent of a node's past: after missed windows a miner has the same rate as all others.
    """
    training = spec.training
    position = window + step / training.inner_steps
    if position < training.warmup_windows:
        return (
            training.inner_lr
            * (position + 1 / training.inner_steps)
            / (training.warmup_windows + 1 / training.inner_steps)
        )
    span = max(spec.schedule.num_windows - training.warmup_windows, 1e-9)
    progress = min(1.0, (position - training.warmup_windows) / span)
    floor = training.final_lr_share
    return training.inner_lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def warm_start_lr(spec: RunSpec, step: int) -> float:
    """Learning rate of the owner's warm start: the run's warm-up, then `inner_lr`."""
    training = spec.training
    warmup_steps = training.warmup_windows * training.inner_steps
    return training.inner_lr * min(1.0, (step + 1) / (warmup_steps + 1))
