"""Coroutines for reads and writes on chain, from questions of ours to calls of the SDK."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import bittensor as bt

from template.chain.bittensor.translation import (
    translate_commitments,
    translate_metagraph,
    translate_weight_times,
)
from template.chain.bittensor.wallet import Wallet
from template.chain.types import Metagraph, WeightTimes
from template.errors import ChainError

logger = logging.getLogger(__name__)

# Runtimes up to spec version 461 lack this storage item, yet the SDK's SetWeights always reads it.
EPOCH_CONSENSUS = ("SubtensorModule", "SubnetEpochConsensus")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sdk:
    """A connected client, and the client's transport for raw reads."""

    client: bt.Client
    substrate: bt.RpcSubstrate


async def fetch_block_hash(sdk: Sdk, block: int) -> bytes:
    """Hash of a block, 32 bytes."""
    return bytes.fromhex((await sdk.substrate.block_hash(block)).removeprefix("0x"))


async def fetch_metagraph(sdk: Sdk, netuid: int, block: int) -> Metagraph:
    """The subnet after `block`. Raises ChainError if the subnet does not exist."""
    snapshot = await sdk.client.at(block)
    graph = await snapshot.subnets.metagraph(netuid, commitments=False)
    if graph is None:
        raise ChainError(
            f"netuid {netuid} does not exist at block {block}: check --netuid and "
            "--subtensor.network",
            "subnet_not_exists",
        )
    return translate_metagraph(graph, netuid, block)


async def fetch_commitments(sdk: Sdk, netuid: int, block: int) -> Mapping[str, bytes]:
    """hotkey -> commitment after `block`, from the storage map.

    The SDK's typed read would decode the bytes as text.
    """
    snapshot = await sdk.client.at(block)
    rows = await snapshot.query_map(bt.storage.Commitments.CommitmentOf, [netuid])
    return translate_commitments(rows)


async def fetch_weights(sdk: Sdk, netuid: int, block: int) -> Mapping[int, Mapping[int, float]]:
    """Validator's uid -> uid -> share after `block`; a row has sum 1, a row of zeros is empty."""
    snapshot = await sdk.client.at(block)
    rows = await snapshot.weights.weights(netuid=netuid)
    return {
        int(uid): {int(u): float(share) for u, share in row.items()} for uid, row in rows.items()
    }


async def fetch_weight_times(sdk: Sdk, netuid: int, block: int) -> WeightTimes:
    """The hyperparameters of weights after `block`. ChainError if the node does not tell them."""
    snapshot = await sdk.client.at(block)
    return translate_weight_times(await snapshot.subnets.subnet_hyperparameters(netuid), netuid)


async def fetch_balance(sdk: Sdk, coldkey: str) -> int:
    """Free balance of a coldkey at the best block, in rao."""
    account = await sdk.client.query(("System", "Account"), [coldkey])
    return int(account["data"]["free"])


async def fetch_registration_cost(sdk: Sdk, netuid: int) -> int:
    """What a registration in the subnet costs now, in rao."""
    return int(await sdk.client.query(("SubtensorModule", "Burn"), [netuid]))


async def fetch_least_version(sdk: Sdk, netuid: int) -> int:
    """The subnet's hyperparameter `weights_version`: the least version key of weights."""
    return int(await sdk.client.query(("SubtensorModule", "WeightsVersionKey"), [netuid]))


async def submit_call(sdk: Sdk, call: Any, wallet: Wallet) -> None:
    """Sign with the hotkey and wait for inclusion in a block."""
    result = await sdk.client.submit_call(
        call, wallet, signer="hotkey", wait_for_finalization=False
    )
    result.raise_for_failure()


async def submit_weights(sdk: Sdk, intent: bt.SetWeights, wallet: Wallet) -> None:
    """Set weights and wait for inclusion in a block; by commit-reveal if the subnet requires."""
    if not await _has_epoch_consensus(sdk, intent.netuid):
        logger.warning("old runtime: weights go by the raw call, without checks or commit-reveal")
        await submit_call(sdk, raw_weights_call(intent), wallet)
        return
    result = await sdk.client.execute(intent, wallet, wait_for_finalization=False)
    result.raise_for_failure()


async def _has_epoch_consensus(sdk: Sdk, netuid: int) -> bool:
    try:
        await sdk.client.query(EPOCH_CONSENSUS, [netuid])
    except ValueError:
        return False
    return True


def raw_weights_call(intent: bt.SetWeights) -> Any:
    """The call of `SetWeights` on a subnet without commit-reveal: shares as u16."""
    uids, values = bt.intents.normalize(intent.uids or [], intent.weights or [])
    return bt.calls.SubtensorModule.set_mechanism_weights(
        netuid=intent.netuid, mecid=0, dests=uids, weights=values, version_key=intent.version_key
    )
