"""A chain that is killed continues where it was, hash for hash; what is wrong is named."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bittensor_core
import pytest
from websockets.sync.client import connect

from localnet.chain.config import ChainConfig, SubnetDefaults
from localnet.chain.journal import open_chain
from localnet.chain.metadata import load_metadata
from template.errors import ConfigError
from tests.support.waiting import HANG_S

NUM_BLOCKS = 7


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chain.jsonl"


def open_at(path: Path, config: ChainConfig) -> Any:
    return open_chain(path, config, load_metadata(), now_ms=1_000)


def seal(chain: Any, journal: Any) -> None:
    journal.write_block(chain.produce_block(chain.now_ms + 250))


def run_and_stop(path: Path, ledger: Any) -> Any:
    """Blocks with a transfer, a sealed one and one that fails, journalled; the chain as it was."""
    chain, journal = open_at(path, ledger.config)
    ledger.chain = chain
    alice = ledger.wallets["alice"].coldkey
    for number in range(1, NUM_BLOCKS):
        if number == 2:
            chain.submit(transfer(ledger, 5_000))
        if number == 3:
            chain.submit(transfer(ledger, 10**17))
            chain.submit(sealed(ledger, transfer(ledger, 6_000, nonce=3), nonce=2))
        seal(chain, journal)
    journal.close()
    assert chain.next_nonce(alice.ss58_address) == 4
    assert [len(chain.blocks.at(n).extrinsics) for n in range(5)] == [0, 1, 2, 4, 1]
    return chain


def transfer(ledger: Any, rao: int, nonce: int | None = None) -> bytes:
    alice = ledger.wallets["alice"].coldkey
    args = {"dest": ledger.wallets["bob"].cold, "value": rao}
    call = ("Balances", "transfer_keep_alive", args)
    chosen = ledger.chain.next_nonce(alice.ss58_address) if nonce is None else nonce
    return bytes(ledger.sign_with(alice, call, nonce=chosen))


def sealed(ledger: Any, plain: bytes, nonce: int) -> bytes:
    chain = ledger.chain
    public = chain.state_at(ledger.height).shield.get("NextKey")
    key = bytes.fromhex(public.removeprefix("0x"))
    ciphertext = bittensor_core.encrypt_mlkem768(key, plain, include_key_hash=True)
    call = ("MevShield", "submit_encrypted", {"ciphertext": "0x" + bytes(ciphertext).hex()})
    era = {"period": 8, "current": ledger.height}
    checkpoint = chain.blocks.at(bittensor_core.era_birth(8, ledger.height)).hash
    alice = ledger.wallets["alice"].coldkey
    return bytes(ledger.sign_with(alice, call, nonce=nonce, era=era, checkpoint=checkpoint))


def all_of(chain: Any, number: int) -> Any:
    """Everything that a client can learn of a block: hash, header, body, state after it."""
    block = chain.blocks.at(number)
    keys = chain.raw_keys(b"", number, after=b"")
    return block, {key: chain.raw_value(key, number) for key in keys}


def test_a_restarted_chain_has_the_same_blocks_and_goes_on(path: Path, ledger: Any) -> None:
    before = run_and_stop(path, ledger)
    chain, journal = open_at(path, ledger.config)
    for number in range(NUM_BLOCKS):
        assert all_of(chain, number) == all_of(before, number)
    ledger.chain = chain
    alice = ledger.wallets["alice"].cold
    assert ledger.free_rao(alice) == 100_000 * 10**9 - 11_000
    assert chain.next_nonce(alice) == 4
    assert chain.now_ms == before.now_ms
    chain.submit(transfer(ledger, 5_000))
    seal(chain, journal)
    journal.close()
    again, journal = open_at(path, ledger.config)
    journal.close()
    assert all_of(again, NUM_BLOCKS) == all_of(chain, NUM_BLOCKS)
    assert again.head.header.number == NUM_BLOCKS


def test_time_jumps_over_a_pause_and_numbers_do_not(path: Path, ledger: Any) -> None:
    before = run_and_stop(path, ledger)
    hour_ms = 3_600_000
    chain, journal = open_at(path, ledger.config)
    journal.write_block(chain.produce_block(before.now_ms + hour_ms))
    journal.close()
    assert chain.head.header.number == NUM_BLOCKS
    assert chain.state_at(NUM_BLOCKS).timestamp.get("Now") == before.now_ms + hour_ms
    assert chain.head.header.parent_hash == before.head.hash


def line_starts(path: Path) -> list[int]:
    sizes = [len(line) for line in path.read_bytes().splitlines(keepends=True)]
    return [sum(sizes[:number]) for number in range(len(sizes))]


@pytest.mark.parametrize(
    "torn",
    [
        lambda last: last[:-1],
        lambda last: last[: len(last) // 2],
        lambda last: last[:1],
        lambda last: bytes(len(last)),
        lambda last: bytes(len(last) - 1) + b"\n",
        lambda last: last[:9] + bytes(64) + last[73:],
        lambda last: last.replace(b'"changes": "', b'"changes": "c'),
    ],
    ids=["no end", "half", "one byte", "zeros", "zeros and end", "hole", "other changes"],
)
def test_a_last_line_that_was_being_written_is_dropped(
    path: Path, ledger: Any, torn: Callable[[bytes], bytes]
) -> None:
    before = run_and_stop(path, ledger)
    data, start = path.read_bytes(), line_starts(path)[-1]
    path.write_bytes(data[:start] + torn(data[start:]))
    chain, journal = open_at(path, ledger.config)
    assert path.read_bytes() == data[:start]
    assert chain.head.header.number == NUM_BLOCKS - 2
    assert all_of(chain, NUM_BLOCKS - 2) == all_of(before, NUM_BLOCKS - 2)
    seal(chain, journal)
    journal.close()
    again, journal = open_at(path, ledger.config)
    journal.close()
    assert again.head.hash == chain.head.hash


@pytest.mark.parametrize("kept", ["nothing", "some of line 1", "line 1", "some of line 2"])
def test_a_first_write_that_did_not_get_through_is_a_new_chain(
    path: Path, ledger: Any, kept: str
) -> None:
    before = run_and_stop(path, ledger)
    data, genesis_at = path.read_bytes(), line_starts(path)[1]
    size = {"nothing": 0, "some of line 1": 20, "line 1": genesis_at}.get(kept, genesis_at + 50)
    path.write_bytes(data[:size])
    chain, journal = open_at(path, ledger.config)
    seal(chain, journal)
    journal.close()
    again, journal = open_at(path, ledger.config)
    journal.close()
    assert again.head.hash == chain.head.hash
    assert again.head.header.number == 1
    # The tests' chains draw from a seed: same genesis, but a life of its own after it.
    assert again.genesis_hash == before.genesis_hash


@pytest.mark.parametrize("number", [0, 2, NUM_BLOCKS - 2])
def test_damage_before_the_last_line_is_an_error_and_the_file_stays(
    path: Path, ledger: Any, number: int
) -> None:
    run_and_stop(path, ledger)
    data = bytearray(path.read_bytes())
    position = line_starts(path)[number + 1] + 15
    data[position] = ord("0") + (data[position] == ord("0"))
    path.write_bytes(bytes(data))
    with pytest.raises(ConfigError, match=f"--state {path} is damaged .block {number} does not"):
        open_at(path, ledger.config)
    assert path.read_bytes() == bytes(data)


def test_a_damaged_first_line_is_an_error(path: Path, ledger: Any) -> None:
    run_and_stop(path, ledger)
    path.write_bytes(path.read_bytes().replace(b'"secret"', b'"sxcret"'))
    with pytest.raises(ConfigError, match="damaged .its first line cannot be read"):
        open_at(path, ledger.config)


def test_a_missing_block_is_damage(path: Path, ledger: Any) -> None:
    run_and_stop(path, ledger)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], *lines[5:]]))
    with pytest.raises(ConfigError, match="block 3 does not follow"):
        open_at(path, ledger.config)


def test_other_flags_are_named(path: Path, ledger: Any) -> None:
    run_and_stop(path, ledger)
    config = ledger.config
    subnet: SubnetDefaults = replace(config.subnet, tempo_blocks=9)
    with pytest.raises(ConfigError, match=r"another --tempo .tempo_blocks was 20, is 9.:"):
        open_at(path, replace(config, subnet=subnet))
    others = replace(config, block_time_s=0.5, endowments_rao={}, seed="sesame")
    with pytest.raises(ConfigError, match=r"another --block-time .*, --endow, --seed: start"):
        open_at(path, others)


@pytest.mark.parametrize("content", [b"# Notes\n\nno journal\n", b"{}\n", b'{"now_ms": 1}\n', b"x"])
def test_a_file_that_is_no_journal_is_refused_and_kept(
    path: Path, ledger: Any, content: bytes
) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"--state {path} is not a journal"):
        open_at(path, ledger.config)
    assert path.read_bytes() == content


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, ledger: Any) -> None:
    for place in (tmp_path, tmp_path / "none" / "chain.jsonl"):
        with pytest.raises(ConfigError, match=f"--state {place}: .*give a file"):
            open_at(place, ledger.config)


def test_one_process_at_a_time(path: Path, ledger: Any) -> None:
    chain, journal = open_at(path, ledger.config)
    with pytest.raises(ConfigError, match=f"--state {path}: another chain runs on this file"):
        open_at(path, ledger.config)
    seal(chain, journal)
    journal.close()
    again, journal = open_at(path, ledger.config)
    journal.close()
    assert again.head.hash == chain.head.hash


def test_the_file_is_for_its_owner_only(path: Path, ledger: Any) -> None:
    run_and_stop(path, ledger)
    assert path.stat().st_mode & 0o077 == 0


def ask(url: str, method: str, *params: Any) -> Any:
    with connect(url) as socket:
        socket.send(json.dumps({"id": 1, "method": method, "params": params}))
        return json.loads(socket.recv())["result"]


def height(url: str) -> int:
    return int(ask(url, "chain_getHeader")["number"], 16)


def test_a_killed_process_comes_back_on_its_port_with_its_blocks(
    path: Path, start_chain: Callable[..., Any]
) -> None:
    flags = ("--block-time", "0.05", "--state", str(path))
    first = start_chain(*flags)
    port = first.url.rpartition(":")[2]
    while height(first.url) < 5:
        time.sleep(0.02)
    hashes = ask(first.url, "chain_getBlockHash", list(range(6)))
    # A client that is connected when the process dies leaves its port in use for a while.
    with connect(first.url):
        first.process.kill()
        first.process.wait(timeout=HANG_S)
        second = start_chain(*flags, "--port", port)
    assert second.url == first.url
    assert ask(second.url, "chain_getBlockHash", list(range(6))) == hashes
    head = height(second.url)
    assert head >= 5
    while height(second.url) <= head + 1:
        time.sleep(0.02)
