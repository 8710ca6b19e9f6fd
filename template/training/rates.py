"""Learning rates of the inner loop: pure functions of the window and the step within it."""

import math

from template.protocol.spec import RunSpec


def inner_lr(spec: RunSpec, window: int, step: int) -> float:
    """Linear warm-up over `warmup_windows`, then a cosine to `final_lr_share` at the end.

    Depends on nothing that a node did before, so that a miner that missed windows has the
    same rate as all others.
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
    """While theta_0 is trained alone: the run's own warm-up, then its highest rate."""
    training = spec.training
    warmup_steps = training.warmup_windows * training.inner_steps
    return training.inner_lr * min(1.0, (step + 1) / (warmup_steps + 1))
