"""Losses of a window as a validator measures them, made up: for tests of the judge."""

from collections.abc import Mapping

import numpy as np

from evaluation.evidence import Evidence, GainRules, GainState, Past
from evaluation.judge import JudgeRules, Measured
from evaluation.verdict import NOT_SCORED, Verdict
from evaluation.work import HELD_OUT, QUARTERS, Floats, WorkRules, shown_to

RULES = JudgeRules(
    naming_z=2.0,
    min_relative_gain=0.1,
    work=WorkRules(effect=0.4, error=0.01),
    gain=GainRules(gain=0.5, error=0.05),
)
NUM_HELD, NUM_OWN = 64, 8


def blank(uid: int, status: str = NOT_SCORED, window: int = 3) -> Verdict:
    return Verdict(window=window, uid=uid, hotkey=f"hk{uid}", digest=f"{uid:064x}", status=status)


def measured_of(gains: dict[int, float], work: dict[int, float], seed: int = 0) -> Measured:
    """Every payload lowers all losses by its gain, and those it owns by `work` deviations more."""
    rng = np.random.default_rng(seed)
    owners = np.concatenate([np.full(NUM_HELD, HELD_OUT), np.repeat(sorted(gains), NUM_OWN)])
    before = rng.normal(3, 0.5, size=owners.size)
    noise = 0.01
    after = {
        uid: before - gain - noise * rng.normal(size=owners.size)
        - noise * work.get(uid, 0.0) * (owners == uid)
        for uid, gain in gains.items()
    }  # fmt: skip
    return measured_from(owners, before, after)


def measured_from(
    owners: np.ndarray, before: Floats, after: Mapping[int, Floats], half_way: Floats | None = None
) -> Measured:
    """Of losses of whole sequences, all quarters alike; `after`: on all sequences, by uid."""
    return Measured(
        owners_S=owners,
        before_SQ=quartered(before),
        after_KQ={uid: quartered(losses)[shown_to(owners, uid)] for uid, losses in after.items()},
        half_way_H=half_way,
    )


def quartered(losses: Floats) -> Floats:
    """Each sequence's loss for each of its quarters."""
    return np.repeat(losses[:, None], QUARTERS, axis=1)


PROVEN = GainState(log_ratio=RULES.gain.bound, holds=True)
KNOWN = Past(evidence={f"hk{uid}": Evidence(gain=PROVEN) for uid in range(10)})
"""All hotkeys have proven useful, so that other reasons decide."""
