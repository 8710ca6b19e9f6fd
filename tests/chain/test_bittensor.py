"""The SDK adapter against the local chain, over a socket that can be cut and stalled."""

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bittensor as bt
import pytest
from bittensor.keyfiles import Keypair

from template.chain.bittensor import BittensorChain, ChainOptions, ConnectionLost, open_wallet
from template.chain.bittensor.calls import raw_weights_call, submit_call
from template.chain.waiter import Waiter
from template.errors import ChainError, ConfigError
from tests.support.relay import LOCALHOST, Relay, free_port

NETUID = 1
IMPATIENT = ChainOptions(read_timeout_s=1.0, read_deadline_s=1.0, write_timeout_s=2.0)
LESS_PATIENT = ChainOptions(read_timeout_s=8.0, read_deadline_s=8.0, write_timeout_s=15.0)
RATE_LIMIT_BLOCKS = 15
CHAIN_FLAGS = ["--block-time", "0.1", "--tempo", "12"]
CHAIN_FLAGS += ["--weights-rate-limit", str(RATE_LIMIT_BLOCKS)]


@dataclass(frozen=True)
class Keys:
    """A wallet held in memory, as the SDK accepts it."""

    coldkey: Keypair
    hotkey: Keypair

    @property
    def coldkeypub(self) -> Keypair:
        return self.coldkey


OWNER = Keys(Keypair.create_from_uri("//Alice"), Keypair.create_from_uri("//Alice//hot"))
MINER = Keys(Keypair.create_from_uri("//Bob"), Keypair.create_from_uri("//Bob//hot"))
STRANGER = Keys(Keypair.create_from_uri("//Eve"), Keypair.create_from_uri("//Eve//hot"))


def url(port: int) -> str:
    return f"ws://{LOCALHOST}:{port}"


@contextlib.contextmanager
def chain_process(*flags: str, port: int | None = None) -> Iterator[int]:
    """A local chain in a process of its own; yields the port once the chain answers."""
    port = port or free_port()
    command = [sys.executable, "-m", "localnet.chain", "--port", str(port)]
    for keys in (OWNER, MINER):
        command += ["--endow", f"{keys.coldkey.ss58_address}=100000"]
    process = subprocess.Popen([*command, *CHAIN_FLAGS, *flags], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline(), "the chain ended before it was ready"
        yield port
    finally:
        process.terminate()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


def make_subnet(chain_port: int) -> None:
    calls = bt.calls.SubtensorModule
    submit(chain_port, calls.register_network(hotkey=OWNER.hotkey.ss58_address), OWNER)
    submit(chain_port, calls.start_call(netuid=NETUID), OWNER)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A chain with one subnet: the owner is uid 0, the miner uid 1."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HOME", str(home))
        environment.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(home / "runtime"))
        with chain_process() as chain_port:
            make_subnet(chain_port)
            hotkey = MINER.hotkey.ss58_address
            call = bt.calls.SubtensorModule.burned_register(netuid=NETUID, hotkey=hotkey)
            submit(chain_port, call, MINER)
            yield chain_port


def submit(chain_port: int, call: object, keys: Keys, signer: str = "coldkey") -> None:
    with bt.Subtensor(url(chain_port), fallback_endpoints=[], archive_endpoints=[]) as sdk:
        result = sdk.submit_call(call, keys, signer=signer, wait_for_finalization=False)
        result.raise_for_failure()


@pytest.fixture
def open_chain(port: int) -> Iterator[Callable[..., BittensorChain]]:
    """Open adapters that are closed when the test ends."""
    opened: list[BittensorChain] = []

    def build(
        wallet: Any = None,
        *,
        at_port: int = port,
        netuid: int = NETUID,
        options: ChainOptions | None = None,
    ) -> BittensorChain:
        chain = BittensorChain(
            endpoint=url(at_port), netuid=netuid, wallet=wallet, version_key=0, options=options
        )
        opened.append(chain)
        return chain

    yield build
    for chain in opened:
        chain.close()


def wait_for_rate_limit(chain: BittensorChain, uid: int) -> None:
    """Registration counts as the first setting of weights."""
    last_update = chain.metagraph(chain.head()).neurons[uid].last_update
    while chain.head() <= last_update + RATE_LIMIT_BLOCKS:
        time.sleep(0.05)


@pytest.fixture
def proxy(port: int) -> Iterator[Relay]:
    relay = Relay(port)
    yield relay
    relay.flowing.set()
    relay.refuse()


# Reading


def test_head_finality_and_hashes(open_chain: Callable[..., BittensorChain]):
    chain = open_chain()
    final = chain.finalized()
    assert 0 < final <= chain.head()
    hashes = [chain.block_hash(block) for block in range(final + 1)]
    assert {len(block_hash) for block_hash in hashes} == {32}
    assert len(set(hashes)) == final + 1


