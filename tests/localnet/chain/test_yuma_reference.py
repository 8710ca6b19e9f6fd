"""Yuma against an independent fixed-point reference, on inputs full of zeros and ties.

Stated tolerance: what is stored differs by at most 1 of 65535 (91,000 random epochs gave no
more), shares of the emission by 1e-6, permits not at all. It holds for stakes and weights
within a few powers of ten of each other: the chain's truncation eats what is smaller, and a
column that only dust speaks of may then have other bonds.
"""

import dataclasses
from itertools import zip_longest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localnet.chain.yuma import EpochInputs, YumaParams, run_epoch
from tests.support.localnet.yuma_cases import BLOCK, epoch_inputs
from tests.support.localnet.yuma_reference import ONE, U16, reference_epoch

MAX_UNITS = 1
MAX_SHARE = 1e-6
LAST_EPOCH = 500
WEIGHTS = (0, 1, 2, 3, 4, 8, 255)


@st.composite
def tied_inputs(draw: st.DrawFn) -> EpochInputs:
    """0 to 6 uids; stakes, weights and blocks come from a few values, so that many are equal."""
    size = draw(st.integers(0, 6))

    def each(values: st.SearchStrategy) -> list:
        return draw(st.lists(values, min_size=size, max_size=size))

    def rows(values: st.SearchStrategy) -> list[dict[int, int]]:
        return each(st.dictionaries(st.integers(0, 6), values, max_size=6))

    return EpochInputs(
        stake_rao=each(st.integers(0, 8)),
        weights=rows(st.sampled_from(WEIGHTS)),
        bonds=rows(st.sampled_from((0, 1, 100, 30_000, U16))),
        last_update=each(st.sampled_from((400, 499, 500, 501, 900, BLOCK))),
        block_at_registration=each(st.sampled_from((0, 400, 500, 501, 899, 900))),
        commit_block=each(st.sampled_from((None, None, 399, 400, 500, 899))),
        validator_permit=each(st.sampled_from((True, True, True, False))),
        owner_uid=draw(st.none() | st.integers(0, size - 1)) if size else None,
        block=BLOCK,
        last_epoch_block=LAST_EPOCH,
        params=draw(some_params()),
    )


@st.composite
def some_params(draw: st.DrawFn) -> YumaParams:
    return YumaParams(
        kappa=draw(st.sampled_from((0, 1, 20_000, 32_767, 32_768, U16))),
        bonds_penalty=draw(st.sampled_from((0, 30_000, U16))),
        yuma3=draw(st.booleans()),
        liquid_alpha=draw(st.booleans()),
        activity_cutoff_blocks=BLOCK - LAST_EPOCH,
        max_allowed_validators=draw(st.integers(1, 7)),
        stake_threshold_rao=draw(st.sampled_from((0, 0, 3))),
    )


def assert_agrees(inputs: EpochInputs) -> None:
    got, wanted = run_epoch(inputs), reference_epoch(inputs)
    assert got.new_permits == wanted.new_permits
    for name in ("consensus", "incentive", "dividends", "validator_trust"):
        assert getattr(got, name) == pytest.approx(getattr(wanted, name), abs=MAX_UNITS), name
    for row, wanted_row in zip_longest(got.bonds, wanted.bonds):
        for uid in set(row) | set(wanted_row):
            assert abs(row.get(uid, 0) - wanted_row.get(uid, 0)) <= MAX_UNITS
    for name in ("server_share", "validator_share"):
        shares = [units / ONE for units in getattr(wanted, name)]
        assert getattr(got, name) == pytest.approx(shares, abs=MAX_SHARE), name


@settings(max_examples=60)
@given(tied_inputs())
def test_an_epoch_agrees_with_the_reference(inputs: EpochInputs):
    assert_agrees(inputs)


@pytest.mark.slow
@settings(max_examples=2_000)
@given(tied_inputs())
def test_many_epochs_agree_with_the_reference(inputs: EpochInputs):
    assert_agrees(inputs)


