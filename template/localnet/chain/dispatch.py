"""Which calls exist here, and what happens to a block's state when one is executed.

Owns the table of calls, the nonce bump and the outcome events. The rules of each call are
in `pallets/`.
"""

from collections.abc import Callable
from typing import Any

from template.localnet.chain.extrinsics import Extrinsic
from template.localnet.chain.pallets import balances, commitments, registration, staking, weights
from template.localnet.chain.state import DispatchFailed, State

_SUBTENSOR = "SubtensorModule"
CALLS: dict[tuple[str, str], Callable[..., None]] = {
    ("Balances", "transfer_keep_alive"): balances.transfer_keep_alive,
    ("Commitments", "set_commitment"): commitments.set_commitment,
    (_SUBTENSOR, "add_stake"): staking.add_stake,
    (_SUBTENSOR, "add_stake_limit"): staking.add_stake_limit,
    (_SUBTENSOR, "burned_register"): registration.burned_register,
    (_SUBTENSOR, "register_network"): registration.register_network,
    (_SUBTENSOR, "set_mechanism_weights"): weights.set_mechanism_weights,
    (_SUBTENSOR, "set_weights"): weights.set_weights,
    (_SUBTENSOR, "start_call"): registration.start_call,
}
# No weights are metered and no fee is taken.
_DISPATCH_INFO: dict[str, Any] = {
    "weight": {"ref_time": 0, "proof_size": 0},
    "class": "Normal",
    "pays_fee": "No",
}


def execute(state: State, extrinsic: Extrinsic) -> None:
    """Run one verified extrinsic in the open block; a failure leaves only its event and nonce."""
    balances.bump_nonce(state, extrinsic.signer)
    call = CALLS[extrinsic.pallet, extrinsic.function]
    try:
        with state.transaction():
            call(state, extrinsic.signer, **extrinsic.args)
    except DispatchFailed as failed:
        outcome = {"dispatch_error": failed.dispatch_error, "dispatch_info": _DISPATCH_INFO}
        state.emit("System", "ExtrinsicFailed", outcome)
    else:
        state.emit("System", "ExtrinsicSuccess", {"dispatch_info": _DISPATCH_INFO})