def test_a_block_that_does_not_exist_is_an_error_and_breaks_nothing(
    open_chain: Callable[..., BittensorChain],
):
    chain = open_chain()
    head = chain.head()
    with pytest.raises(ChainError):
        chain.block_hash(head + 100_000)
    with pytest.raises(ChainError):
        chain.metagraph(head + 100_000)
    assert chain.head() >= head


def test_metagraph_is_the_subnet_as_it_stood(open_chain: Callable[..., BittensorChain]):
    chain = open_chain()
    now = chain.metagraph(chain.head())
    assert (now.netuid, now.tempo_blocks) == (NETUID, 12)
    assert now.owner_hotkey == OWNER.hotkey.ss58_address
    assert [neuron.uid for neuron in now.neurons] == list(range(len(now.neurons)))
    miner = now.by_hotkey(MINER.hotkey.ss58_address)
    assert miner is not None
    assert miner.coldkey == MINER.coldkey.ss58_address
    before = chain.metagraph(miner.block_at_registration - 1)
    assert before.block == miner.block_at_registration - 1
    assert [neuron.hotkey for neuron in before.neurons] == [OWNER.hotkey.ss58_address]


def test_stake_is_the_integer_on_chain_at_the_block(
    open_chain: Callable[..., BittensorChain], port: int
):
    chain = open_chain()
    before = chain.head()
    hotkey = MINER.hotkey.ss58_address
    call = bt.calls.SubtensorModule.add_stake(
        hotkey=hotkey, netuid=NETUID, amount_staked=123_456_789_012
    )
    submit(port, call, MINER)
    after = chain.head()
    stakes = [chain.metagraph(block).neurons[1] for block in (before, after)]
    assert type(stakes[1].total_stake_rao) is int
    assert stakes[1].total_stake_rao > stakes[0].total_stake_rao
    assert stakes[1].alpha_stake_rao > stakes[0].alpha_stake_rao


def test_a_subnet_that_does_not_exist_is_named(open_chain: Callable[..., BittensorChain]):
    chain = open_chain(netuid=77)
    with pytest.raises(ChainError, match="netuid 77") as caught:
        chain.metagraph(chain.head())
    assert caught.value.code == "subnet_not_exists"


def test_final_answers_are_kept_and_others_are_not(open_chain: Callable[..., BittensorChain]):
    chain = open_chain(options=ChainOptions(cached_answers=2))
    # The subnet exists at the present head, so a later block's parent has a metagraph too.
    Waiter(chain).until_finalized(chain.head() + 1)
    final = chain.finalized()
    head = chain.head()
    assert chain.metagraph(final) is chain.metagraph(final)
    assert chain.metagraph(head) is not chain.metagraph(head)
    kept = chain.metagraph(final)
    chain.metagraph(final - 1)
    assert chain.metagraph(final) is kept
    chain.commitments(final)
    chain.block_hash(final)
    assert chain.metagraph(final) is not kept
    assert chain.metagraph(final) == kept


# Writing


def test_published_bytes_are_read_back_exactly(open_chain: Callable[..., BittensorChain]):
    chain = open_chain(OWNER)
    hotkey = OWNER.hotkey.ss58_address
    records = [os.urandom(num_bytes) for num_bytes in (1, 128, 129, 384)]
    records += [b"\x00" * 130, b"\xff\xfe\x80" * 9, b"0x6162"]
    blocks = []
    for record in records:
        chain.publish(record)
        blocks.append(chain.head())
    for block, record in zip(blocks, records, strict=True):
        assert chain.commitments(block)[hotkey] == record


def test_publish_returns_without_finality(open_chain: Callable[..., BittensorChain]):
    with chain_process("--finality-lag", "1000") as unfinal_port:
        make_subnet(unfinal_port)
        chain = open_chain(OWNER, at_port=unfinal_port)
        chain.publish(b"in a block")
        assert chain.commitments(chain.head()) == {OWNER.hotkey.ss58_address: b"in a block"}
        assert chain.finalized() == 0


def test_commitments_of_another_kind_are_not_ours(
    open_chain: Callable[..., BittensorChain], port: int
):
    chain = open_chain()
    hashed = bt.calls.Commitments.set_commitment(
        netuid=NETUID, info={"fields": [{"Sha256": "0x" + "07" * 32}]}
    )
    submit(port, hashed, MINER, signer="hotkey")
    assert MINER.hotkey.ss58_address not in chain.commitments(chain.head())


@pytest.mark.parametrize("num_bytes", [0, 385])
def test_records_that_do_not_fit_are_refused_before_the_chain(
    open_chain: Callable[..., BittensorChain], num_bytes: int
):
    with pytest.raises(ValueError, match="384"):
        open_chain(OWNER).publish(bytes(num_bytes))