@pytest.mark.parametrize("yuma3", [False, True])
@pytest.mark.parametrize("stakes", [[32_768, 32_767], [32_767, 32_768], [32_766, 32_769]])
def test_the_median_at_exactly_one_less_kappa(stakes: list[int], yuma3: bool):
    """Stake below that is exactly 1 - kappa loses: kappa of the stake is a majority."""
    inputs = epoch_inputs([*stakes, 0, 0], {0: {2: 1}, 1: {3: 1}}, YumaParams(yuma3=yuma3))
    assert_agrees(inputs)
    consensus = [bool(value) for value in run_epoch(inputs).consensus[2:]]
    assert consensus == [stakes[0] >= 32_767, stakes[1] >= 32_767]


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_equal_stakes_at_the_permit_limit_favour_the_higher_uid(limit: int):
    inputs = epoch_inputs([5, 5, 5, 5], {}, YumaParams(max_allowed_validators=limit))
    assert_agrees(inputs)
    assert run_epoch(inputs).new_permits == [False] * (4 - limit) + [True] * limit


def test_a_stake_below_the_resolution_of_the_chain_is_none():
    inputs = epoch_inputs([2**33, 1, 2, 0], {1: {3: 1}})
    assert_agrees(inputs)
    assert run_epoch(inputs).new_permits == [True, False, False, False]
    inputs = epoch_inputs([2**31, 1, 2, 0], {1: {3: 1}})
    assert run_epoch(inputs).new_permits == [True, True, True, False]


def test_a_bond_that_is_not_spoken_of_ends_under_liquid_alpha_only():
    """The runtime's liquid loop visits only weights that are there, zero or not."""
    params = YumaParams(yuma3=True, liquid_alpha=True, bonds_penalty=0)
    bonds = [{2: 30_000, 3: 30_000}, {}, {}, {}]
    silent = epoch_inputs([1, 0, 0, 0], {0: {2: 1}}, params)
    silent = dataclasses.replace(silent, bonds=bonds)
    spoken = dataclasses.replace(silent, weights=[{2: 1, 3: 0}, {}, {}, {}])
    steady = dataclasses.replace(silent, params=dataclasses.replace(params, liquid_alpha=False))
    for inputs in (silent, spoken, steady):
        assert_agrees(inputs)
    assert 3 not in run_epoch(silent).bonds[0]
    assert run_epoch(spoken).bonds[0][3] > 0
    assert run_epoch(steady).bonds[0][3] == 27_000


def test_a_commit_masks_the_uids_registered_after_it():
    inputs = epoch_inputs([1, 0, 0, 0], {0: {1: 1, 2: 1, 3: 1}})
    inputs = dataclasses.replace(
        inputs, commit_block=[700, None, None, None], block_at_registration=[0, 699, 700, 701]
    )
    assert_agrees(inputs)
    assert run_epoch(inputs).incentive == pytest.approx([0, 32_767, 32_767, 0], abs=1)


BOUNDARIES = {
    "nobody": epoch_inputs([], {}),
    "one, no stake": epoch_inputs([0], {}),
    "one with stake": epoch_inputs([7], {0: {0: 1}}),
    "no stake": epoch_inputs([0, 0, 0], {0: {1: 1}}),
    "no weights": epoch_inputs([3, 1, 0], {}),
    "zero weights": epoch_inputs([3, 1, 0], {0: {2: 0}, 1: {2: 0}}),
    "all inactive": dataclasses.replace(
        epoch_inputs([3, 1, 0], {0: {2: 1}}), last_update=[0] * 3, block=10**6
    ),
    "owner only": dataclasses.replace(epoch_inputs([4], {0: {0: 1}}), owner_uid=0),
    "owner without stake": dataclasses.replace(epoch_inputs([0], {0: {0: 1}}), owner_uid=0),
}


@pytest.mark.parametrize("yuma3", [False, True])
@pytest.mark.parametrize("name", BOUNDARIES)
def test_boundaries_agree_with_the_reference(name: str, yuma3: bool):
    inputs = dataclasses.replace(BOUNDARIES[name], params=YumaParams(yuma3=yuma3))
    assert_agrees(inputs)
    out = run_epoch(inputs)
    staked = any(inputs.stake_rao)
    assert (sum(out.validator_share) == pytest.approx(1)) == staked
    assert (sum(out.server_share) > 0) == (name == "owner only")
