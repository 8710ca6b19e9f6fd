"""A chain without a network for tests of its rules, and one in its own process for the rest."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import bittensor_core
import pytest

from localnet.chain.blocks import hex_of
from localnet.chain.chain import LocalChain, draw_secret
from localnet.chain.config import RAO_PER_TAO, ChainConfig, SubnetDefaults
from localnet.chain.metadata import load_metadata

NAMES = ("owner", "alice", "bob", "carol", "dave")
ENDOWMENT_RAO = 100_000 * RAO_PER_TAO
REPOSITORY = Path(__file__).parents[2]


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


@pytest.fixture(scope="session")
def wallets() -> dict[str, LocalWallet]:
    """The wallets of all endowed accounts, by name."""
    return {name: LocalWallet(name) for name in NAMES}


class Ledger:
    """A LocalChain with a pen: signs calls, seals blocks and names what went wrong."""

    def __init__(self, config: ChainConfig) -> None:
        self.config = config
        self.metadata = load_metadata()
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


def _config(**overrides: Any) -> ChainConfig:
    pace = {"weights_rate_limit_blocks": 5, "network_rate_limit_blocks": 0}
    subnet = {"tempo_blocks": 20, **pace, **overrides}
    endowed = {LocalWallet(name).cold: ENDOWMENT_RAO for name in NAMES}
    return ChainConfig(subnet=SubnetDefaults(**subnet), endowments_rao=endowed, seed="tests")


@pytest.fixture
def make_ledger() -> Callable[..., Ledger]:
    """Build a chain; keyword arguments are fields of SubnetDefaults."""
    return lambda **overrides: Ledger(_config(**overrides))


@pytest.fixture
def ledger(make_ledger: Callable[..., Ledger]) -> Ledger:
    """A chain with every account endowed and no subnet."""
    return make_ledger()


@pytest.fixture
def subnet(ledger: Ledger) -> Ledger:
    """The chain with subnet 1: owner is uid 0, alice, bob and carol are uids 1 to 3."""
    return populate(ledger)


@pytest.fixture
def populated() -> Callable[[Ledger], Ledger]:
    """Turn any fresh ledger into one like `subnet`."""
    return populate


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


@pytest.fixture(scope="module")
def start_chain() -> Iterator[Callable[..., ChainProcess]]:
    """Start chains with extra flags; all of them are stopped at the end of the module."""
    started: list[subprocess.Popen[str]] = []

    def start(*flags: str) -> ChainProcess:
        endowments = [f"{LocalWallet(name).cold}=100000" for name in NAMES]
        endow = [word for text in endowments for word in ("--endow", text)]
        command = [sys.executable, "-m", "localnet.chain", "--port", "0"]
        process = subprocess.Popen(
            [*command, *endow, *flags], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
        )
        started.append(process)
        assert process.stdout is not None
        ready = process.stdout.readline().split()
        assert ready[:1] == ["ready"], f"the chain did not start: {ready}"
        return ChainProcess(url=ready[1], process=process)

    yield start
    for process in started:
        process.terminate()
    for process in started:
        process.wait(timeout=10)
        if process.stdout is not None:
            process.stdout.close()
