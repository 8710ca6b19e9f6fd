"""Accounts and a chain without a network, for tests of its rules."""

import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import bittensor_core

from localnet.chain.blocks import hex_of
from localnet.chain.chain import LocalChain, draw_secret
from localnet.chain.config import RAO_PER_TAO, ChainConfig, SubnetDefaults
from localnet.chain.metadata import load_metadata

NAMES = ("owner", "alice", "bob", "carol", "dave")
ENDOWMENT_RAO = 100_000 * RAO_PER_TAO
REPOSITORY = Path(__file__).parents[3]


@lru_cache
def _keypair(uri: str) -> Any:
    """Deriving one takes a millisecond, and every signed call asks for it."""
    return bittensor_core.Keypair.create_from_uri(uri)


@dataclass(frozen=True)
class LocalWallet:
    """What the SDK needs of a wallet: a coldkey and a hotkey, from a name."""

    name: str

    @property
    def coldkey(self) -> Any:
        return _keypair(f"//{self.name}")

    @property
    def coldkeypub(self) -> Any:
        return self.coldkey

    @property
    def hotkey(self) -> Any:
        return _keypair(f"//{self.name}//hot")

    @property
    def cold(self) -> str:
        return str(self.coldkey.ss58_address)

    @property
    def hot(self) -> str:
        return str(self.hotkey.ss58_address)


class Ledger:
    """A LocalChain with a pen: signs calls, seals blocks and names what went wrong."""

    def __init__(self, config: ChainConfig) -> None:
        self.config = config
        self.metadata = load_metadata(config.block_time_s)
        self.secret = draw_secret(config.seed)
        self.chain = LocalChain(config, self.metadata, secret=self.secret, now_ms=1_000)
        self.wallets = {name: LocalWallet(name) for name in NAMES}

    def sign(self, keypair: Any, pallet: str, function: str, /, **args: Any) -> bytes:
        """A valid immortal extrinsic with the account's next nonce."""
        nonce = self.chain.next_nonce(keypair.ss58_address)
        return self.sign_with(keypair, (pallet, function, args), nonce=nonce)

    def sign_with(
        self,
        keypair: Any,
        call: tuple[str, str, dict[str, Any]],
        *,
        nonce: int,
        era: Any = "00",
        checkpoint: bytes | None = None,
        genesis: bytes | None = None,
        tip: int = 0,
    ) -> bytes:
        """An extrinsic with any of its signed parts set to something else."""
        codec = self.metadata.codec
        composed = codec.compose_call(*call)
        own = self.chain.genesis_hash
        signed = {"era": era, "nonce": nonce, "tip": tip, "tip_asset_id": None}
        payload = codec.signature_payload(
            composed,
            genesis_hash=hex_of(genesis or own),
            era_block_hash=hex_of(checkpoint or own),
            **signed,
        )
        raw, _ = codec.encode_signed_extrinsic(
            composed,
            public_key=keypair.public_key,
            signature=keypair.sign(payload),
            signature_version=1,
            **signed,
        )
        return bytes(raw)

    def call(self, keypair: Any, pallet: str, function: str, /, **args: Any) -> str:
        """Submit, seal a block, and return "ok" or the name of the dispatch error."""
        self.chain.submit(self.sign(keypair, pallet, function, **args))
        self.seal()
        return self.outcomes()[-1]

    def seal(self, num_blocks: int = 1) -> None:
        for _ in range(num_blocks):
            self.chain.produce_block(self.chain.now_ms + 250)

    def outcomes(self) -> list[str]:
        """How each extrinsic of the head ended, in order."""
        state = self.chain.state_at(self.height)
        events = [record["event"] for record in state.system.get("Events")]
        return [
            self._outcome(event)
            for event in events
            if event["event_id"] in ("ExtrinsicSuccess", "ExtrinsicFailed")
        ]

    def _outcome(self, event: dict[str, Any]) -> str:
        if event["event_id"] == "ExtrinsicSuccess":
            return "ok"
        error = event["attributes"]["dispatch_error"]
        if isinstance(error, str):
            return error
        if "Module" not in error:
            return str(next(iter(error.values())))
        index = int(error["Module"]["error"][2:4], 16)
        return str(self.metadata.codec.module_error(error["Module"]["index"], index)["name"])

    @property
    def height(self) -> int:
        return self.chain.head.header.number

    def get(self, item: str, *keys: Any, block: int | None = None) -> Any:
        """A storage item of SubtensorModule, at the head unless a block is given."""
        at = self.height if block is None else block
        return self.chain.state_at(at).subtensor.get(item, *keys)

    def free_rao(self, address: str) -> int:
        account = self.chain.state_at(self.height).system.get("Account", address)
        return int(account["data"]["free"])


def ledger_config(**overrides: Any) -> ChainConfig:
    pace = {"weights_rate_limit_blocks": 5, "network_rate_limit_blocks": 0}
    subnet = {"tempo_blocks": 20, **pace, **overrides}
    endowed = {LocalWallet(name).cold: ENDOWMENT_RAO for name in NAMES}
    return ChainConfig(subnet=SubnetDefaults(**subnet), endowments_rao=endowed, seed="tests")


def populate(ledger: Ledger) -> Ledger:
    owner = ledger.wallets["owner"]
    pallet = "SubtensorModule"
    assert ledger.call(owner.coldkey, pallet, "register_network", hotkey=owner.hot) == "ok"
    assert ledger.call(owner.coldkey, pallet, "start_call", netuid=1) == "ok"
    for name in ("alice", "bob", "carol"):
        wallet = ledger.wallets[name]
        args = {"netuid": 1, "hotkey": wallet.hot}
        assert ledger.call(wallet.coldkey, pallet, "burned_register", **args) == "ok"
    return ledger


@dataclass(frozen=True)
class ChainProcess:
    """A chain that runs as `python -m localnet.chain`."""

    url: str
    process: subprocess.Popen[str]
