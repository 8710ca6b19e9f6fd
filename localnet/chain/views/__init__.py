"""The clients' runtime APIs: answers computed from the state at a block.

Owns the mapping from `Api_method` to a value of the declared type, without any state. A method
outside `RUNTIME_APIS` is refused by name.
"""

from collections.abc import Callable
from typing import Any

from localnet.chain.pallets import balances
from localnet.chain.views import (
    absent,
    delegates,
    hyperparameters,
    metagraph,
    neurons,
    stake,
    subnets,
)

_SUBNETS: dict[str, Callable[..., Any]] = {
    "get_all_dynamic_info": subnets.all_dynamic_info,
    "get_all_mechagraphs": metagraph.all_metagraphs,
    "get_all_metagraphs": metagraph.all_metagraphs,
    "get_coldkey_auto_stake_hotkey": stake.auto_stake_hotkey,
    "get_dynamic_info": subnets.dynamic_info,
    "get_mechagraph": metagraph.mechagraph,
    "get_metagraph": metagraph.metagraph,
    "get_next_epoch_start_block": subnets.next_epoch_start_block,
    "get_selective_mechagraph": metagraph.selective_mechagraph,
    "get_selective_metagraph": metagraph.selective_metagraph,
    "get_subnet_account_id": subnets.subnet_account,
    "get_subnet_hyperparams": hyperparameters.hyperparameters,
    "get_subnet_hyperparams_v2": hyperparameters.hyperparameters_v2,
    "get_subnet_hyperparams_v3": hyperparameters.hyperparameter_entries,
    "get_subnet_info": subnets.subnet_info,
    "get_subnet_info_v2": subnets.subnet_info,
    "get_subnet_state": metagraph.subnet_state,
    "get_subnet_to_prune": subnets.subnet_to_prune,
    "get_subnets_info": subnets.subnets_info,
    "get_subnets_info_v2": subnets.subnets_info,
}
_NEURONS: dict[str, Callable[..., Any]] = {
    "get_neuron": neurons.neuron,
    "get_neuron_lite": neurons.neuron_lite,
    "get_neurons": neurons.neurons_full,
    "get_neurons_lite": neurons.neurons_lite,
}
_DELEGATES: dict[str, Callable[..., Any]] = {
    "get_delegate": delegates.delegate,
    "get_delegated": delegates.delegated,
    "get_delegates": delegates.delegates,
}
_STAKE: dict[str, Callable[..., Any]] = {
    "get_coldkey_lock": absent.nothing,
    "get_hotkey_conviction": absent.fixed_zero,
    "get_most_convicted_hotkey_on_subnet": absent.nothing,
    "get_stake_availability_for_coldkeys": stake.stake_availability,
    # Staking is free of charge here.
    "get_stake_fee": absent.zero,
    "get_stake_info_for_coldkey": stake.coldkey_stake_info,
    "get_stake_info_for_coldkeys": stake.coldkeys_stake_info,
    "get_stake_info_for_hotkey_coldkey_netuid": stake.stake_info,
}
_SWAP: dict[str, Callable[..., Any]] = {
    "current_alpha_price": stake.alpha_price_rao,
    "current_alpha_price_all": stake.alpha_prices_rao,
    "sim_swap_alpha_for_tao": stake.simulate_swap,
    "sim_swap_tao_for_alpha": stake.simulate_swap,
}
_BASKETS: dict[str, Callable[..., Any]] = {
    "get_all_beta_pricing": absent.beta_pricing_page,
    "get_all_validator_baskets": absent.empty,
    "get_basket_position": absent.nothing,
    "get_basket_trading_status": absent.basket_trading_status,
    "get_beta_pricing": absent.nothing,
    "get_root_basket_owed": absent.zero,
    "get_root_basket_portfolio": absent.empty,
    "get_root_basket_positions": absent.empty,
    "get_root_basket_total_nav": absent.zero,
    "get_validator_basket": absent.empty,
    "get_validator_basket_nav": absent.zero,
    "get_validator_basket_summary": absent.basket_summary,
}
_BY_API = {
    "BetaBasketRuntimeApi": _BASKETS,
    "DelegateInfoRuntimeApi": _DELEGATES,
    "NeuronInfoRuntimeApi": _NEURONS,
    "StakeInfoRuntimeApi": _STAKE,
    "SubnetInfoRuntimeApi": _SUBNETS,
    "SwapRuntimeApi": _SWAP,
}
RUNTIME_APIS: dict[str, Callable[..., Any]] = {
    "AccountNonceApi_account_nonce": balances.nonce,
    "SubnetRegistrationRuntimeApi_get_network_registration_cost": subnets.network_cost_rao,
    **{f"{api}_{name}": view for api, table in _BY_API.items() for name, view in table.items()},
}
# Fees are zero, so the answer does not depend on the extrinsic that is asked about.
FEE_QUOTE: dict[str, Any] = {
    "weight": {"ref_time": 0, "proof_size": 0},
    "class": "Normal",
    "partial_fee": 0,
}
FEE_METHODS = (
    "TransactionPaymentApi_query_info",
    "TransactionPaymentCallApi_query_call_info",
)
