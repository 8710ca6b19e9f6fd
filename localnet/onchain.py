"""On-chain work of owner and operators before a run: wallets, subnet, registration, stake.

Makes the SDK calls of `btcli` against the local chain; registration goes through the MEV shield.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import bittensor as bt

from localnet.roster import Participant
from template.chain import Chain
from template.chain.bittensor import ConnectionLost
from template.errors import ChainError

NETUID = 1
ENDOWMENT_TAO = 100_000
PERMIT_LIMIT_S = 120.0
_POLL_S = 0.2


def create_wallets(roster: Sequence[Participant], path: Path) -> dict[str, Any]:
    """Fresh, unencrypted wallets by participant's name, each with a single hotkey, `default`."""
    wallets = {}
    for participant in roster:
        wallet = bt.Wallet(participant.name, "default", str(path))
        wallet.create_new_coldkey(use_password=False, suppress=True, overwrite=True)
        wallet.create_new_hotkey(use_password=False, suppress=True, overwrite=True)
        wallets[participant.name] = wallet
    return wallets


class Registrar:
    """Signs the calls to start a subnet. A context manager; leaving closes the client."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._client = _connect(endpoint)

    def __enter__(self) -> "Registrar":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._client.close()

    def create_subnet(self, owner: Any) -> None:
        """Register the subnet and start it; the owner's hotkey is uid 0."""
        self._do("register the subnet", self._client.execute(bt.RegisterSubnet(), owner))
        self._do("start the subnet", self._client.execute(bt.StartCall(netuid=NETUID), owner))

    def register(self, wallet: Any) -> None:
        """Buy a uid for the wallet's hotkey, through the MEV shield."""
        hotkey = wallet.hotkey.ss58_address
        intent = bt.BurnedRegister(netuid=NETUID, hotkey_ss58=hotkey)
        # SDK 11.3 counts one nonce for a sealed call, but the call spends two: the same client
        # would sign the account's next call with a used nonce.
        with _connect(self._endpoint) as client:
            result = client.execute(intent, wallet, wait_for_finalization=False)
        self._do(f"register {hotkey}", result)

    def stake(self, wallet: Any, amount_tao: float) -> None:
        hotkey = wallet.hotkey.ss58_address
        intent = bt.AddStake(hotkey_ss58=hotkey, netuid=NETUID, amount_tao=amount_tao)
        result = self._client.execute(intent, wallet, wait_for_finalization=False)
        self._do(f"stake on {hotkey}", result)

    def weights(self) -> dict[int, dict[int, float]]:
        """Weights on chain now: validator's uid -> uid -> share of the validator's row."""
        rows = self._client.weights.weights(netuid=NETUID)
        return {int(uid): {int(u): float(w) for u, w in row.items()} for uid, row in rows.items()}

    def _do(self, what: str, result: Any) -> None:
        if not result.success:
            raise ChainError(f"could not {what}: {result.message}")


def _connect(endpoint: str) -> Any:
    return bt.Subtensor(network=endpoint, fallback_endpoints=[], archive_endpoints=[])


def weights_on_chain(endpoint: str) -> dict[int, dict[int, float]]:
    """`Registrar.weights` by a new client: an SDK client does not recover from a chain restart.

    Raises ConnectionLost if the chain does not answer.
    """
    try:
        with Registrar(endpoint) as registrar:
            return registrar.weights()
    except (bt.RpcConnectionError, bt.ConnectionNotReady, OSError) as error:
        raise ConnectionLost(f"the chain at {endpoint} does not answer: {error}") from error


def wait_for_permits(chain: Chain, hotkeys: Sequence[str]) -> None:
    """Wait for validator permits, granted by the epoch after the stake.

    Raises ChainError after PERMIT_LIMIT_S.
    """
    end_s = time.monotonic() + PERMIT_LIMIT_S
    while time.monotonic() < end_s:
        graph = chain.metagraph(chain.finalized())
        rows = [graph.by_hotkey(hotkey) for hotkey in hotkeys]
        if all(row is not None and row.validator_permit for row in rows):
            return
        time.sleep(_POLL_S)
    raise ChainError(f"no validator permits within {PERMIT_LIMIT_S:.0f} s")


def paid_block(chain: Chain, reveal_epochs: int) -> int:
    """The first block surely after an epoch on the present weights; an epoch runs every tempo.

    Before this block, incentives may come from earlier weights. `reveal_epochs`: epochs from a
    row's commit to the reveal, 0 without commit-reveal.
    """
    graph = chain.metagraph(chain.finalized())
    epochs = 1 + reveal_epochs
    return max(neuron.last_update for neuron in graph.neurons) + epochs * graph.tempo_blocks + 1


def alpha_stakes(chain: Chain) -> Mapping[str, int]:
    """hotkey -> alpha staked now, in rao. Emission is the growth until the end of the run."""
    graph = chain.metagraph(chain.finalized())
    return {neuron.hotkey: neuron.alpha_stake_rao for neuron in graph.neurons}
