"""What an owner may set, who else may not, within which bounds, how often and when."""

from typing import Any

import pytest
from bittensor.intents.hyperparameters import OWNER_HYPERPARAMETERS

from localnet.chain.metadata import load_metadata
from localnet.chain.pallets import hyperparameters
from localnet.chain.pallets.staking import subnet_account
from tests.support.localnet.signing import S, by_coldkey, events, set_admin, stake

ONE = 1 << 64
# setting, its argument, storage item, a valid value other than the default
VALID: list[tuple[str, str, str, Any]] = [
    ("activity_cutoff", "activity_cutoff", "ActivityCutoff", 360),
    ("activity_cutoff_factor", "factor_milli", "ActivityCutoffFactorMilli", 50_000),
    ("adjustment_alpha", "adjustment_alpha", "AdjustmentAlpha", 7),
    ("alpha_sigmoid_steepness", "steepness", "AlphaSigmoidSteepness", 0),
    ("bonds_moving_average", "bonds_moving_average", "BondsMovingAverage", 975_000),
    ("bonds_penalty", "bonds_penalty", "BondsPenalty", 0),
    ("bonds_reset_enabled", "enabled", "BondsResetOn", True),
    ("burn_half_life", "burn_half_life", "BurnHalfLife", 36_100),
    ("burn_increase_mult", "burn_increase_mult", "BurnIncreaseMult", {"bits": 3 * ONE}),
    ("commit_reveal_weights_enabled", "enabled", "CommitRevealWeightsEnabled", True),
    ("commit_reveal_weights_interval", "interval", "RevealPeriodEpochs", 100),
    ("immunity_period", "immunity_period", "ImmunityPeriod", 0),
    ("liquid_alpha_enabled", "enabled", "LiquidAlphaOn", True),
    ("max_allowed_uids", "max_allowed_uids", "MaxAllowedUids", 64),
    ("max_burn", "max_burn", "MaxBurn", 100_000_001),
    ("max_difficulty", "max_difficulty", "MaxDifficulty", 2**64 - 1),
    ("min_allowed_weights", "min_allowed_weights", "MinAllowedWeights", 5),
    ("min_burn", "min_burn", "MinBurn", 999_999_999),
    ("min_childkey_take_per_subnet", "take", "MinChildkeyTakePerSubnet", 11_796),
    ("owner_cut_auto_lock_enabled", "enabled", "OwnerCutAutoLockEnabled", True),
    ("owner_cut_enabled", "enabled", "OwnerCutEnabled", False),
    ("owner_immune_neuron_limit", "immune_neurons", "ImmuneOwnerUidsLimit", 10),
    ("rho", "rho", "Rho", 11),
    ("serving_rate_limit", "serving_rate_limit", "ServingRateLimit", 0),
    ("tempo", "tempo", "Tempo", 360),
    ("toggle_transfer", "toggle", "TransferToggle", False),
    ("weights_version_key", "weights_version_key", "WeightsVersionKey", 3),
    ("yuma3_enabled", "enabled", "Yuma3On", False),
]
# One past what is allowed, and the error that the runtime has for it.
INVALID: list[tuple[str, str, Any, str]] = [
    ("activity_cutoff", "activity_cutoff", 359, "ActivityCutoffTooLow"),
    ("activity_cutoff_factor", "factor_milli", 999, "ActivityCutoffFactorMilliOutOfBounds"),
    ("activity_cutoff_factor", "factor_milli", 50_001, "ActivityCutoffFactorMilliOutOfBounds"),
    ("alpha_sigmoid_steepness", "steepness", -1, "NegativeSigmoidSteepness"),
    ("bonds_moving_average", "bonds_moving_average", 975_001, "BondsMovingAverageMaxReached"),
    ("burn_half_life", "burn_half_life", 0, "InvalidValue"),
    ("burn_half_life", "burn_half_life", 36_101, "InvalidValue"),
    ("burn_increase_mult", "burn_increase_mult", {"bits": ONE - 1}, "InvalidValue"),
    ("burn_increase_mult", "burn_increase_mult", {"bits": 3 * ONE + 1}, "InvalidValue"),
    ("commit_reveal_weights_interval", "interval", 101, "RevealPeriodTooLarge"),
    ("commit_reveal_weights_interval", "interval", 0, "RevealPeriodTooSmall"),
    ("max_allowed_uids", "max_allowed_uids", 63, "MaxAllowedUidsLessThanMinAllowedUids"),
    ("max_allowed_uids", "max_allowed_uids", 257, "MaxAllowedUidsGreaterThanDefaultMaxAllowedUids"),
    ("max_burn", "max_burn", 100_000_000, "ValueNotInBounds"),
    ("min_burn", "min_burn", 1_000_000_000, "ValueNotInBounds"),
    ("min_childkey_take_per_subnet", "take", 11_797, "InvalidValue"),
    ("network_pow_registration_allowed", "registration_allowed", True, "POWRegistrationDisabled"),
    ("owner_immune_neuron_limit", "immune_neurons", 0, "InvalidValue"),
    ("owner_immune_neuron_limit", "immune_neurons", 11, "InvalidValue"),
    ("tempo", "tempo", 359, "TempoOutOfBounds"),
    ("tempo", "tempo", 50_401, "TempoOutOfBounds"),
]
UNLIMITED = ("owner_cut_auto_lock_enabled", "owner_cut_enabled")


