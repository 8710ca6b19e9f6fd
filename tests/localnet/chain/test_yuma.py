"""Yuma's rules one by one, and its edge cases."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localnet.chain.yuma import EpochInputs, EpochOutputs, YumaParams, run_epoch
from localnet.chain.yuma_math import U16_MAX, fixed_shares, weighted_median
from tests.support.localnet.yuma_cases import (
    BLOCK,
    REGISTERED,
    UPDATED,
    assert_near_u16,
    epoch_inputs,
)


def test_yuma2_bonds_move_by_a_tenth_per_epoch():
    inputs = epoch_inputs([1, 1, 0, 0], {0: {2: U16_MAX}, 1: {2: U16_MAX}})
    out = run_epoch(dataclasses.replace(inputs, bonds=[{2: U16_MAX}, {}, {}, {}]))
    # 0.1 * (1/2, 1/2) + 0.9 * (1, 0), with the larger one stored as 1.
    assert_near_u16([out.bonds[0][2], out.bonds[1][2]], [65_535, int(65_535 * 0.05 / 0.95)])
    assert_near_u16(out.dividends, [int(65_535 * 0.95), int(65_535 * 0.05), 0, 0])


def test_yuma3_without_liquid_alpha_moves_by_the_average():
    params = YumaParams(yuma3=True, bonds_moving_average=900_000)
    out = run_epoch(epoch_inputs([3, 1, 0], {0: {2: 9}, 1: {2: 9}}, params))
    assert_near_u16([out.bonds[0][2], out.bonds[1][2]], [6_553, 6_553])
    assert_near_u16(out.dividends, [49_151, 16_383, 0])


def test_bonds_penalty_decides_whether_bonds_see_the_clipped_weights():
    # The minority's whole weight on uid 3 is clipped to zero by consensus.
    weights = {0: {2: U16_MAX}, 1: {3: U16_MAX}}
    clipped = run_epoch(epoch_inputs([3, 1, 0, 0], weights))
    free = run_epoch(epoch_inputs([3, 1, 0, 0], weights, YumaParams(bonds_penalty=0)))
    assert clipped.bonds[1] == {}
    assert free.bonds[1] == {3: U16_MAX}
    assert clipped.incentive == free.incentive == [0, 0, U16_MAX, 0]


def naive_median(scores: list[float], stakes: list[int], kappa: float) -> float:
    """The largest score that at least kappa of the stake gives or exceeds."""
    reached = [0.0]
    for score, stake in zip(scores, stakes, strict=True):
        support = sum(s for other, s in zip(scores, stakes, strict=True) if other >= score)
        if stake > 0 and support / sum(stakes) >= kappa:
            reached.append(score)
    return max(reached)


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 50), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])),
        min_size=1,
        max_size=9,
    ),
    kappa_u16=st.sampled_from([0, 1, 20_000, 32_767, 50_000, 65_534]),
)
def test_weighted_median_agrees_with_the_naive_one(rows: list[tuple[int, float]], kappa_u16: int):
    stakes, scores = [stake for stake, _ in rows], [score for _, score in rows]
    median_N = weighted_median(np.array(scores)[:, None], fixed_shares(stakes), kappa_u16)
    assert median_N.tolist() == [naive_median(scores, stakes, kappa_u16 / U16_MAX)]


def test_half_of_the_stake_is_a_majority_at_the_default_kappa():
    """kappa is 32767/65535, a hair under one half, so a tie goes to the larger weight."""
    out = run_epoch(epoch_inputs([5, 5, 0, 0], {0: {2: 1}, 1: {3: 1}}))
    assert out.consensus == [0, 0, U16_MAX, U16_MAX]
    assert_near_u16(out.incentive, [0, 0, 32_767, 32_767])


def test_a_minority_moves_nothing():
    out = run_epoch(epoch_inputs([51, 49, 0, 0], {0: {2: 1}, 1: {3: 1}}))
    assert out.consensus == [0, 0, U16_MAX, 0]
    assert out.incentive == [0, 0, U16_MAX, 0]
    assert out.dividends == [U16_MAX, 0, 0, 0]
    assert out.validator_trust == [U16_MAX, 0, 0, 0]


def test_one_validator_decides_alone():
    out = run_epoch(epoch_inputs([7, 0, 0], {0: {1: 3, 2: 1}}))
    assert_near_u16(out.incentive, [0, 49_151, 16_383])
    assert out.dividends == [U16_MAX, 0, 0]
    assert out.bonds == [{1: U16_MAX, 2: U16_MAX}, {}, {}]


def test_no_weights_pays_validators_by_active_stake():
    inputs = epoch_inputs([3, 1, 4, 0], {})
    out = run_epoch(dataclasses.replace(inputs, last_update=[UPDATED, UPDATED, -9_999, UPDATED]))
    assert out.validator_share == pytest.approx([0.75, 0.25, 0, 0])
    assert out.server_share == [0, 0, 0, 0]
    assert out.incentive == out.dividends == out.consensus == [0, 0, 0, 0]
    assert_near_u16(out.pruning_score, [49_151, 16_383, 0, 0])


def test_nobody_active_pays_by_all_stake():
    inputs = epoch_inputs([3, 1], {0: {1: 1}})
    out = run_epoch(dataclasses.replace(inputs, last_update=[-9_999, -9_999]))
    assert out.active == [False, False]
    assert out.validator_share == pytest.approx([0.75, 0.25])


def test_zero_stake_pays_nobody():
    out = run_epoch(epoch_inputs([0, 0, 0], {0: {1: 1}}))
    assert out.server_share == out.validator_share == [0, 0, 0]
    assert out.new_permits == [False, False, False]
    assert out.incentive == [0, 0, 0]


def test_inactive_validator_has_no_vote_and_the_cutoff_is_inclusive():
    params = YumaParams(activity_cutoff_blocks=100)
    inputs = epoch_inputs([9, 1, 0, 0], {0: {2: 1}, 1: {3: 1}}, params)
    last_update = [BLOCK - 101, BLOCK - 100, BLOCK, BLOCK]
    out = run_epoch(dataclasses.replace(inputs, last_update=last_update))
    assert out.active == [False, True, True, True]
    assert out.incentive == [0, 0, 0, U16_MAX]
    assert out.dividends == [0, U16_MAX, 0, 0]
    assert out.new_permits == [True, True, False, False]


def test_self_weight_is_masked_except_the_owners():
    weights = {0: {0: U16_MAX, 2: 1}, 1: {1: U16_MAX, 0: 1}}
    out = run_epoch(epoch_inputs([9, 1, 0], weights))
    assert out.incentive == [0, 0, U16_MAX]
    inputs = dataclasses.replace(epoch_inputs([9, 1, 0], weights), owner_uid=0)
    out = run_epoch(inputs)
    assert_near_u16(out.incentive, [65_534, 0, 0])


def test_weights_to_a_uid_registered_since_are_ignored():
    inputs = epoch_inputs([1, 0, 0], {0: {1: U16_MAX, 2: U16_MAX}})
    for registered, incentive in ((UPDATED - 1, 32_767), (UPDATED, 0), (UPDATED + 1, 0)):
        registrations = [REGISTERED, registered, REGISTERED]
        out = run_epoch(dataclasses.replace(inputs, block_at_registration=registrations))
        assert_near_u16(out.incentive, [0, incentive, U16_MAX - incentive])


def test_bonds_to_a_uid_registered_since_the_last_epoch_are_dropped():
    inputs = epoch_inputs([1, 1, 0], {0: {2: 1}, 1: {2: 1}})
    inputs = dataclasses.replace(inputs, bonds=[{2: U16_MAX}, {}, {}], last_epoch_block=500)
    kept = run_epoch(dataclasses.replace(inputs, block_at_registration=[1, 1, 500]))
    dropped = run_epoch(dataclasses.replace(inputs, block_at_registration=[1, 1, 501]))
    assert kept.dividends[0] > 60_000
    assert_near_u16(dropped.dividends, [32_767, 32_767, 0])


def test_weights_without_a_permit_are_ignored_and_the_owner_always_has_one():
    inputs = epoch_inputs([9, 1, 0, 0], {0: {2: 1}, 1: {3: 1}})
    inputs = dataclasses.replace(inputs, validator_permit=[False, True, False, False])
    assert run_epoch(inputs).incentive == [0, 0, 0, U16_MAX]
    assert run_epoch(dataclasses.replace(inputs, owner_uid=0)).incentive == [0, 0, U16_MAX, 0]


def test_new_permits_go_to_the_largest_stakes_and_the_owner():
    params = YumaParams(max_allowed_validators=2)
    inputs = epoch_inputs([5, 7, 5, 0], {}, params)
    # Equal stakes: the chain's stable ascending sort drops the lower uid.
    assert run_epoch(inputs).new_permits == [False, True, True, False]
    owned = run_epoch(dataclasses.replace(inputs, owner_uid=3))
    assert owned.new_permits == [False, True, True, True]
    wide = dataclasses.replace(inputs, params=YumaParams(max_allowed_validators=4))
    assert run_epoch(wide).new_permits == [True, True, True, False]


def test_losing_the_permit_clears_the_bonds():
    params = YumaParams(max_allowed_validators=1)
    out = run_epoch(epoch_inputs([2, 1, 0], {0: {2: 1}, 1: {2: 1}}, params))
    assert out.bonds == [{2: U16_MAX}, {}, {}]


def test_stake_threshold_spares_the_owner():
    params = YumaParams(stake_threshold_rao=10)
    inputs = epoch_inputs([10, 9, 8], {}, params)
    assert run_epoch(inputs).validator_share == [1, 0, 0]
    owned = run_epoch(dataclasses.replace(inputs, owner_uid=2))
    assert owned.validator_share == pytest.approx([10 / 18, 0, 8 / 18])


def test_weights_and_bonds_to_uids_that_do_not_exist_are_ignored():
    inputs = epoch_inputs([1, 0], {0: {1: 1, 7: U16_MAX}})
    out = run_epoch(dataclasses.replace(inputs, bonds=[{9: 5}, {}]))
    assert out.incentive == [0, U16_MAX]
    assert out.bonds == [{1: U16_MAX}, {}]


def test_an_empty_subnet_is_an_empty_epoch():
    assert run_epoch(epoch_inputs([], {})).incentive == []


def test_lists_of_different_length_are_refused():
    inputs = epoch_inputs([1, 2], {})
    with pytest.raises(ValueError, match="last_update"):
        run_epoch(dataclasses.replace(inputs, last_update=[1]))
    with pytest.raises(ValueError, match="owner_uid"):
        run_epoch(dataclasses.replace(inputs, owner_uid=2))


uids = st.integers(0, 5)
rows = st.dictionaries(uids, st.integers(1, U16_MAX), max_size=6)


@st.composite
def any_inputs(draw: st.DrawFn) -> EpochInputs:
    """Six uids in any state that the chain can reach."""
    blocks = st.lists(st.integers(0, BLOCK), min_size=6, max_size=6)
    return EpochInputs(
        stake_rao=draw(st.lists(st.integers(0, 2**63), min_size=6, max_size=6)),
        weights=draw(st.lists(rows, min_size=6, max_size=6)),
        bonds=draw(st.lists(rows, min_size=6, max_size=6)),
        last_update=draw(blocks),
        block_at_registration=draw(blocks),
        commit_block=draw(st.lists(st.none() | st.integers(0, BLOCK), min_size=6, max_size=6)),
        validator_permit=draw(st.lists(st.booleans(), min_size=6, max_size=6)),
        owner_uid=draw(st.none() | uids),
        block=BLOCK,
        last_epoch_block=500,
        params=YumaParams(
            yuma3=draw(st.booleans()),
            liquid_alpha=draw(st.booleans()),
            activity_cutoff_blocks=500,
            bonds_penalty=draw(st.integers(0, U16_MAX)),
        ),
    )


def all_u16(out: EpochOutputs) -> list[int]:
    lists = (out.consensus, out.incentive, out.dividends, out.validator_trust, out.pruning_score)
    return [value for values in lists for value in values]


@given(any_inputs())
def test_every_epoch_is_in_range_and_shares_add_up(inputs: EpochInputs):
    out = run_epoch(inputs)
    assert all(0 <= value <= U16_MAX for value in all_u16(out))
    for shares in (out.server_share, out.validator_share):
        assert sum(shares) == pytest.approx(1.0) or not any(shares)
    if any(inputs.stake_rao):
        assert any(out.validator_share) or any(out.server_share)
    assert all(not row for row, kept in zip(out.bonds, out.new_permits, strict=True) if not kept)
    assert run_epoch(inputs) == out
