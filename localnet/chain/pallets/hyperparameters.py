"""A subnet's hyperparameters: the owner's setters, with bounds and rate limits.

Source: subtensor, pallets/admin-utils/src/lib.rs and coinbase/tempo_control.rs; `CALLS` has
every owner's setter of SDK 11.3. The checks come in the runtime's order: owner, rate limit,
admin window, value. Without a root account here, root's setters fail with BadOrigin, as for
every other account on the real chain.

Departures: the setters of collateral and mechanisms do not exist here. Some stored values have
no effect: on the real chain either (`Rho`, `AdjustmentAlpha`, `ActivityCutoff`,
`MaxDifficulty`), or for features not modelled here (childkeys, locks).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from localnet.chain.pallets import bounds, rate_limits, staking
from localnet.chain.pallets.bounds import Check
from localnet.chain.pallets.rate_limits import RateLimit, owner_hyperparameter
from localnet.chain.state import DispatchFailed, State

_ADMIN = "AdminUtils"
_SUBTENSOR = "SubtensorModule"
_MAX_TEMPO_BLOCKS = 50_400
_MIN_ALPHA = 65_535 // 40


@dataclass(frozen=True, kw_only=True, slots=True)
class _Setter:
    """A storage item set by an owner.

    `events` prefixed with the admin pallet's name have named fields.
    """

    item: str
    limit: RateLimit | None
    events: tuple[str, ...] = ()
    check: Check | None = None


def _apply(setter: _Setter, state: State, origin: str, *, netuid: int, **argument: Any) -> None:
    [(name, value)] = argument.items()
    rate_limits.check_owner(state, netuid, origin)
    rate_limits.check_limit(state, setter.limit, origin, netuid)
    rate_limits.check_window(state, netuid)
    if setter.check is not None:
        setter.check(state, netuid, value)
    state.subtensor.put(setter.item, netuid, value=value)
    for event in setter.events:
        pallet, _, event_name = event.rpartition(".")
        fields = {"netuid": netuid, name: value} if pallet else (netuid, value)
        state.emit(pallet or _SUBTENSOR, event_name, fields)
    if setter.limit is not None:
        setter.limit.record(state, origin, netuid)


def set_tempo(state: State, origin: str, *, netuid: int, tempo: int) -> None:
    """AdminUtils.sudo_set_tempo: a new epoch length, and a new epoch from now."""
    rate_limits.check_owner(state, netuid, origin)
    if not rate_limits.MIN_TEMPO_BLOCKS <= tempo <= _MAX_TEMPO_BLOCKS:
        raise state.fail(_SUBTENSOR, "TempoOutOfBounds")
    rate_limits.check_window(state, netuid)
    rate_limits.check_limit(state, rate_limits.TEMPO, origin, netuid)
    state.subtensor.put("Tempo", netuid, value=tempo)
    state.subtensor.put("LastEpochBlock", netuid, value=state.block_number)
    state.emit(_SUBTENSOR, "TempoSet", (netuid, tempo))
    rate_limits.TEMPO.record(state, origin, netuid)


def set_activity_cutoff_factor(
    state: State, origin: str, *, netuid: int, factor_milli: int
) -> None:
    """AdminUtils.sudo_set_activity_cutoff_factor: thousandths of a tempo, bounds first."""
    rate_limits.check_owner(state, netuid, origin)
    codec = state.metadata.codec
    low = codec.constant(_SUBTENSOR, "MinActivityCutoffFactorMilli")
    high = codec.constant(_SUBTENSOR, "MaxActivityCutoffFactorMilli")
    if not low <= factor_milli <= high:
        raise state.fail(_SUBTENSOR, "ActivityCutoffFactorMilliOutOfBounds")
    limit = owner_hyperparameter("ActivityCutoffFactorMilli")
    rate_limits.check_window(state, netuid)
    rate_limits.check_limit(state, limit, origin, netuid)
    state.subtensor.put("ActivityCutoffFactorMilli", netuid, value=factor_milli)
    fields = {"netuid": netuid, "factor_milli": factor_milli}
    state.emit(_SUBTENSOR, "ActivityCutoffFactorMilliSet", fields)
    limit.record(state, origin, netuid)


def set_alpha_values(
    state: State, origin: str, *, netuid: int, alpha_low: int, alpha_high: int
) -> None:
    """AdminUtils.sudo_set_alpha_values: liquid alpha's bounds; needs liquid alpha enabled."""
    limit = owner_hyperparameter("AlphaValues")
    rate_limits.check_owner(state, netuid, origin)
    rate_limits.check_limit(state, limit, origin, netuid)
    rate_limits.check_window(state, netuid)
    if not state.subtensor.get("LiquidAlphaOn", netuid):
        raise state.fail(_SUBTENSOR, "LiquidAlphaDisabled")
    if alpha_high < _MIN_ALPHA:
        raise state.fail(_SUBTENSOR, "AlphaHighTooLow")
    if not _MIN_ALPHA <= alpha_low <= alpha_high:
        raise state.fail(_SUBTENSOR, "AlphaLowOutOfRange")
    state.subtensor.put("AlphaValues", netuid, value=(alpha_low, alpha_high))
    limit.record(state, origin, netuid)