def open_window(ledger: Any) -> None:
    """Go to the block of the next epoch, where the whole tempo is ahead."""
    blocks = ledger.get("LastEpochBlock", 1) + ledger.get("Tempo", 1) - ledger.height
    ledger.seal(blocks)


@pytest.mark.parametrize(("setting", "argument", "item", "value"), VALID)
def test_the_owner_sets_it_and_nobody_else(
    subnet: Any, setting: str, argument: str, item: str, value: Any
) -> None:
    open_window(subnet)
    before = subnet.get(item, 1)
    assert set_admin(subnet, setting, "alice", **{argument: value}) == "BadOrigin"
    assert subnet.get(item, 1) == before != value
    assert set_admin(subnet, setting, **{argument: value}) == "ok"
    assert subnet.get(item, 1) == value
    again = "ok" if setting in UNLIMITED else "TxRateLimitExceeded"
    assert set_admin(subnet, setting, **{argument: value}) == again


@pytest.mark.parametrize(("setting", "argument", "value", "wanted"), INVALID)
def test_a_value_out_of_bounds_changes_nothing(
    subnet: Any, setting: str, argument: str, value: Any, wanted: str
) -> None:
    open_window(subnet)
    before = {item: subnet.get(item, 1) for _, _, item, _ in VALID}
    assert set_admin(subnet, setting, **{argument: value}) == wanted
    assert set_admin(subnet, setting, **{argument: value}) == wanted, "a refusal is not dated"
    assert {item: subnet.get(item, 1) for item in before} == before


def test_min_and_max_burn_stay_apart(subnet: Any) -> None:
    open_window(subnet)
    assert set_admin(subnet, "max_burn", max_burn=500_000_000) == "ok"
    assert set_admin(subnet, "min_burn", min_burn=500_000_000) == "ValueNotInBounds"
    assert set_admin(subnet, "min_burn", min_burn=499_999_999) == "ok"
    subnet.seal(38)
    open_window(subnet)
    assert set_admin(subnet, "max_burn", max_burn=499_999_999) == "ValueNotInBounds"


def test_liquid_alphas_bounds_need_it_switched_on(subnet: Any) -> None:
    def set_alpha(low: int, high: int) -> str:
        return set_admin(subnet, "alpha_values", alpha_low=low, alpha_high=high)

    open_window(subnet)
    assert set_alpha(1638, 65_535) == "LiquidAlphaDisabled"
    assert set_admin(subnet, "liquid_alpha_enabled", enabled=True) == "ok"
    assert set_alpha(1638, 1637) == "AlphaHighTooLow"
    assert set_alpha(1637, 65_535) == "AlphaLowOutOfRange"
    assert set_alpha(60_001, 60_000) == "AlphaLowOutOfRange"
    assert set_alpha(60_000, 60_000) == "ok"
    assert subnet.get("AlphaValues", 1) == (60_000, 60_000)
    assert set_alpha(1638, 65_535) == "TxRateLimitExceeded"


def test_the_window_closes_for_the_last_ten_blocks_of_a_tempo(subnet: Any) -> None:
    open_window(subnet)
    epoch_block = subnet.height
    subnet.seal(9)
    assert set_admin(subnet, "rho", rho=1) == "ok"  # 10 blocks are left
    assert subnet.height == epoch_block + 10
    frozen = "AdminActionProhibitedDuringWeightsWindow"
    assert set_admin(subnet, "bonds_penalty", bonds_penalty=1) == frozen  # 9 are left
    assert set_admin(subnet, "tempo", tempo=360) == frozen
    open_window(subnet)
    assert set_admin(subnet, "bonds_penalty", bonds_penalty=1) == "ok"


def test_a_setting_waits_two_tempos_and_each_waits_for_itself(subnet: Any) -> None:
    open_window(subnet)
    assert set_admin(subnet, "rho", rho=1) == "ok"
    set_at = subnet.height
    assert set_admin(subnet, "bonds_penalty", bonds_penalty=1) == "ok"
    subnet.seal(set_at + 38 - subnet.height)
    assert set_admin(subnet, "rho", rho=2) == "TxRateLimitExceeded"  # 39 blocks later
    assert set_admin(subnet, "rho", rho=2) == "ok"
    assert subnet.get("Rho", 1) == 2