def test_an_unregistered_hotkey_is_refused_with_the_chains_word(
    open_chain: Callable[..., BittensorChain],
):
    chain = open_chain(STRANGER)
    with pytest.raises(ChainError) as caught:
        chain.set_weights({0: 1.0})
    assert caught.value.code == "not_registered"
    with pytest.raises(ChainError):
        chain.publish(b"hello")
    assert STRANGER.hotkey.ss58_address not in chain.commitments(chain.head())


def test_weights_are_set_once_and_then_rate_limited(
    open_chain: Callable[..., BittensorChain], port: int
):
    chain = open_chain(OWNER)
    wait_for_rate_limit(chain, uid=0)
    before = chain.head()
    chain.set_weights({0: 0.25, 1: 0.75})
    assert chain.metagraph(chain.head()).neurons[0].last_update > before
    with bt.Subtensor(url(port), fallback_endpoints=[], archive_endpoints=[]) as sdk:
        stored = sdk.query(bt.storage.SubtensorModule.Weights, [NETUID, 0])
    assert {int(uid): int(value) for uid, value in stored} == {0: 21_845, 1: 65_535}
    with pytest.raises(ChainError) as caught:
        chain.set_weights({1: 1.0})
    assert caught.value.code == "rate_limited"
    chain.publish(b"still alive")


def test_the_raw_weights_call_is_one_that_the_chain_understands(
    open_chain: Callable[..., BittensorChain],
):
    """The raw call serves runtimes unreadable to the SDK's own intent."""
    chain = open_chain(MINER)
    wait_for_rate_limit(chain, uid=1)
    before = chain.head()
    wallet: Any = MINER
    intent = bt.SetWeights(netuid=NETUID, uids=[1], weights=[1.0], version_key=0)
    call = raw_weights_call(intent)
    chain._write(lambda sdk: submit_call(sdk, call, wallet))
    assert chain.metagraph(chain.head()).neurons[1].last_update > before


@pytest.mark.parametrize("weights", [{}, {0: 0.0}, {0: -1.0}, {0: float("nan")}, {-1: 1.0}])
def test_senseless_weights_are_refused_before_the_chain(
    open_chain: Callable[..., BittensorChain], weights: dict[int, float]
):
    with pytest.raises(ValueError, match="weight|uid"):
        open_chain(OWNER).set_weights(weights)


def test_without_a_wallet_it_only_reads(open_chain: Callable[..., BittensorChain]):
    chain = open_chain()
    for write in (lambda: chain.publish(b"x"), lambda: chain.set_weights({0: 1.0})):
        with pytest.raises(ChainError) as caught:
            write()
        assert caught.value.code == "no_wallet"
    assert chain.head() > 0


# Failing


def test_a_cut_wire_is_repaired_within_the_call(
    open_chain: Callable[..., BittensorChain], proxy: Relay
):
    chain = open_chain(OWNER, at_port=proxy.port)
    chain.publish(b"before")
    for _ in range(2):
        proxy.cut()
        assert chain.head() > 0
        chain.publish(b"after")
    assert chain.commitments(chain.head())[OWNER.hotkey.ss58_address] == b"after"


@pytest.mark.slow
def test_a_silent_chain_costs_the_deadline_and_then_works_again(
    open_chain: Callable[..., BittensorChain], proxy: Relay
):
    chain = open_chain(OWNER, at_port=proxy.port, options=LESS_PATIENT)
    chain.publish(b"before")
    chain.head()
    proxy.flowing.clear()
    with pytest.raises(ConnectionLost) as caught:
        chain.head()
    assert caught.value.code == "unreachable"
    with pytest.raises(ConnectionLost):
        chain.publish(b"lost")
    proxy.cut()
    proxy.flowing.set()
    assert chain.head() > 0
    chain.publish(b"after")
    assert chain.commitments(chain.head())[OWNER.hotkey.ss58_address] == b"after"


def test_an_outage_within_the_deadline_costs_time_and_two_lines(
    open_chain: Callable[..., BittensorChain], proxy: Relay, caplog: pytest.LogCaptureFixture
):
    chain = open_chain(at_port=proxy.port, options=ChainOptions(read_deadline_s=300.0))
    head = chain.head()
    proxy.refuse()
    with caplog.at_level(logging.WARNING):
        timer = threading.Timer(1.5, proxy.accept_again)
        timer.start()
        assert chain.head() >= head
        timer.join()
    shown = f"the chain endpoint {url(proxy.port)} "
    told = [text.removeprefix(shown) for text in caplog.messages if text.startswith(shown)]
    assert [text.split(" (")[0].split(" after")[0] for text in told] == [
        "does not answer",
        "answers again",
    ]
    assert "waiting for up to 5 min" in told[0]
    assert not any(record.exc_info for record in caplog.records)


