"""Rate limits of a subnet owner's changes: last blocks in storage, and the admin window.

Source: subtensor, utils/rate_limiting.rs and utils/misc/origin_and_admin.rs. Owns the
storage keys of the limits. `hyperparameters.py` gives each call a limit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from localnet.chain.state import DispatchFailed, State

MIN_TEMPO_BLOCKS = 360
SET_OWNER_HOTKEY_BLOCKS = 50_400
_PALLET = "SubtensorModule"


@dataclass(frozen=True, kw_only=True, slots=True)
class RateLimit:
    """One kind of change: `blocks` apart on a subnet, dated in one of two storage maps.

    `key` makes the entry of `LastRateLimitedBlock`; without it the change is dated per owner
    in `TransactionKeyLastBlock` under the number `transaction`.
    """

    blocks: Callable[[State, int], int]
    key: Callable[[int], Any] | None = None
    transaction: int = 0

    def passes(self, state: State, who: str, netuid: int) -> bool:
        """Whether the open block is far enough from the last change; true before any change."""
        last = self._last_block(state, who, netuid)
        return last == 0 or state.block_number - last >= self.blocks(state, netuid)

    def record(self, state: State, who: str, netuid: int) -> None:
        """Date the change to the open block."""
        now = state.block_number
        if self.key is not None:
            state.subtensor.put("LastRateLimitedBlock", self.key(netuid), value=now)
            return
        key = (who, netuid, self.transaction)
        state.subtensor.put("TransactionKeyLastBlock", *key, value=now)

    def _last_block(self, state: State, who: str, netuid: int) -> int:
        if self.key is not None:
            return int(state.subtensor.get("LastRateLimitedBlock", self.key(netuid)))
        key = (who, netuid, self.transaction)
        return int(state.subtensor.get("TransactionKeyLastBlock", *key))


def owner_hyperparameter(name: str) -> RateLimit:
    """`OwnerHyperparamRateLimit` tempos between two changes of one hyperparameter."""

    def key(netuid: int) -> Any:
        return {"OwnerHyperparamUpdate": (netuid, name)}

    return RateLimit(blocks=_tempos("OwnerHyperparamRateLimit"), key=key)


def _tempos(item: str) -> Callable[[State, int], int]:
    def blocks(state: State, netuid: int) -> int:
        return int(state.subtensor.get("Tempo", netuid)) * int(state.subtensor.get(item))

    return blocks


WEIGHTS_VERSION = RateLimit(blocks=_tempos("WeightsVersionKeyRateLimit"), transaction=4)
TEMPO = RateLimit(blocks=lambda _state, _netuid: MIN_TEMPO_BLOCKS, transaction=11)
OWNER_HOTKEY = RateLimit(
    blocks=lambda _state, _netuid: SET_OWNER_HOTKEY_BLOCKS,
    key=lambda netuid: {"SetSNOwnerHotkey": netuid},
)
NEW_NETWORK_KEY = "NetworkLastRegistered"
"""The entry of `LastRateLimitedBlock` with the block of the chain's last new subnet."""


def check_owner(state: State, netuid: int, origin: str) -> None:
    """BadOrigin for every caller but the subnet owner's coldkey; root does not exist here."""
    if state.subtensor.get("SubnetOwner", netuid) != origin:
        raise DispatchFailed("BadOrigin")


def check_limit(state: State, limit: RateLimit | None, origin: str, netuid: int) -> None:
    if limit is not None and not limit.passes(state, origin, netuid):
        raise state.fail(_PALLET, "TxRateLimitExceeded")


def check_window(state: State, netuid: int) -> None:
    """No change in the last `AdminFreezeWindow` blocks of a tempo, nor before a pending epoch."""
    pending = state.subtensor.get("PendingEpochAt", netuid)
    window = state.subtensor.get("AdminFreezeWindow")
    if pending > state.block_number or blocks_to_epoch(state, netuid) < window:
        raise state.fail(_PALLET, "AdminActionProhibitedDuringWeightsWindow")


def blocks_to_epoch(state: State, netuid: int) -> int:
    """Blocks until the automatic epoch of the open block's tempo, at least 0."""
    last = int(state.subtensor.get("LastEpochBlock", netuid))
    tempo = int(state.subtensor.get("Tempo", netuid))
    return max(0, last + tempo - state.block_number)
