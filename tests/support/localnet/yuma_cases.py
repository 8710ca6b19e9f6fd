"""An epoch's inputs made by hand, for all tests of Yuma."""

import numpy as np

from localnet.chain.yuma import EpochInputs, YumaParams

BLOCK = 1_000
REGISTERED = 10
UPDATED = 900
MAX_DIFF_UNITS = 2


def epoch_inputs(
    stake_rao: list[int], weights: dict[int, dict[int, int]], params: YumaParams | None = None
) -> EpochInputs:
    """Everybody active, registered long ago and permitted; a test replaces what it is about."""
    num_uids = len(stake_rao)
    return EpochInputs(
        stake_rao=stake_rao,
        weights=[weights.get(uid, {}) for uid in range(num_uids)],
        bonds=[{} for _ in range(num_uids)],
        last_update=[UPDATED] * num_uids,
        block_at_registration=[REGISTERED] * num_uids,
        commit_block=[None] * num_uids,
        validator_permit=[True] * num_uids,
        owner_uid=None,
        block=BLOCK,
        last_epoch_block=UPDATED,
        params=params or YumaParams(),
    )


def assert_near_u16(got: list[int], recorded: list[int]) -> None:
    assert np.abs(np.array(got) - np.array(recorded)).max() <= MAX_DIFF_UNITS, (got, recorded)
