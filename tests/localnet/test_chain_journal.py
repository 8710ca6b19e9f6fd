"""A chain that is killed continues where it was, hash for hash."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from template.errors import ConfigError
from template.localnet.chain.config import ChainConfig, SubnetDefaults
from template.localnet.chain.journal import open_chain
from template.localnet.chain.metadata import load_metadata


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chain.jsonl"


def open_at(path: Path, config: ChainConfig) -> Any:
    return open_chain(path, config, load_metadata(), now_ms=1_000)


def run_and_stop(path: Path, ledger: Any) -> list[bytes]:
    """A transfer and some empty blocks, journalled; returns the hashes of the blocks."""
    chain, journal = open_at(path, ledger.config)
    ledger.chain = chain
    for number in range(6):
        if number == 2:
            call = {"dest": ledger.wallets["bob"].cold, "value": 5_000}
            alice = ledger.wallets["alice"].coldkey
            chain.submit(ledger.sign(alice, "Balances", "transfer_keep_alive", **call))
        journal.write_block(chain, chain.produce_block(chain.now_ms + 250))
    journal.close()
    return [chain.blocks.at(number).hash for number in range(7)]


def test_a_restarted_chain_has_the_same_blocks_and_goes_on(path: Path, ledger: Any) -> None:
    hashes = run_and_stop(path, ledger)
    chain, journal = open_at(path, ledger.config)
    assert [chain.blocks.at(number).hash for number in range(7)] == hashes
    ledger.chain = chain
    assert ledger.free_rao(ledger.wallets["alice"].cold) == 100_000 * 10**9 - 5_000
    assert chain.next_nonce(ledger.wallets["alice"].cold) == 1
    journal.write_block(chain, chain.produce_block(chain.now_ms + 250))
    journal.close()
    again, journal = open_at(path, ledger.config)
    journal.close()
    assert again.head.hash == chain.head.hash
    assert again.head.header.number == 7


def test_a_line_cut_off_by_a_kill_is_dropped(path: Path, ledger: Any) -> None:
    hashes = run_and_stop(path, ledger)
    path.write_bytes(path.read_bytes()[:-20])
    chain, journal = open_at(path, ledger.config)
    journal.write_block(chain, chain.produce_block(chain.now_ms + 250))
    journal.close()
    assert chain.blocks.at(5).hash == hashes[5]
    again, journal = open_at(path, ledger.config)
    journal.close()
    assert again.head.hash == chain.head.hash


def test_other_flags_and_damage_are_errors(path: Path, ledger: Any) -> None:
    run_and_stop(path, ledger)
    with pytest.raises(ConfigError, match="other flags"):
        open_at(path, ChainConfig(subnet=SubnetDefaults(tempo_blocks=9)))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], *lines[4:]]))
    with pytest.raises(ConfigError, match="replays differently"):
        open_at(path, ledger.config)
    path.write_bytes(b"not json\n")
    with pytest.raises(ConfigError, match="not a chain's journal"):
        open_at(path, ledger.config)


def test_the_file_is_for_its_owner_only(path: Path, ledger: Any) -> None:
    run_and_stop(path, ledger)
    assert path.stat().st_mode & 0o077 == 0


def ask(url: str, method: str, *params: Any) -> Any:
    with connect(url) as socket:
        socket.send(json.dumps({"id": 1, "method": method, "params": params}))
        return json.loads(socket.recv())["result"]


def test_a_killed_process_comes_back_with_its_blocks(
    path: Path, start_chain: Callable[..., Any]
) -> None:
    flags = ("--block-time", "0.05", "--state", str(path))
    first = start_chain(*flags)
    while int(ask(first.url, "chain_getHeader")["number"], 16) < 5:
        time.sleep(0.02)
    hashes = ask(first.url, "chain_getBlockHash", list(range(6)))
    first.process.kill()
    first.process.wait(timeout=10)
    second = start_chain(*flags)
    assert ask(second.url, "chain_getBlockHash", list(range(6))) == hashes
    assert int(ask(second.url, "chain_getHeader")["number"], 16) >= 5