def set_owner_hotkey(state: State, origin: str, *, netuid: int, hotkey: str) -> None:
    """AdminUtils.sudo_set_sn_owner_hotkey: whose uid is the owner's, at most weekly."""
    rate_limits.check_owner(state, netuid, origin)
    rate_limits.check_limit(state, rate_limits.OWNER_HOTKEY, origin, netuid)
    staking.check_no_system_account(state, hotkey)
    rate_limits.OWNER_HOTKEY.record(state, origin, netuid)
    state.subtensor.put("SubnetOwnerHotkey", netuid, value=hotkey)
    state.emit(_SUBTENSOR, "SubnetOwnerHotkeySet", (netuid, hotkey))


def trigger_epoch(state: State, origin: str, *, netuid: int) -> None:
    """SubtensorModule.trigger_epoch: an epoch `AdminFreezeWindow` blocks from now."""
    limit = owner_hyperparameter("TriggerEpoch")
    storage = state.subtensor
    rate_limits.check_owner(state, netuid, origin)
    if storage.get("CommitRevealWeightsEnabled", netuid):
        raise state.fail(_SUBTENSOR, "DynamicTempoBlockedByCommitReveal")
    if storage.get("PendingEpochAt", netuid):
        raise state.fail(_SUBTENSOR, "EpochTriggerAlreadyPending")
    window = storage.get("AdminFreezeWindow")
    if rate_limits.blocks_to_epoch(state, netuid) < window:
        raise state.fail(_SUBTENSOR, "AutoEpochAlreadyImminent")
    rate_limits.check_limit(state, limit, origin, netuid)
    fires_at = state.block_number + window
    storage.put("PendingEpochAt", netuid, value=fires_at)
    limit.record(state, origin, netuid)
    fields = {"netuid": netuid, "by": origin, "fires_at": fires_at}
    state.emit(_SUBTENSOR, "EpochTriggered", fields)


def _refuse_origin(_state: State, _origin: str, **_arguments: Any) -> None:
    raise DispatchFailed("BadOrigin")


def _refuse(error: str, state: State, _origin: str, **_arguments: Any) -> None:
    raise state.fail(_ADMIN, error)


def _owner(item: str, limit: str, *events: str, check: Check | None = None) -> _Setter:
    return _Setter(item=item, limit=owner_hyperparameter(limit), events=events, check=check)


_yuma3, _bonds_reset = "AdminUtils.Yuma3EnableToggled", "AdminUtils.BondsResetToggled"

