"""The rules of a row of weights at their limits, and several rows in one call."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localnet.chain.pallets.weights import max_upscale
from tests.support.localnet.commit_cases import S, call, events, make_chain, put
from tests.support.localnet.ledger import Ledger

U16 = 65_535


@pytest.fixture
def chain() -> Ledger:
    return make_chain("off")


def set_row(chain: Ledger, row: dict[int, int], version_key: int = 0, name: str = "alice") -> str:
    args = {"dests": list(row), "weights": list(row.values()), "version_key": version_key}
    return call(chain, name, "set_weights", **args)


def test_an_older_version_key_is_refused(chain: Ledger) -> None:
    put(chain, "WeightsVersionKey", 1, value=7)
    assert set_row(chain, {2: 1}, version_key=6) == "IncorrectWeightVersionKey"
    assert set_row(chain, {2: 1}, version_key=7) == "ok"
    assert set_row(chain, {2: 1}, version_key=8) == "ok"


def test_weights_need_the_threshold_of_stake_and_self_weights_do_too(chain: Ledger) -> None:
    held = chain.get("TotalHotkeyAlpha", chain.wallets["alice"].hot, 1)
    put(chain, "StakeThreshold", value=held)
    assert set_row(chain, {2: 1}) == "ok"
    put(chain, "StakeThreshold", value=held + 1)
    assert set_row(chain, {2: 1}) == "NotEnoughStakeToSetWeights"
    assert set_row(chain, {1: 1}) == "NotEnoughStakeToSetWeights"


@pytest.mark.parametrize(
    ("limit", "row", "wanted"),
    [
        # One half lies between 32767 and 32768 of 65535.
        (32_768, {2: 1, 3: 1}, "ok"),
        (32_767, {2: 1, 3: 1}, "MaxWeightExceeded"),
        (32_768, {2: 1}, "MaxWeightExceeded"),
        (32_768, {1: 1}, "ok"),
        (0, {2: 0, 3: 0}, "ok"),
        (65_535, {2: 1}, "ok"),
    ],
)
def test_the_largest_share_of_a_row_is_limited(
    chain: Ledger, limit: int, row: dict[int, int], wanted: str
) -> None:
    put(chain, "MaxWeightsLimit", 1, value=limit)
    assert set_row(chain, row) == wanted


def test_a_row_may_be_as_long_as_the_subnet_and_as_short_as_the_minimum(chain: Ledger) -> None:
    put(chain, "MinAllowedWeights", 1, value=3)
    assert set_row(chain, {2: 1, 3: 1}) == "WeightVecLengthIsLow"
    assert set_row(chain, {0: 1, 2: 1, 3: 1}) == "ok"
    assert set_row(chain, {1: 1}) == "ok"
    put(chain, "MinAllowedWeights", 1, value=100)
    assert set_row(chain, {0: 1, 2: 1, 3: 1}) == "WeightVecLengthIsLow"
    assert set_row(chain, {0: 1, 1: 1, 2: 1, 3: 1}) == "ok"


def test_the_rate_limit_ends_in_the_very_block() -> None:
    chain = make_chain("off", weights_rate_limit_blocks=4)
    assert set_row(chain, {2: 1}) == "ok"
    first = chain.height
    chain.seal(2)
    assert set_row(chain, {3: 1}) == "SettingWeightsTooFast"
    assert chain.height == first + 3
    assert set_row(chain, {3: 1}) == "ok"


def test_a_new_uid_waits_for_the_rate_limit_from_its_registration_on() -> None:
    chain = make_chain("off", weights_rate_limit_blocks=4)
    dave = chain.wallets["dave"]
    assert chain.call(dave.coldkey, S, "burned_register", netuid=1, hotkey=dave.hot) == "ok"
    assert chain.get("LastUpdate", 1)[4] == chain.height
    assert set_row(chain, {4: 1}, name="dave") == "SettingWeightsTooFast"
    chain.seal(2)
    assert set_row(chain, {4: 1}, name="dave") == "ok"


def test_the_error_of_the_guards_comes_before_that_of_the_row() -> None:
    chain = make_chain("off", weights_rate_limit_blocks=9)
    assert set_row(chain, {2: 1}) == "ok"
    assert set_row(chain, {9: 1}) == "SettingWeightsTooFast"


def batch(chain: Ledger, netuids: list[int], *rows: list[tuple[int, int]]) -> str:
    args = {"netuids": netuids, "weights": list(rows), "version_keys": [0] * len(rows)}
    return chain.call(chain.wallets["alice"].hotkey, S, "batch_set_weights", **args)


def test_a_batch_sets_what_it_can_and_names_what_it_cannot(chain: Ledger) -> None:
    assert batch(chain, [1, 5], [(2, 1), (3, 2)], [(0, 1)]) == "ok"
    assert chain.get("Weights", 1, 1) == [(2, 32_768), (3, U16)]
    happened = dict(events(chain))
    assert list(happened) == [
        "WeightsSet",
        "BatchCompletedWithErrors",
        "BatchWeightItemFailed",
        "BatchWeightsCompleted",
    ]
    netuid, error = happened["BatchWeightItemFailed"]
    wanted = chain.metadata.module_error(S, "CommitRevealEnabled")
    assert netuid == 5
    assert error["Module"]["error"] == wanted["Module"]["error"]


def test_a_batch_of_uneven_lists_is_refused(chain: Ledger) -> None:
    assert batch(chain, [1], [(2, 1)], [(2, 1)]) == "InputLengthsUnequal"
    assert chain.get("Weights", 1, 1) == []


def test_a_good_batch_has_no_error_events(chain: Ledger) -> None:
    assert batch(chain, [1], [(2, 1)]) == "ok"
    assert [name for name, _ in events(chain)] == ["WeightsSet", "BatchWeightsCompleted"]


@settings(max_examples=50)
@given(st.lists(st.integers(0, U16), min_size=1, max_size=9))
def test_upscaling_rounds_to_the_nearest(weights: list[int]) -> None:
    largest = max(weights)
    scaled = max_upscale(weights)
    if largest == 0:
        assert scaled == weights
        return
    assert max(scaled) == U16
    for weight, value in zip(weights, scaled, strict=True):
        assert abs(value * largest - weight * U16) <= largest / 2 + 1


@pytest.mark.parametrize(
    ("weights", "scaled"),
    # 65535/2 is 32767.5: it rounds up, but not once the factor was truncated before.
    [([1, 2], [32_768, U16]), ([20_001, 40_002], [32_767, U16]), ([0, 0], [0, 0])],
)
def test_upscaling_breaks_halves_as_the_chain_does(weights: list[int], scaled: list[int]) -> None:
    assert max_upscale(weights) == scaled
