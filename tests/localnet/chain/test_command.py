"""The command line of the local chain, and what its flags make of block 0 and the runtime."""

import re
import subprocess
import sys

import bittensor as bt
import bittensor_core
import pytest

from localnet.chain.__main__ import DEV_ACCOUNTS, build_parser
from localnet.chain.metadata import ChainMetadata, load_metadata, replace_u64_constant
from tests.support.localnet.ledger import REPOSITORY
from tests.support.waiting import HANG_S


def test_without_endowments_the_development_accounts_are_rich(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    command = [sys.executable, "-m", "localnet.chain", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--block-time", "0.5"], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert process.stdout is not None
    url = process.stdout.readline().split()[1]
    alice = bittensor_core.Keypair.create_from_uri("//Alice")
    bob = bittensor_core.Keypair.create_from_uri("//Bob")
    with bt.Subtensor(network=url, fallback_endpoints=[], archive_endpoints=[]) as client:
        held = [client.balances.get(key.ss58_address).tao for key in (alice, bob)]
        seconds = client.block_time()
    process.terminate()
    process.communicate(timeout=HANG_S)
    assert held == [1_000_000, 1_000_000]
    assert seconds == 0.5
    text = re.sub(r"\s+", " ", build_parser().format_help())
    assert "the development accounts //Alice, //Bob," in text
    assert len(DEV_ACCOUNTS) == 6


def test_the_block_time_is_all_that_changes_in_the_metadata() -> None:
    fast, slow = load_metadata(0.25), load_metadata(12)
    for metadata, slot_ms in ((fast, 250), (slow, 12_000)):
        assert metadata.codec.constant("Aura", "SlotDuration") == slot_ms
        assert metadata.codec.constant("Timestamp", "MinimumPeriod") == slot_ms // 2
    differing = [
        position
        for position, pair in enumerate(zip(fast.metadata_bytes, slow.metadata_bytes, strict=True))
        if pair[0] != pair[1]
    ]
    # 250 and 12,000, 125 and 6,000 differ in two bytes each.
    assert len(differing) == 4


def test_a_constant_that_is_not_there_is_an_error() -> None:
    metadata: ChainMetadata = load_metadata()
    for name, old in (("SlotDuration", 251), ("NoSuchConstant", 250)):
        with pytest.raises(ValueError, match=f"no constant {name} of value {old}"):
            replace_u64_constant(metadata.metadata_bytes, name, old=old, new=1)