# Setter without `sudo_set_`: item, kind of rate limit, events, bounds.
_SETTERS: dict[str, _Setter] = {
    "activity_cutoff": _owner(
        "ActivityCutoff", "ActivityCutoff", "ActivityCutoffSet", check=bounds.activity_cutoff
    ),
    "adjustment_alpha": _owner("AdjustmentAlpha", "AdjustmentAlpha", "AdjustmentAlphaSet"),
    "alpha_sigmoid_steepness": _owner(
        "AlphaSigmoidSteepness", "AlphaSigmoidSteepness", check=bounds.STEEPNESS
    ),
    "bonds_moving_average": _owner(
        "BondsMovingAverage",
        "BondsMovingAverage",
        "BondsMovingAverageSet",
        check=bounds.BONDS_MOVING_AVERAGE,
    ),
    "bonds_penalty": _owner("BondsPenalty", "BondsPenalty", "BondsPenaltySet"),
    "bonds_reset_enabled": _owner(
        "BondsResetOn", "BondsResetEnabled", "BondsResetOnSet", _bonds_reset
    ),
    "burn_half_life": _owner(
        "BurnHalfLife", "BurnHalfLife", "AdminUtils.BurnHalfLifeSet", check=bounds.BURN_HALF_LIFE
    ),
    "burn_increase_mult": _owner(
        "BurnIncreaseMult",
        "BurnIncreaseMult",
        "AdminUtils.BurnIncreaseMultSet",
        check=bounds.burn_increase,
    ),
    "commit_reveal_weights_enabled": _owner(
        "CommitRevealWeightsEnabled", "CommitRevealEnabled", "CommitRevealEnabled"
    ),
    "commit_reveal_weights_interval": _owner(
        "RevealPeriodEpochs",
        "WeightCommitInterval",
        "CommitRevealPeriodsSet",
        check=bounds.reveal_period,
    ),
    "immunity_period": _owner("ImmunityPeriod", "ImmunityPeriod", "ImmunityPeriodSet"),
    "liquid_alpha_enabled": _owner("LiquidAlphaOn", "LiquidAlphaEnabled"),
    "max_allowed_uids": _owner(
        "MaxAllowedUids", "MaxAllowedUids", "MaxAllowedUidsSet", check=bounds.max_uids
    ),
    "max_burn": _owner("MaxBurn", "MaxBurn", "MaxBurnSet", check=bounds.max_burn),
    "max_difficulty": _owner("MaxDifficulty", "MaxDifficulty", "MaxDifficultySet"),
    "min_allowed_weights": _owner("MinAllowedWeights", "MinAllowedWeights", "MinAllowedWeightSet"),
    "min_burn": _owner("MinBurn", "MinBurn", "MinBurnSet", check=bounds.min_burn),
    "min_childkey_take_per_subnet": _owner(
        "MinChildkeyTakePerSubnet",
        "MinChildkeyTake",
        "MinChildKeyTakePerSubnetSet",
        check=bounds.childkey_take,
    ),
    "owner_cut_auto_lock_enabled": _Setter(item="OwnerCutAutoLockEnabled", limit=None),
    "owner_cut_enabled": _Setter(item="OwnerCutEnabled", limit=None),
    "owner_immune_neuron_limit": _owner(
        "ImmuneOwnerUidsLimit", "ImmuneNeuronLimit", check=bounds.IMMUNE_OWNER_UIDS
    ),
    "rho": _owner("Rho", "Rho"),
    "serving_rate_limit": _owner("ServingRateLimit", "ServingRateLimit", "ServingRateLimitSet"),
    "toggle_transfer": _owner("TransferToggle", "TransferEnabled", "TransferToggle"),
    "weights_version_key": _Setter(
        item="WeightsVersionKey",
        limit=rate_limits.WEIGHTS_VERSION,
        events=("WeightsVersionKeySet",),
    ),
    "yuma3_enabled": _owner("Yuma3On", "Yuma3Enabled", _yuma3),
}
_ROOT_ONLY = (
    "adjustment_interval",
    "admin_freeze_window",
    "commit_reveal_version",
    "default_take",
    "difficulty",
    "kappa",
    "lock_reduction_interval",
    "max_allowed_validators",
    "max_epochs_per_block",
    "max_registrations_per_block",
    "min_allowed_uids",
    "min_difficulty",
    "min_non_immune_uids",
    "network_immunity_period",
    "network_min_lock_cost",
    "network_rate_limit",
    "network_registration_allowed",
    "owner_hparam_rate_limit",
    "rao_recycled",
    "stake_threshold",
    "start_call_delay",
    "subnet_emission_enabled",
    "subnet_limit",
    "subnet_owner_cut",
    "subtoken_enabled",
    "target_registrations_per_interval",
    "tx_rate_limit",
    "weights_set_rate_limit",
)
_SPECIAL: dict[str, Callable[..., None]] = {
    "activity_cutoff_factor": set_activity_cutoff_factor,
    "alpha_values": set_alpha_values,
    "network_pow_registration_allowed": partial(_refuse, "POWRegistrationDisabled"),
    "sn_owner_hotkey": set_owner_hotkey,
    "tempo": set_tempo,
    "total_issuance": partial(_refuse, "Deprecated"),
}
CALLS: dict[tuple[str, str], Callable[..., None]] = {
    **{(_ADMIN, f"sudo_set_{name}"): partial(_apply, s) for name, s in _SETTERS.items()},
    **{(_ADMIN, f"sudo_set_{name}"): _refuse_origin for name in _ROOT_ONLY},
    **{(_ADMIN, f"sudo_set_{name}"): call for name, call in _SPECIAL.items()},
    (_SUBTENSOR, "set_activity_cutoff_factor"): set_activity_cutoff_factor,
    (_SUBTENSOR, "set_tempo"): set_tempo,
    (_SUBTENSOR, "trigger_epoch"): trigger_epoch,
}