def test_the_version_key_waits_five_tempos(subnet: Any) -> None:
    def set_version(key: int) -> str:
        return set_admin(subnet, "weights_version_key", weights_version_key=key)

    open_window(subnet)
    assert set_version(2) == "ok"
    set_at = subnet.height
    subnet.seal(98)
    assert set_version(3) == "TxRateLimitExceeded"
    assert set_version(3) == "ok"
    assert subnet.height == set_at + 100


def test_a_new_tempo_starts_a_new_epoch_and_waits_360_blocks(subnet: Any) -> None:
    open_window(subnet)
    assert set_admin(subnet, "tempo", tempo=400) == "ok"
    set_at = subnet.height
    assert subnet.get("LastEpochBlock", 1) == set_at
    assert events(subnet, S)[0] == ("TempoSet", (1, 400))
    subnet.seal(358)
    assert set_admin(subnet, "tempo", tempo=360) == "TxRateLimitExceeded"
    assert set_admin(subnet, "tempo", tempo=360) == "ok"
    assert subnet.height == set_at + 360
    assert subnet.get("LastEpochBlock", 1) == set_at + 360, "no epoch ran in between"


def test_a_triggered_epoch_runs_after_the_freeze_window(subnet: Any) -> None:
    def trigger(name: str = "owner") -> str:
        return by_coldkey(subnet, name, "trigger_epoch", netuid=1)

    open_window(subnet)
    assert set_admin(subnet, "tempo", tempo=360) == "ok"
    index = subnet.get("SubnetEpochIndex", 1)
    assert trigger("alice") == "BadOrigin"
    assert trigger() == "ok"
    triggered_at = subnet.height
    assert trigger() == "EpochTriggerAlreadyPending"
    assert set_admin(subnet, "rho", rho=1) == "AdminActionProhibitedDuringWeightsWindow"
    subnet.seal(triggered_at + 9 - subnet.height)
    assert subnet.get("SubnetEpochIndex", 1) == index
    subnet.seal()
    assert subnet.get("SubnetEpochIndex", 1) == index + 1
    assert subnet.get("LastEpochBlock", 1) == triggered_at + 10
    assert trigger() == "TxRateLimitExceeded"


def test_an_epoch_is_not_triggered_close_to_one_or_under_commit_reveal(subnet: Any) -> None:
    open_window(subnet)
    subnet.seal(10)
    assert by_coldkey(subnet, "owner", "trigger_epoch", netuid=1) == "AutoEpochAlreadyImminent"
    open_window(subnet)
    assert set_admin(subnet, "commit_reveal_weights_enabled", enabled=True) == "ok"
    wanted = "DynamicTempoBlockedByCommitReveal"
    assert by_coldkey(subnet, "owner", "trigger_epoch", netuid=1) == wanted


def test_the_owners_hotkey_changes_once_a_week_and_is_a_real_account(subnet: Any) -> None:
    bob = subnet.wallets["bob"]
    assert set_admin(subnet, "sn_owner_hotkey", "bob", hotkey=bob.hot) == "BadOrigin"
    system = subnet_account(1)
    assert set_admin(subnet, "sn_owner_hotkey", hotkey=system) == "CannotUseSystemAccount"
    assert set_admin(subnet, "sn_owner_hotkey", hotkey=bob.hot) == "ok"
    assert subnet.get("SubnetOwnerHotkey", 1) == bob.hot
    again = set_admin(subnet, "sn_owner_hotkey", hotkey=subnet.wallets["owner"].hot)
    assert again == "TxRateLimitExceeded"


def test_without_the_owners_cut_all_emission_is_for_miners_and_validators(subnet: Any) -> None:
    assert stake(subnet, "alice", 10**12) == "ok"
    open_window(subnet)
    assert set_admin(subnet, "owner_cut_enabled", enabled=False) == "ok"
    kept = subnet.get("PendingOwnerCut", 1)
    subnet.seal()
    assert subnet.get("PendingOwnerCut", 1) == kept
    pending = subnet.get("PendingServerEmission", 1)
    subnet.seal()
    assert subnet.get("PendingServerEmission", 1) - pending == 500_000_000


def test_every_owner_setter_of_the_sdk_exists_and_the_rest_is_for_root(subnet: Any) -> None:
    not_here = {
        # Not in the runtime of this metadata.
        "sudo_set_epoch_consensus",
        # Collateral is not modelled.
        "sudo_set_collateral_lock_share",
        "sudo_set_collateral_drain_ratio",
    }
    wanted = {setter for setter, _ in OWNER_HYPERPARAMETERS.values()} - not_here
    have = {name for pallet, name in hyperparameters.CALLS if pallet == "AdminUtils"}
    assert wanted <= have
    codec = load_metadata().codec
    declared = next(p for p in codec.metadata_ir().pallets if p.name == "AdminUtils").calls
    assert have <= {call.name for call in declared}
    assert set_admin(subnet, "kappa", kappa=1) == "BadOrigin"
    closed = set_admin(subnet, "network_registration_allowed", registration_allowed=False)
    assert closed == "BadOrigin", "owners may not close registration in this runtime"
