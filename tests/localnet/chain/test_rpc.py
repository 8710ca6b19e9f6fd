"""The wire: block pace, finality, subscriptions, and clients that send nonsense."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from localnet.chain.__main__ import main
from localnet.chain.rpc import RpcServer
from tests.support.waiting import HANG_S


class Wire:
    """One JSON-RPC connection; notifications wait aside while a response is read."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.notifications: list[dict[str, Any]] = []

    async def ask(self, method: str, *params: Any) -> Any:
        """The whole response to one request."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        return await self.raw(json.dumps(request))

    async def get(self, method: str, *params: Any) -> Any:
        return (await self.ask(method, *params))["result"]

    async def raw(self, text: str) -> Any:
        await self.connection.send(text)
        while True:
            message = json.loads(await self.connection.recv())
            if "method" not in message:
                return message
            self.notifications.append(message)

    async def next(self) -> dict[str, Any]:
        """The next notification's params."""
        if self.notifications:
            return self.notifications.pop(0)["params"]
        return json.loads(await self.connection.recv())["params"]


@asynccontextmanager
async def served(ledger: Any) -> AsyncIterator[Wire]:
    async with (
        RpcServer(ledger.chain, 0) as server,
        connect(f"ws://127.0.0.1:{server.port}", compression=None) as connection,
    ):
        yield Wire(connection)


def run(ledger: Any, scenario: Callable[[Wire], Awaitable[None]]) -> None:
    async def go() -> None:
        async with served(ledger) as wire, asyncio.timeout(HANG_S):
            await scenario(wire)

    asyncio.run(go())


def test_blocks_come_by_themselves_and_link_to_their_parents(ledger: Any) -> None:
    async def scenario(wire: Wire) -> None:
        subscription = await wire.get("chain_subscribeNewHeads")
        headers: list[dict[str, Any]] = []
        while len(headers) < 4:
            params = await wire.next()
            assert params["subscription"] == subscription
            headers.append(params["result"])
        numbers = [int(header["number"], 16) for header in headers]
        assert numbers == list(range(numbers[0], numbers[0] + 4))
        parent = await wire.get("chain_getBlockHash", numbers[2])
        assert headers[3]["parentHash"] == parent

    run(ledger, scenario)


def test_finality_lags_the_head_and_a_watched_extrinsic_follows_it(ledger: Any) -> None:
    alice = ledger.wallets["alice"].coldkey
    transfer = {"dest": ledger.wallets["bob"].cold, "value": 5_000}
    raw = "0x" + ledger.sign(alice, "Balances", "transfer_keep_alive", **transfer).hex()

    async def scenario(wire: Wire) -> None:
        await wire.get("author_submitAndWatchExtrinsic", raw)
        assert (await wire.next())["result"] == "ready"
        included = (await wire.next())["result"]["inBlock"]
        finalized = (await wire.next())["result"]["finalized"]
        assert finalized == included
        head = int((await wire.get("chain_getHeader"))["number"], 16)
        assert head >= int((await wire.get("chain_getHeader", included))["number"], 16) + 2
        block = await wire.get("chain_getBlock", included)
        assert block["block"]["extrinsics"][1] == raw

    run(ledger, scenario)


def test_watchers_are_told_of_gaps_and_of_eras_that_end(ledger: Any) -> None:
    alice, carol = ledger.wallets["alice"].coldkey, ledger.wallets["carol"].coldkey
    call = ("Balances", "transfer_keep_alive", {"dest": carol.ss58_address, "value": 5_000})
    era = {"period": 4, "current": 0}
    doomed, late, first = (
        "0x" + ledger.sign_with(key, call, nonce=nonce, **more).hex()
        for key, nonce, more in ((carol, 1, {"era": era}), (alice, 1, {}), (alice, 0, {}))
    )

    async def scenario(wire: Wire) -> None:
        watch = "author_submitAndWatchExtrinsic"
        told: dict[str, list[Any]] = {}
        for raw in (doomed, late, first):
            told[await wire.get(watch, raw)] = []
        while not all({"invalid", "finalized"} & set(words) for words in told.values()):
            params = await wire.next()
            status = params["result"]
            word = status if isinstance(status, str) else next(iter(status))
            told[params["subscription"]].append(word)
        assert list(told.values()) == [
            ["future", "invalid"],
            ["future", "ready", "inBlock", "finalized"],
            ["ready", "inBlock", "finalized"],
        ]

    run(ledger, scenario)


@pytest.mark.parametrize(("num_blocks", "final"), [(0, 0), (1, 0), (2, 0), (3, 1), (9, 7)])
def test_the_final_block_is_two_behind_the_head(ledger: Any, num_blocks: int, final: int) -> None:
    ledger.seal(num_blocks)
    assert ledger.chain.finalized.header.number == final


def test_the_finalized_subscription_misses_no_block(ledger: Any) -> None:
    async def scenario(wire: Wire) -> None:
        await wire.get("chain_subscribeFinalizedHeads")
        numbers = [int((await wire.next())["result"]["number"], 16) for _ in range(4)]
        assert numbers == [numbers[0] + i for i in range(4)]
        head = int((await wire.get("chain_getHeader"))["number"], 16)
        assert head - numbers[-1] >= 2

    run(ledger, scenario)


def test_unsubscribing_works_once(ledger: Any) -> None:
    async def scenario(wire: Wire) -> None:
        subscription = await wire.get("chain_subscribeNewHeads")
        assert await wire.get("chain_unsubscribeNewHeads", subscription) is True
        assert await wire.get("chain_unsubscribeNewHeads", subscription) is False

    run(ledger, scenario)


