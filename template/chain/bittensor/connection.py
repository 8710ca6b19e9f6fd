"""A connection to the chain: event loop, deadlines, reconnects."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from typing import Any, TypeAlias, TypeVar

import bittensor as bt
from bittensor.settings import (
    default_archive_endpoints,
    default_fallback_endpoints,
    resolve_endpoint,
)

from template.chain.bittensor.calls import Sdk
from template.chain.bittensor.translation import SDK_ERRORS, OtherChain, translate_error
from template.chain.health import redact_endpoint
from template.errors import ChainError, ConfigError

logger = logging.getLogger(__name__)

T = TypeVar("T")
Call: TypeAlias = Callable[[Sdk], Coroutine[Any, Any, T]]

CLOSE_TIMEOUT_S = 5.0
BUSY_LIMIT_S = 1.0
"""Longest wait of a close for another thread's call: a write waits for its block, for minutes."""


class Connection:
    """One SDK client on an event loop of its own, for one call at a time.

    A failed call drops the client and the next call opens another, so no broken socket,
    subscription or nonce remembered by the SDK outlives a failure.
    """

    def __init__(self, is_same_chain: Callable[[str], bool]) -> None:
        """`is_same_chain` judges the genesis hash of each endpoint that a client opens."""
        self._is_same_chain = is_same_chain
        self._lock = threading.Lock()
        self._sdk: Sdk | None = None
        self._endpoint = ""
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_log_leftover)
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="chain connection", daemon=True
        )
        self._thread.start()

    def run(self, endpoint: str, call: Call[T], timeout_s: float) -> T:
        """The answer of an endpoint, by a new client if the last call asked another endpoint.

        Raises ConnectionLost without an answer in time, OtherChain for another genesis hash, else
        ChainError.
        """
        with self._lock:
            if not self._thread.is_alive():
                raise ChainError("this chain was closed; open a new one", "closed", is_final=True)
            if endpoint != self._endpoint:
                self._drop_client()
                self._endpoint = endpoint
            try:
                return self._run_on_loop(self._open_and_call(call), timeout_s)
            except SDK_ERRORS as error:
                self._drop_client()
                raise translate_error(error, self._endpoint, timeout_s) from error

    def close(self) -> None:
        """Close the client and end the event loop. A call after this raises ChainError.

        A call under way in another thread keeps all of it: the process ends, and waits for nobody.
        """
        if not self._lock.acquire(timeout=BUSY_LIMIT_S):
            return
        try:
            self._close()
        finally:
            self._lock.release()

    def _close(self) -> None:
        if not self._thread.is_alive():
            return
        closing = self._drop_client()
        if closing is not None:
            wait([closing], timeout=CLOSE_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_TIMEOUT_S)
        if not self._loop.is_running():
            self._loop.close()

    async def _open_and_call(self, call: Call[T]) -> T:
        if self._sdk is None:
            self._sdk = await self._open_client()
        return await call(self._sdk)

    async def _open_client(self) -> Sdk:
        sdk = _new_sdk(self._endpoint)
        await sdk.client.connect()
        if not self._is_same_chain(await sdk.substrate.block_hash(0)):
            await sdk.client.close()
            raise OtherChain(
                f"{redact_endpoint(self._endpoint)} (--subtensor.network) now serves another chain "
                "than before; name an endpoint of the right chain and start again"
            )
        return sdk

    def _run_on_loop(self, coroutine: Coroutine[Any, Any, T], timeout_s: float) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout_s)
        finally:
            # Not awaited: a cancelled call of the SDK may still wait for a dead socket.
            future.cancel()

    def _drop_client(self) -> Future[None] | None:
        sdk, self._sdk = self._sdk, None
        if sdk is None:
            return None
        return asyncio.run_coroutine_threadsafe(sdk.client.close(), self._loop)


def check_endpoint(endpoint: str) -> None:
    """Raises ConfigError unless `endpoint` is a known network's name or a websocket URL."""
    try:
        resolve_endpoint(endpoint)
    except ValueError as error:
        remedy = "use finney, test, local or a ws:// or wss:// URL"
        raise ConfigError(
            f"--subtensor.network {redact_endpoint(endpoint)!r} is not known; {remedy}"
        ) from error


def _log_leftover(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Debug line for a failed task of a dropped client: the call itself has raised already.

    asyncio's own handler would print a traceback.
    """
    logger.debug("event loop of a chain connection: %s", context.get("message"))


def _new_sdk(endpoint: str) -> Sdk:
    """An unconnected client, with the public fallback and archive endpoints of a named network."""
    is_url = endpoint.startswith(("ws://", "wss://"))
    substrate = bt.RpcSubstrate(
        resolve_endpoint(endpoint)[1],
        fallback_endpoints=[] if is_url else default_fallback_endpoints(endpoint),
        archive_endpoints=[] if is_url else default_archive_endpoints(endpoint),
    )
    return Sdk(client=bt.Client(endpoint, substrate=substrate), substrate=substrate)
