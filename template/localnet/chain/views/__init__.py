"""The runtime APIs that clients call: answers computed from the state at one block.

Owns the mapping from `Api_method` to a value of the declared type. It changes nothing and
keeps nothing. What is not listed in `RUNTIME_APIS` is refused by name.
"""

from collections.abc import Callable
from typing import Any

from template.localnet.chain.pallets import balances
from template.localnet.chain.views import neurons, stake, subnets

RUNTIME_APIS: dict[str, Callable[..., Any]] = {
    "AccountNonceApi_account_nonce": balances.nonce,
    "BetaBasketRuntimeApi_get_root_basket_owed": stake.basket_owed_rao,
    "BetaBasketRuntimeApi_get_root_basket_positions": stake.basket_positions,
    "NeuronInfoRuntimeApi_get_neuron": neurons.neuron,
    "NeuronInfoRuntimeApi_get_neuron_lite": neurons.neuron_lite,
    "NeuronInfoRuntimeApi_get_neurons": neurons.neurons_full,
    "NeuronInfoRuntimeApi_get_neurons_lite": neurons.neurons_lite,
    "StakeInfoRuntimeApi_get_stake_availability_for_coldkeys": stake.stake_availability,
    "StakeInfoRuntimeApi_get_stake_info_for_coldkey": stake.coldkey_stake_info,
    "StakeInfoRuntimeApi_get_stake_info_for_coldkeys": stake.coldkeys_stake_info,
    "StakeInfoRuntimeApi_get_stake_info_for_hotkey_coldkey_netuid": stake.stake_info,
    "SubnetInfoRuntimeApi_get_all_dynamic_info": subnets.all_dynamic_info,
    "SubnetInfoRuntimeApi_get_dynamic_info": subnets.dynamic_info,
    "SubnetInfoRuntimeApi_get_mechagraph": subnets.mechagraph,
    "SubnetInfoRuntimeApi_get_metagraph": subnets.metagraph,
    "SubnetInfoRuntimeApi_get_next_epoch_start_block": subnets.next_epoch_start_block,
    "SubnetInfoRuntimeApi_get_subnet_hyperparams": subnets.hyperparameters,
    "SubnetInfoRuntimeApi_get_subnet_hyperparams_v3": subnets.hyperparameter_entries,
    "SubnetRegistrationRuntimeApi_get_network_registration_cost": subnets.network_cost_rao,
    "SwapRuntimeApi_current_alpha_price": stake.alpha_price_rao,
    "SwapRuntimeApi_current_alpha_price_all": stake.alpha_prices_rao,
    "SwapRuntimeApi_sim_swap_tao_for_alpha": stake.simulate_stake,
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
