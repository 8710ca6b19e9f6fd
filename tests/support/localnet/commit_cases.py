"""Chains with commit-reveal, and commits to a recorded pulse of the public beacon."""

from typing import Any

import bittensor_core

from localnet.chain.config import ChainConfig, SubnetDefaults
from localnet.chain.drand import round_time_s
from tests.support.localnet.ledger import ENDOWMENT_RAO, NAMES, Ledger, LocalWallet, populate

S = "SubtensorModule"
TEMPO = 20
TAO = 10**9
ROUND = 1_000
# quicknet's own signatures of rounds 1000 and 1001, as drand published them in August 2023.
PULSES = {
    ROUND: "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125"
    "e342b73a8dd2bacbe47e4b6b63ed5e39",
    ROUND + 1: "b33bf3667cbd5a82de3a24b4e0e9fe5513cc1a0e840368c6e31f5fcfa79bea03"
    "f73896b25883abf2853d10337fb8fa41",
}
PAYLOAD = "(Vec<u8>,Vec<u16>,Vec<u16>,u64)"


def make_chain(commit_reveal: str, **subnet: Any) -> Ledger:
    """Subnet 1 at the start of an epoch in which alice (uid 1) has a permit."""
    defaults = {"tempo_blocks": TEMPO, "weights_rate_limit_blocks": 0, **subnet}
    ledger = Ledger(
        ChainConfig(
            subnet=SubnetDefaults(commit_reveal=commit_reveal, **defaults),
            endowments_rao={LocalWallet(name).cold: ENDOWMENT_RAO for name in NAMES},
            seed="commits",
            drand_pulses={ROUND: PULSES[ROUND]},
        )
    )
    populate(ledger)
    alice = ledger.wallets["alice"]
    stake = {"hotkey": alice.hot, "netuid": 1, "amount_staked": 1000 * TAO}
    assert ledger.call(alice.coldkey, S, "add_stake", **stake) == "ok"
    run_to_epoch(ledger)
    return ledger


def run_to_epoch(ledger: Ledger) -> int:
    """Seal blocks up to and including the next epoch's first; returns the epoch."""
    epoch = ledger.get("SubnetEpochIndex", 1)
    while ledger.get("SubnetEpochIndex", 1) == epoch:
        ledger.seal()
    return int(epoch) + 1


def pulse(ledger: Ledger) -> None:
    """Seal a block whose time is that of the recorded pulse."""
    ledger.chain.produce_block(round_time_s(ROUND) * 1000)


def call(ledger: Ledger, name: str, function: str, **args: Any) -> str:
    return ledger.call(ledger.wallets[name].hotkey, S, function, netuid=1, **args)


def payload(ledger: Ledger, name: str, row: dict[int, int], version_key: int = 0) -> bytes:
    """What a client encrypts."""
    key = ledger.wallets[name].hotkey.public_key
    value = (key, list(row), list(row.values()), version_key)
    return bytes(ledger.metadata.codec.encode(PAYLOAD, value))


def seal_to_round(data: bytes, number: int = ROUND) -> bytes:
    """The ciphertext that a client commits."""
    sealed, _ = bittensor_core.encrypt_at_round(data, number)
    return bytes(bittensor_core.inner_ciphertext(sealed))


def commit(ledger: Ledger, name: str, data: bytes, **changes: Any) -> str:
    args = {
        "mecid": 0,
        "commit": "0x" + data.hex(),
        "reveal_round": ROUND,
        "commit_reveal_version": 4,
        **changes,
    }
    return call(ledger, name, "commit_timelocked_mechanism_weights", **args)


def commit_row(ledger: Ledger, name: str, row: dict[int, int], **changes: Any) -> str:
    return commit(ledger, name, seal_to_round(payload(ledger, name, row)), **changes)


def events(ledger: Ledger) -> list[tuple[str, Any]]:
    """(name, attributes) of the head's events of the pallet."""
    records = ledger.chain.state_at(ledger.height).system.get("Events")
    found = [record["event"] for record in records]
    return [(e["event_id"], e["attributes"]) for e in found if e["module_id"] == S]


def queued(ledger: Ledger, epoch: int) -> list[Any]:
    return list(ledger.get("TimelockedWeightCommits", 1, epoch))


def put(ledger: Ledger, item: str, *keys: Any, value: Any) -> None:
    """Write a storage item in the open block, as the runtime's root may."""
    ledger.chain._state.subtensor.put(item, *keys, value=value)
