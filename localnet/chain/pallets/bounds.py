"""Between which values an owner may set a hyperparameter, and the error outside.

Source: subtensor, pallets/admin-utils/src/lib.rs and utils/misc/subnet_hyperparams.rs. Owns
the bounds; who may set what and when is `hyperparameters.py`.
"""

from collections.abc import Callable
from typing import Any

from localnet.chain.pallets import neurons
from localnet.chain.state import State

_ADMIN = "AdminUtils"
_SUBTENSOR = "SubtensorModule"
_FIXED_ONE = 1 << 64
_DEFAULT_MAX_UIDS = 256
_MAX_REVEAL_EPOCHS = 100

Check = Callable[[State, int, Any], None]
"""(state, netuid, value); raises the runtime's error for a value out of bounds."""


def _within(pallet: str, error: str, low: int, high: int) -> Check:
    def check(state: State, _netuid: int, value: int) -> None:
        if not low <= value <= high:
            raise state.fail(pallet, error)

    return check


def max_uids(state: State, netuid: int, value: int) -> None:
    if value < state.subtensor.get("MinAllowedUids", netuid):
        raise state.fail(_ADMIN, "MaxAllowedUidsLessThanMinAllowedUids")
    if value < neurons.num_uids(state, netuid):
        raise state.fail(_ADMIN, "MaxAllowedUIdsLessThanCurrentUIds")
    if value > _DEFAULT_MAX_UIDS:
        raise state.fail(_ADMIN, "MaxAllowedUidsGreaterThanDefaultMaxAllowedUids")


def min_burn(state: State, netuid: int, value: int) -> None:
    bound = state.metadata.codec.constant(_SUBTENSOR, "MinBurnUpperBound")
    if value >= bound or value >= state.subtensor.get("MaxBurn", netuid):
        raise state.fail(_ADMIN, "ValueNotInBounds")


def max_burn(state: State, netuid: int, value: int) -> None:
    bound = state.metadata.codec.constant(_SUBTENSOR, "MaxBurnLowerBound")
    if value <= bound or value <= state.subtensor.get("MinBurn", netuid):
        raise state.fail(_ADMIN, "ValueNotInBounds")


def activity_cutoff(state: State, _netuid: int, value: int) -> None:
    if value < state.subtensor.get("MinActivityCutoff"):
        raise state.fail(_SUBTENSOR, "ActivityCutoffTooLow")


def childkey_take(state: State, _netuid: int, value: int) -> None:
    storage = state.subtensor
    if not storage.get("MinChildkeyTake") <= value <= storage.get("MaxChildkeyTake"):
        raise state.fail(_ADMIN, "InvalidValue")


def burn_increase(state: State, _netuid: int, value: dict[str, int]) -> None:
    if not _FIXED_ONE <= value["bits"] <= 3 * _FIXED_ONE:
        raise state.fail(_ADMIN, "InvalidValue")


def reveal_period(state: State, _netuid: int, value: int) -> None:
    if value > _MAX_REVEAL_EPOCHS:
        raise state.fail(_SUBTENSOR, "RevealPeriodTooLarge")
    if value < 1:
        raise state.fail(_SUBTENSOR, "RevealPeriodTooSmall")


BONDS_MOVING_AVERAGE = _within(_ADMIN, "BondsMovingAverageMaxReached", 0, 975_000)
BURN_HALF_LIFE = _within(_ADMIN, "InvalidValue", 1, 36_100)
IMMUNE_OWNER_UIDS = _within(_SUBTENSOR, "InvalidValue", 1, 10)
STEEPNESS = _within(_ADMIN, "NegativeSigmoidSteepness", 0, 2**15 - 1)