def test_a_slow_read_is_told_with_its_seconds(
    open_chain: Callable[..., BittensorChain], proxy: Relay, caplog: pytest.LogCaptureFixture
):
    chain = open_chain(at_port=proxy.port, options=ChainOptions(slow_read_s=0.5))
    chain.head()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            proxy.flowing.clear()
            timer = threading.Timer(0.6, proxy.flowing.set)
            timer.start()
            chain.head()
            timer.join()
    (told,) = [text for text in caplog.messages if "is slow" in text]
    assert float(told.partition("is slow: ")[2].split()[0]) >= 0.5
    assert "--subtensor.network" in told


def test_the_head_has_the_time_at_which_it_was_made(open_chain: Callable[..., BittensorChain]):
    chain = open_chain()
    first = chain.head_time_s()
    assert abs(time.time() - first) < 3600
    while chain.head_time_s() == first:
        time.sleep(0.02)
    assert chain.head_time_s() > first


def test_an_endpoint_that_was_never_there_is_unreachable(
    open_chain: Callable[..., BittensorChain],
):
    chain = open_chain(OWNER, at_port=free_port(), options=IMPATIENT)
    with pytest.raises(ConnectionLost, match=r"--subtensor\.network") as caught:
        chain.finalized()
    assert caught.value.is_final, "the supervisor would read on"
    with pytest.raises(ConnectionLost) as caught:
        chain.publish(b"x")
    assert not caught.value.is_final, "a write that was lost is sent again"


@pytest.mark.slow
def test_an_endpoint_that_comes_back_as_another_chain_is_refused(open_chain, proxy: Relay):
    chain = open_chain(at_port=proxy.port, options=ChainOptions(read_deadline_s=2.0))
    chain.head()
    proxy.refuse()
    with pytest.raises(ConnectionLost):
        chain.head()
    with chain_process() as other_port:
        proxy.target_port = other_port
        proxy.accept_again()
        with pytest.raises(ChainError) as caught:
            chain.head()
    assert caught.value.code == "other_chain"
    assert caught.value.is_final


@pytest.mark.slow
def test_a_restarted_chain_goes_on(open_chain: Callable[..., BittensorChain], tmp_path: Path):
    state = ("--state", str(tmp_path / "state"))
    with chain_process(*state) as kept_port:
        make_subnet(kept_port)
        chain = open_chain(OWNER, at_port=kept_port)
        chain.publish(b"before")
        head, genesis = chain.head(), chain.block_hash(0)
    with chain_process(*state, port=kept_port):
        assert chain.head() >= head
        assert chain.block_hash(0) == genesis
        assert chain.commitments(head)[OWNER.hotkey.ss58_address] == b"before"
        chain.publish(b"after")
        assert chain.commitments(chain.head())[OWNER.hotkey.ss58_address] == b"after"


def test_reads_do_not_wait_for_a_write(open_chain: Callable[..., BittensorChain], proxy: Relay):
    chain = open_chain(MINER, at_port=proxy.port)
    failures: list[ChainError] = []

    def publish_three_times() -> None:
        try:
            for round_number in range(3):
                chain.publish(bytes([round_number]))
        except ChainError as error:
            failures.append(error)

    writer = threading.Thread(target=publish_three_times)
    writer.start()
    num_reads = 0
    while writer.is_alive():
        chain.head()
        num_reads += 1
    writer.join()
    assert not failures
    assert num_reads > 3
    assert chain.commitments(chain.head())[MINER.hotkey.ss58_address] == b"\x02"
    assert proxy.num_accepted == 2


def test_after_close_every_call_says_so(open_chain: Callable[..., BittensorChain]):
    chain = open_chain()
    chain.head()
    chain.close()
    with pytest.raises(ChainError) as caught:
        chain.head()
    assert caught.value.code == "closed"


def test_an_unknown_network_is_a_config_error():
    with pytest.raises(ConfigError, match=r"subtensor\.network"):
        BittensorChain(endpoint="finey", netuid=1, wallet=None, version_key=0)


def test_a_hotkey_file_is_enough_to_write(
    open_chain: Callable[..., BittensorChain], port: int, tmp_path: Path
):
    bt.Wallet("cold", "hot", str(tmp_path)).create_new_hotkey(use_password=False, suppress=True)
    wallet = open_wallet("cold", "hot", str(tmp_path))
    hotkey = wallet.hotkey.ss58_address
    call = bt.calls.SubtensorModule.burned_register(netuid=NETUID, hotkey=hotkey)
    submit(port, call, MINER)
    chain = open_chain(wallet)
    chain.publish(b"no coldkey here")
    assert chain.commitments(chain.head())[hotkey] == b"no coldkey here"
    uid = chain.metagraph(chain.head()).uid_of(hotkey)
    assert uid is not None
    wait_for_rate_limit(chain, uid)
    chain.set_weights({uid: 1.0})
    assert not (tmp_path / "cold" / "coldkey").exists()
