"""JSON-RPC over WebSocket: the server, connections and subscriptions.

Owns framing, error codes, the block timer and the notices on blocks. `methods.py` answers the
methods. Binds the loopback interface only, without authentication; refuses browsers.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from localnet.chain.blocks import Block, hex_of
from localnet.chain.chain import LocalChain, ProducedBlock
from localnet.chain.extrinsics import InvalidTransaction
from localnet.chain.methods import INVALID_REQUEST, PARSE_ERROR, Methods, RpcError
from localnet.chain.pace import Pace, PaceFile
from localnet.chain.pool import INVALID

HOST = "127.0.0.1"
MAX_MESSAGE_BYTES = 2 * 1024 * 1024
MAX_BATCH = 1000
# A reader this far behind is gone or stuck; it is cut off rather than buffered for.
MAX_QUEUED_MESSAGES = 4096
LOOK_S = 0.1
"""Longest sleep between two looks at the pace."""

_HEAD_KINDS = {
    "chain_subscribeNewHeads": "chain_newHead",
    "chain_subscribeNewHead": "chain_newHead",
    "chain_subscribeAllHeads": "chain_allHead",
    "chain_subscribeFinalizedHeads": "chain_finalizedHead",
}
_WATCH = "author_extrinsicUpdate"
_UNSUBSCRIBE = frozenset(
    {
        "author_unwatchExtrinsic",
        "chain_unsubscribeNewHeads",
        "chain_unsubscribeNewHead",
        "chain_unsubscribeAllHeads",
        "chain_unsubscribeFinalizedHeads",
    }
)

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Client:
    """A connection: outgoing messages and subscriptions."""

    socket: ServerConnection
    outbox: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(MAX_QUEUED_MESSAGES))
    heads: dict[str, str] = field(default_factory=dict)
    watches: dict[str, bytes] = field(default_factory=dict)
    # First notifications of new subscriptions: they follow the response with the id.
    first: list[tuple[str, str, object]] = field(default_factory=list)

    def send(self, message: object) -> None:
        try:
            self.outbox.put_nowait(json.dumps(message))
        except asyncio.QueueFull:
            self.socket.transport.abort()

    def respond(self, message: object) -> None:
        self.send(message)
        first, self.first = self.first, []
        for method, subscription, result in first:
            self.notify(method, subscription, result)

    def notify(self, method: str, subscription: str, result: object) -> None:
        params = {"subscription": subscription, "result": result}
        self.send({"jsonrpc": "2.0", "method": method, "params": params})


class RpcServer:
    """Serves a chain and makes the chain's blocks. Use as an async context manager.

    `on_block` is called with every new block before any client gets the block. `pace`: the file
    that paces the blocks, None for the block time of the chain's configuration.
    """

    def __init__(
        self,
        chain: LocalChain,
        port: int,
        on_block: Callable[[ProducedBlock], None] | None = None,
        pace: Path | None = None,
    ) -> None:
        self._chain = chain
        self._pace = PaceFile(pace, Pace(block_time_s=chain.config.block_time_s))
        self._methods = Methods(chain)
        self._port = port
        self._on_block = on_block
        self._clients: set[_Client] = set()
        self._subscription_ids = count(1)
        # Blocks that carry watched extrinsics and are not final yet: number -> hashes.
        self._unfinal: dict[int, tuple[bytes, ...]] = {}
        self._server: Server | None = None
        self._timer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "RpcServer":
        # No compression: it costs more than it saves on loopback. No pings: a node that is
        # busy training may leave them unanswered for minutes, and that must not cut it off.
        self._server = await serve(
            self._handle,
            HOST,
            self._port,
            max_size=MAX_MESSAGE_BYTES,
            compression=None,
            # A browser names the page's origin: no page may drive a chain on this machine.
            origins=[None],
            ping_interval=None,
        )
        self._timer = asyncio.create_task(self._make_blocks())
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._server is not None
        assert self._timer is not None
        self._timer.cancel()
        with suppress(asyncio.CancelledError):
            await self._timer
        self._server.close()
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        """The bound port, also after a request for port 0."""
        assert self._server is not None, "the server is not running"
        return int(next(iter(self._server.sockets)).getsockname()[1])

    async def wait_broken(self) -> None:
        """Return only by raising: the error that stopped block production."""
        assert self._timer is not None
        await asyncio.shield(self._timer)

    async def _make_blocks(self) -> None:
        """Blocks by the pace, on a fixed grid; a late block does not delay the next."""
        due_s = asyncio.get_running_loop().time()
        while True:
            due_s = await self._next_due(due_s)
            finalized_before = self._chain.finalized.header.number
            made = self._chain.produce_block(time.time_ns() // 1_000_000)
            if self._on_block is not None:
                self._on_block(made)
            self._announce(made, finalized_before)

    async def _next_due(self, last_s: float) -> float:
        """Sleep until the next block is due, by the pace of each moment; the time it was due."""
        loop, head = asyncio.get_running_loop(), self._chain.head.header.number
        begun_s = loop.time()
        await asyncio.sleep(0)  # a chain in a hurry answers between two blocks
        while True:
            due_s = max(last_s + self._pace.current().after(head), begun_s)
            left_s = due_s - loop.time()
            if left_s <= 0:
                return due_s
            await asyncio.sleep(min(left_s, LOOK_S))

    def _announce(self, made: ProducedBlock, finalized_before: int) -> None:
        self._tell_heads(made.block, ("chain_newHead", "chain_allHead"))
        if made.included:
            self._unfinal[made.block.header.number] = made.included
            self._tell_watchers(made.included, {"inBlock": hex_of(made.block.hash)})
        self._tell_notices()
        for number in range(finalized_before + 1, self._chain.finalized.header.number + 1):
            final = self._chain.blocks.at(number)
            assert final is not None, "a final block exists"
            self._tell_heads(final, ("chain_finalizedHead",))
            self._tell_watchers(self._unfinal.pop(number, ()), {"finalized": hex_of(final.hash)})

    def _tell_heads(self, block: Block, kinds: tuple[str, ...]) -> None:
        header = block.header.to_json()
        for client in self._clients:
            for subscription, kind in client.heads.items():
                if kind in kinds:
                    client.notify(kind, subscription, header)

    def _tell_notices(self) -> None:
        for notice in self._chain.pool.drain_notices():
            self._tell_watchers((notice.hash,), notice.status)

    def _tell_watchers(self, hashes: Collection[bytes], status: str | dict[str, str]) -> None:
        for client in self._clients:
            for subscription, watched in list(client.watches.items()):
                if watched in hashes:
                    client.notify(_WATCH, subscription, status)
                    if status == INVALID or "finalized" in status:
                        del client.watches[subscription]

    async def _handle(self, socket: ServerConnection) -> None:
        client = _Client(socket=socket)
        self._clients.add(client)
        writer = asyncio.create_task(_write(client))
        try:
            async for text in socket:
                self._receive(client, text)
        except ConnectionClosed:
            pass
        finally:
            self._clients.discard(client)
            writer.cancel()

    def _receive(self, client: _Client, text: str | bytes) -> None:
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            client.send(_failure(None, RpcError(PARSE_ERROR, "Parse error")))
            return
        if isinstance(message, list):
            if not 0 < len(message) <= MAX_BATCH:
                client.send(_failure(None, RpcError(INVALID_REQUEST, "Invalid batch size")))
                return
            client.respond([self._answer(client, request) for request in message])
        else:
            client.respond(self._answer(client, message))
        self._tell_notices()

    def _answer(self, client: _Client, request: object) -> dict[str, Any]:
        """The response to a request; never raises on a client's bytes."""
        request_id = request.get("id") if isinstance(request, dict) else None
        try:
            if not isinstance(request, dict) or not isinstance(request.get("method"), str):
                raise RpcError(INVALID_REQUEST, "Invalid request")
            params = request.get("params") or []
            if not isinstance(params, list):
                raise RpcError(INVALID_REQUEST, "Params must be a list")
            result = self._call(client, request["method"], params)
        except RpcError as error:
            return _failure(request_id, error)
        except InvalidTransaction as refused:
            return _failure(request_id, RpcError(refused.code, refused.message, refused.data))
        return {"jsonrpc": "2.0", "id": request_id, "result": result}

    def _call(self, client: _Client, method: str, params: list[Any]) -> object:
        if method in _HEAD_KINDS:
            return self._subscribe_heads(client, _HEAD_KINDS[method])
        if method == "author_submitAndWatchExtrinsic":
            return self._watch(client, self._methods.submit(params))
        if method in _UNSUBSCRIBE:
            subscription = str(params[0]) if params else ""
            found = client.heads.pop(subscription, None) or client.watches.pop(subscription, None)
            return found is not None
        return self._methods.call(method, params)

    def _subscribe_heads(self, client: _Client, kind: str) -> str:
        subscription = self._new_subscription()
        client.heads[subscription] = kind
        block = self._chain.finalized if kind == "chain_finalizedHead" else self._chain.head
        client.first.append((kind, subscription, block.header.to_json()))
        return subscription

    def _watch(self, client: _Client, extrinsic_hash: bytes) -> str:
        subscription = self._new_subscription()
        client.watches[subscription] = extrinsic_hash
        status = self._chain.pool.status(extrinsic_hash)
        client.first.append((_WATCH, subscription, status))
        return subscription

    def _new_subscription(self) -> str:
        return f"local-{next(self._subscription_ids)}"


async def _write(client: _Client) -> None:
    with suppress(ConnectionClosed):
        while True:
            await client.socket.send(await client.outbox.get())


def _failure(request_id: object, error: RpcError) -> dict[str, Any]:
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.data is not None:
        body["data"] = error.data
    return {"jsonrpc": "2.0", "id": request_id, "error": body}
