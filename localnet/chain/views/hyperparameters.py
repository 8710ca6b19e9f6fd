"""A subnet's hyperparameters in the runtime API's three shapes."""

from typing import Any

from localnet.chain import epoch
from localnet.chain.state import State

_ITEMS = {
    "rho": "Rho",
    "kappa": "Kappa",
    "immunity_period": "ImmunityPeriod",
    "min_allowed_weights": "MinAllowedWeights",
    "max_weights_limit": "MaxWeightsLimit",
    "tempo": "Tempo",
    "min_difficulty": "MinDifficulty",
    "max_difficulty": "MaxDifficulty",
    "weights_version": "WeightsVersionKey",
    "weights_rate_limit": "WeightsSetRateLimit",
    "adjustment_interval": "AdjustmentInterval",
    "registration_allowed": "NetworkRegistrationAllowed",
    "target_regs_per_interval": "TargetRegistrationsPerInterval",
    "min_burn": "MinBurn",
    "max_burn": "MaxBurn",
    "bonds_moving_avg": "BondsMovingAverage",
    "max_regs_per_block": "MaxRegistrationsPerBlock",
    "serving_rate_limit": "ServingRateLimit",
    "max_validators": "MaxAllowedValidators",
    "adjustment_alpha": "AdjustmentAlpha",
    "difficulty": "Difficulty",
    "commit_reveal_period": "RevealPeriodEpochs",
    "commit_reveal_weights_enabled": "CommitRevealWeightsEnabled",
    "liquid_alpha_enabled": "LiquidAlphaOn",
}
_LATER_ITEMS = {
    "subnet_is_active": "SubtokenEnabled",
    "transfers_enabled": "TransferToggle",
    "bonds_reset_enabled": "BondsResetOn",
}
_NEWEST_ITEMS = {
    "activity_cutoff_factor": "ActivityCutoffFactorMilli",
    "burn_half_life": "BurnHalfLife",
    "burn_increase_mult": "BurnIncreaseMult",
    "owner_cut_enabled": "OwnerCutEnabled",
    "owner_cut_auto_lock_enabled": "OwnerCutAutoLockEnabled",
    "collateral_lock_share": "CollateralLockShare",
    "collateral_drain_ratio": "CollateralDrainRatio",
}
# Tags of the third shape that a value's own form does not tell; the others are U16.
_TAGS = {
    **dict.fromkeys(("min_burn", "max_burn"), "TaoBalance"),
    **dict.fromkeys(("burn_increase_mult", "collateral_drain_ratio"), "U64F64"),
    "alpha_sigmoid_steepness": "I32F32",
    "activity_cutoff_factor": "U32",
    **dict.fromkeys(
        (
            "activity_cutoff",
            "adjustment_alpha",
            "bonds_moving_avg",
            "commit_reveal_period",
            "difficulty",
            "max_difficulty",
            "min_difficulty",
            "serving_rate_limit",
            "weights_rate_limit",
            "weights_version",
        ),
        "U64",
    ),
}
_I32F32_ONE = 1 << 32


def hyperparameters(state: State, netuid: int) -> dict[str, Any] | None:
    """SubnetInfoRuntimeApi.get_subnet_hyperparams."""
    if not state.subtensor.get("NetworksAdded", netuid):
        return None
    return values(state, netuid)


def hyperparameters_v2(state: State, netuid: int) -> dict[str, Any] | None:
    """SubnetInfoRuntimeApi.get_subnet_hyperparams_v2: with Yuma's version and the toggles."""
    first = hyperparameters(state, netuid)
    return None if first is None else {**first, **_later(state, netuid)}


def hyperparameter_entries(state: State, netuid: int) -> list[dict[str, Any]] | None:
    """SubnetInfoRuntimeApi.get_subnet_hyperparams_v3: a list of names and tagged values."""
    second = hyperparameters_v2(state, netuid)
    if second is None:
        return None
    newest = read_items(state, netuid, _NEWEST_ITEMS)
    newest["min_childkey_take"] = _min_childkey_take(state, netuid)
    every = {**second, **newest}
    return [{"name": name.encode(), "value": _tagged(name, v)} for name, v in every.items()]


def values(state: State, netuid: int) -> dict[str, Any]:
    """The common fields of the metagraph and the first shape, by name."""
    alpha_low, alpha_high = state.subtensor.get("AlphaValues", netuid)
    return {
        **read_items(state, netuid, _ITEMS),
        "activity_cutoff": epoch.activity_cutoff_blocks(state, netuid),
        "alpha_low": alpha_low,
        "alpha_high": alpha_high,
    }


def read_items(state: State, netuid: int, items: dict[str, str]) -> dict[str, Any]:
    """Field -> value of the field's storage item."""
    return {field: state.subtensor.get(item, netuid) for field, item in items.items()}


def _later(state: State, netuid: int) -> dict[str, Any]:
    steepness = int(state.subtensor.get("AlphaSigmoidSteepness", netuid))
    return {
        **read_items(state, netuid, _LATER_ITEMS),
        "alpha_sigmoid_steepness": {"bits": steepness * _I32F32_ONE},
        "yuma_version": 3 if state.subtensor.get("Yuma3On", netuid) else 2,
        "user_liquidity_enabled": False,
    }


def _min_childkey_take(state: State, netuid: int) -> int:
    """The stricter of the chain's and the subnet's own."""
    storage = state.subtensor
    own = storage.get("MinChildkeyTakePerSubnet", netuid)
    return max(int(storage.get("MinChildkeyTake")), int(own))


def _tagged(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"Bool": value}
    return {_TAGS.get(name, "U16"): value}
