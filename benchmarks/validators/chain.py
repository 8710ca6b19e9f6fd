"""Epochs of the local chain's Yuma over rows of weights: dividends, and miners' pay.

One validator is watched, first in the order; three others hold the rest of the stake alike.
Legend: E epochs, M miners, V validators.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from benchmarks.validators.crowd import Floats
from localnet.chain.config import U16_MAX
from localnet.chain.yuma import EpochInputs, YumaParams, run_epoch

NUM_HONEST: Final = 3
EPOCH_BLOCKS: Final = 360
STAKE_RAO: Final = 1_000_000_000_000
YUMA: Final = {
    "yuma 2": YumaParams(),
    "yuma 3": YumaParams(yuma3=True),
    "yuma 3, liquid alpha": YumaParams(yuma3=True, liquid_alpha=True),
}

Watched = Callable[[int, list[Floats]], Floats]
"""(epoch, consensus [M] of the epochs before) -> the watched validator's weights [M]."""


@dataclass(kw_only=True)
class Course:
    """`dividends_EV`: shares of the validators' half; `pay_EM`: of the miners' half.
    `consensus`: what the chain settled on, by epoch, of sum 1.
    """

    stakes_V: Floats
    dividends: list[Floats] = field(default_factory=list)
    pay: list[Floats] = field(default_factory=list)
    consensus: list[Floats] = field(default_factory=list)

    def relative_dividends(self, first_epoch: int) -> float:
        """The watched validator's dividends for its stake, over the others' for theirs."""
        total_V = np.sum(self.dividends[first_epoch:], axis=0)
        own = total_V[0] / self.stakes_V[0]
        return float(own / (total_V[1:].sum() / self.stakes_V[1:].sum()))


def run_epochs(
    honest: list[list[Floats]], watched: Watched, stake: float, params: YumaParams
) -> Course:
    """All epochs. `honest`: weights [M] of every honest validator, by epoch. `stake`: the watched
    validator's share, in (0, 1).
    """
    rest = (1.0 - stake) / NUM_HONEST
    course = Course(stakes_V=np.array([stake, *[rest] * NUM_HONEST]))
    num_miners = len(honest[0][0])
    bonds: list[dict[int, int]] = [{} for _ in range(num_miners + 1 + NUM_HONEST)]
    for epoch, rows in enumerate(honest):
        row_M = watched(epoch, course.consensus)
        inputs = _inputs(epoch, [row_M, *rows], course.stakes_V, bonds, params)
        outputs = run_epoch(inputs)
        bonds = outputs.bonds
        course.dividends.append(np.array(outputs.validator_share[num_miners:]))
        course.pay.append(np.array(outputs.server_share[:num_miners]))
        consensus_M = np.array(outputs.consensus[:num_miners], dtype=np.float64)
        course.consensus.append(consensus_M / consensus_M.sum())
    return course


def _inputs(
    epoch: int,
    rows: list[Floats],
    stakes_V: Floats,
    bonds: list[dict[int, int]],
    params: YumaParams,
) -> EpochInputs:
    num_miners, num_uids = len(rows[0]), len(rows[0]) + len(rows)
    block = 1000 + epoch * EPOCH_BLOCKS
    return EpochInputs(
        stake_rao=[0] * num_miners + [round(STAKE_RAO * share) for share in stakes_V],
        weights=[{} for _ in range(num_miners)] + [_u16(row_M) for row_M in rows],
        bonds=bonds,
        last_update=[block] * num_uids,
        block_at_registration=[10] * num_uids,
        commit_block=[None] * num_uids,
        validator_permit=[False] * num_miners + [True] * len(rows),
        owner_uid=None,
        block=block + 1,
        last_epoch_block=block - EPOCH_BLOCKS,
        params=params,
    )


def _u16(row_M: Floats) -> dict[int, int]:
    """As the SDK writes weights: the largest becomes 65535."""
    scaled_M = np.rint(U16_MAX * row_M / row_M.max()).astype(int)
    return {uid: int(value) for uid, value in enumerate(scaled_M) if value}
