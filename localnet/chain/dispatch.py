"""The table of calls, and the execution of a call on a block's state.

Owns the table, the calls open to strangers, the nonce bump and the outcome events. `pallets/`
owns the rules of each call.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from localnet.chain.extrinsics import Extrinsic, InvalidTransaction
from localnet.chain.pallets import (
    balances,
    commit_reveal,
    commitments,
    hyperparameters,
    moving,
    networks,
    registration,
    serving,
    shield,
    staking,
    system,
    unstaking,
    utility,
    weights,
)
from localnet.chain.state import DispatchFailed, State

_SUBTENSOR = "SubtensorModule"
_SET_COMMITMENT = ("Commitments", "set_commitment")


def _run(state: State, origin: str, call: Extrinsic | utility.Call) -> None:
    CALLS[call.pallet, call.function](state, origin, **call.args)


CALLS: dict[tuple[str, str], Callable[..., None]] = {
    ("Balances", "transfer_all"): balances.transfer_all,
    ("Balances", "transfer_allow_death"): balances.transfer_allow_death,
    ("Balances", "transfer_keep_alive"): balances.transfer_keep_alive,
    _SET_COMMITMENT: commitments.set_commitment,
    ("Commitments", "set_max_space"): commitments.set_max_space,
    ("System", "remark"): system.remark,
    ("System", "remark_with_event"): system.remark_with_event,
    shield.CALL: shield.submit_encrypted,
    (_SUBTENSOR, "add_stake"): staking.add_stake,
    (_SUBTENSOR, "add_stake_limit"): staking.add_stake_limit,
    (_SUBTENSOR, "batch_set_weights"): weights.batch_set_weights,
    (_SUBTENSOR, "burned_register"): registration.burned_register,
    **{(_SUBTENSOR, call.__name__): call for call in commit_reveal.CALLS},
    (_SUBTENSOR, "register_limit"): registration.register_limit,
    (_SUBTENSOR, "register_network"): networks.register_network,
    (_SUBTENSOR, "register_network_with_identity"): networks.register_network_with_identity,
    (_SUBTENSOR, "serve_axon"): serving.serve_axon,
    (_SUBTENSOR, "serve_axon_tls"): serving.serve_axon_tls,
    (_SUBTENSOR, "serve_prometheus"): serving.serve_prometheus,
    (_SUBTENSOR, "set_mechanism_weights"): weights.set_mechanism_weights,
    (_SUBTENSOR, "set_weights"): weights.set_weights,
    (_SUBTENSOR, "set_subnet_identity"): networks.set_subnet_identity,
    (_SUBTENSOR, "start_call"): networks.start_call,
    (_SUBTENSOR, "update_symbol"): networks.update_symbol,
    **{(_SUBTENSOR, call.__name__): call for call in (*moving.CALLS, *unstaking.CALLS)},
    **hyperparameters.CALLS,
    **{("Utility", call.__name__): partial(call, _run) for call in utility.CALLS},
}
# No weights are metered and no fee is taken.
_DISPATCH_INFO: dict[str, Any] = {
    "weight": {"ref_time": 0, "proof_size": 0},
    "class": "Normal",
    "pays_fee": "No",
}


def check_callable(call: Extrinsic | utility.Call) -> None:
    """Raise InvalidTransaction if the table lacks the call or a nested call.

    Also raises for arguments too large for the real runtime's types: the runtime fails to decode.
    """
    name = (call.pallet, call.function)
    if name not in CALLS:
        raise InvalidTransaction(
            f"Transaction call is not expected: the local chain has no {'.'.join(name)}"
        )
    if name == _SET_COMMITMENT and not commitments.fits(call.args["info"]):
        raise _undecodable("a commitment field is too long")
    if "commit" in call.args and not commit_reveal.fits(call.args["commit"]):
        raise _undecodable("a weight commit is too long")
    for nested in utility.nested_calls(call.pallet, call.args):
        check_callable(nested)


def _undecodable(what: str) -> InvalidTransaction:
    text = f"Could not decode the extrinsic: {what}"
    return InvalidTransaction(text, code=1001, message="Bad format")


def execute(state: State, extrinsic: Extrinsic) -> None:
    """Run one verified extrinsic in the open block; a failure leaves only its event and nonce."""
    balances.bump_nonce(state, extrinsic.signer)
    try:
        with state.transaction():
            _run(state, extrinsic.signer, extrinsic)
    except DispatchFailed as failed:
        outcome = {"dispatch_error": failed.dispatch_error, "dispatch_info": _DISPATCH_INFO}
        state.emit("System", "ExtrinsicFailed", outcome)
    else:
        state.emit("System", "ExtrinsicSuccess", {"dispatch_info": _DISPATCH_INFO})