def test_refusals_carry_substrates_codes(ledger: Any) -> None:
    alice = ledger.wallets["alice"].coldkey
    call = ("Balances", "transfer_keep_alive", {"dest": alice.ss58_address, "value": 5_000})
    forged = bytearray(ledger.sign_with(alice, call, nonce=0))
    forged[-1] ^= 1
    used = ledger.sign_with(alice, call, nonce=0)
    ledger.chain.submit(used)
    ledger.seal()

    async def scenario(wire: Wire) -> None:
        for raw, data in (
            (bytes(forged), "Transaction has a bad signature"),
            (used, "Transaction is outdated"),
        ):
            error = (await wire.ask("author_submitExtrinsic", "0x" + raw.hex()))["error"]
            assert error == {"code": 1010, "message": "Invalid Transaction", "data": data}
        assert (await wire.ask("nonsense"))["error"]["code"] == -32601
        unknown = await wire.ask("chain_getHeader", "0x" + "00" * 32)
        assert unknown["error"]["code"] == 4003
        view = await wire.ask("state_call", "ShieldApi_try_unshield_tx", "0x")
        assert "try_unshield_tx is not found" in view["error"]["message"]

    run(ledger, scenario)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("chain_getBlockHash", ["zz"]),
        ("chain_getBlockHash", [{}]),
        ("chain_getHeader", [5]),
        ("chain_getHeader", ["0x0"]),
        ("chain_getHeader", [1, 2, 3]),
        ("state_getStorage", []),
        ("state_getStorage", ["xyz"]),
        ("state_queryStorageAt", [5]),
        ("state_getKeysPaged", ["0x", 0]),
        ("state_getKeysPaged", ["0x", 10**6]),
        ("state_getKeysPaged", ["0x", "many"]),
        ("state_call", [[], "0x"]),
        ("state_call", [5, "0x"]),
        ("state_call", ["SubnetInfoRuntimeApi_get_metagraph", "0x"]),
        ("state_call", ["SubnetInfoRuntimeApi_get_metagraph", "0x010000"]),
        ("account_nextIndex", ["no address"]),
        ("author_submitExtrinsic", []),
        ("author_submitExtrinsic", [None]),
        ("author_submitAndWatchExtrinsic", ["0xzz"]),
    ],
)
def test_wrong_params_are_an_error_and_the_server_lives(
    ledger: Any, method: str, params: list[Any]
) -> None:
    async def scenario(wire: Wire) -> None:
        response = await wire.ask(method, *params)
        assert response["error"]["code"] == -32602, response
        assert await wire.get("chain_getBlockHash", 0) == "0x" + ledger.chain.genesis_hash.hex()

    run(ledger, scenario)


def test_malformed_messages_are_answered_with_an_error(ledger: Any) -> None:
    async def scenario(wire: Wire) -> None:
        for text, code in (
            ("{", -32700),
            ("[" * 100_000, -32700),
            ("[]", -32600),
            ("5", -32600),
            ('{"id": 1, "method": 5}', -32600),
            ('{"id": 1, "method": "system_chain", "params": {"a": 1}}', -32600),
        ):
            assert (await wire.raw(text))["error"]["code"] == code, text
        assert await wire.get("system_chain") == "Bittensor local"

    run(ledger, scenario)


def test_a_batch_is_answered_in_one_message(ledger: Any) -> None:
    requests = [
        {"jsonrpc": "2.0", "id": 7, "method": "chain_getBlockHash", "params": [0]},
        {"jsonrpc": "2.0", "id": 8, "method": "nonsense", "params": []},
    ]

    async def scenario(wire: Wire) -> None:
        responses = await wire.raw(json.dumps(requests))
        assert [response["id"] for response in responses] == [7, 8]
        assert responses[0]["result"] == "0x" + ledger.chain.genesis_hash.hex()
        assert responses[1]["error"]["code"] == -32601

    run(ledger, scenario)


def test_storage_pages_cover_a_map_without_repeats(ledger: Any) -> None:
    prefix = "0x" + ledger.metadata.storage_key("System", "Account", ()).hex()

    async def scenario(wire: Wire) -> None:
        everything = await wire.get("state_getKeysPaged", prefix, 100)
        assert len(everything) == 5
        pages: list[str] = []
        while page := await wire.get(
            "state_getKeysPaged", prefix, 2, pages[-1] if pages else prefix
        ):
            pages += page
        assert pages == everything == sorted(everything)

    run(ledger, scenario)


def test_the_process_stops_cleanly_and_names_a_wrong_flag(
    start_chain: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    chain = start_chain("--block-time", "0.1")
    chain.process.terminate()
    assert chain.process.wait(timeout=HANG_S) == 0
    for flags, word in (
        (["--endow", "nobody=5"], "--endow nobody=5"),
        (["--tempo", "0"], "tempo_blocks"),
        (["--block-time", "0"], "block_time_s"),
    ):
        assert main(flags) == 2
        assert word in capsys.readouterr().err


def test_a_taken_port_is_an_error_not_a_hang() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "localnet.chain", "--port", str(port)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert ended.returncode == 1
    assert str(port) in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:3000", "null"])
def test_a_page_in_a_browser_cannot_drive_the_chain(origin: str, ledger: Any) -> None:
    """Any page that the developer has open could otherwise sign in the development accounts."""

    async def go() -> None:
        async with RpcServer(ledger.chain, 0) as server, asyncio.timeout(HANG_S):
            url = f"ws://127.0.0.1:{server.port}"
            with pytest.raises(InvalidStatus, match="403"):
                await connect(url, origin=Origin(origin))
            async with connect(url) as connection:
                assert "result" in await Wire(connection).ask("system_chain")

    asyncio.run(go())
