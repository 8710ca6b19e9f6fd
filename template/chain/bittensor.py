"""The `Chain` protocol on the Bittensor SDK (11.3), for finney, test and localnet alike.

Owns the connection: its event loop, its deadlines, its reconnects, and the translation of the
SDK's errors and types into ours. It decides nothing about windows, records or weights. The
only module of the subnet's code that imports the SDK.
"""

import asyncio
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar, cast

import bittensor as bt
from bittensor.keyfiles import KeyfileError
from bittensor.settings import (
    default_archive_endpoints,
    default_fallback_endpoints,
    resolve_endpoint,
)

from template.chain.commands import wallet_flags
from template.chain.commitment import from_fields, to_fields
from template.chain.health import SLOW_READ_S, EndpointHealth, Patience, duration, shown_endpoint
from template.chain.types import Metagraph, Neuron
from template.errors import ChainError, ConfigError
from template.retry import retry

logger = logging.getLogger(__name__)

T = TypeVar("T")
Wallet: TypeAlias = bt.Wallet

U16_MAX = 65_535
CLOSE_TIMEOUT_S = 5.0
# How the SDK words that a connection broke before it knew what became of a write: the error has
# no code or class of its own.
BROKEN_WRITE = ("Connection lost while", "Connection dropped while")
# Not in runtimes up to spec version 461, yet the SDK's SetWeights always reads it.
EPOCH_CONSENSUS = ("SubtensorModule", "SubnetEpochConsensus")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainOptions:
    """How patient the adapter is, and how many answers about finalised blocks it keeps.

    A read is tried until `read_deadline_s` and each try ends after `read_timeout_s`; a write
    is tried once, because its fate is unknown when the connection breaks. A read that takes
    `slow_read_s` is worth a warning.
    """

    read_timeout_s: float = 30.0
    read_deadline_s: float = 90.0
    write_timeout_s: float = 120.0
    cached_answers: int = 256
    slow_read_s: float = SLOW_READ_S


class ConnectionLost(ChainError):
    """No answer: the endpoint is down, the socket broke, or a deadline passed."""

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        super().__init__(message, code="unreachable", is_final=is_final)


def open_wallet(name: str, hotkey: str, path: str) -> Wallet:
    """The wallet whose hotkey signs for a neuron; its coldkey is neither needed nor opened.

    `path` is the folder of wallets. Raises ConfigError if the hotkey's file is missing,
    encrypted (a neuron cannot type a password) or not a key.
    """
    wallet = bt.Wallet(name, hotkey, str(Path(path).expanduser()))
    keyfile = wallet.hotkey_file
    flags = wallet_flags(name, hotkey, Path(path))
    where = f"--wallet.name {name} --wallet.hotkey {hotkey} --wallet.path {path}: {keyfile.path}"
    if not keyfile.exists_on_device():
        raise ConfigError(
            f"{where} does not exist; correct the flags, or create the wallet with `btcli wallet "
            f"create {flags}` (a further hotkey of it: `btcli wallet new-hotkey {flags}`)"
        )
    restore = f"`btcli wallet regen-hotkey {flags} --overwrite`"
    if keyfile.is_encrypted():
        raise ConfigError(
            f"{where} is encrypted, and a neuron cannot type a password; write it anew from its "
            f"mnemonic, as btcli does without one: {restore}"
        )
    try:
        address = wallet.hotkey.ss58_address
    except (KeyfileError, OSError, ValueError) as error:
        raise ConfigError(f"{where} is not a usable key; restore it with {restore}") from error
    logger.info("hotkey %s from %s", address, keyfile.path)
    return wallet


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sdk:
    """One connected client, and the transport beneath it for what the client does not show."""

    client: bt.Client
    substrate: bt.RpcSubstrate


Call: TypeAlias = Callable[[_Sdk], Coroutine[Any, Any, T]]
FetchAt: TypeAlias = Callable[[_Sdk, int], Coroutine[Any, Any, T]]


class BittensorChain:
    """`template.chain.types.Chain` over one endpoint, for one subnet and one hotkey.

    `endpoint` is `finney`, `test` or a ws:// or wss:// URL; only a name brings the network's
    public fallback and archive endpoints with it. Without a wallet it only reads. Safe to
    share between threads: reads and writes go through two connections, one call at a time
    each, so a write that waits for its block delays no read. Raises ConfigError for an
    endpoint that is neither a known name nor a URL; nothing is opened before the first call.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        netuid: int,
        wallet: Wallet | None,
        version_key: int,
        options: ChainOptions | None = None,
    ) -> None:
        _check_endpoint(endpoint)
        self._netuid = netuid
        self._wallet = wallet
        self._version_key = version_key
        self._options = options or ChainOptions()
        self._endpoint = endpoint
        patience = Patience(
            outage_s=self._options.read_deadline_s, slow_read_s=self._options.slow_read_s
        )
        self._health = EndpointHealth(endpoint, patience)
        self._reader = _Connection(endpoint)
        self._writer = _Connection(endpoint)
        self._answers = _Answers(self._options.cached_answers)
        self._finalized = -1

    def close(self) -> None:
        """Close both connections for good. Optional at the end of a process."""
        self._reader.close()
        self._writer.close()

    def head(self) -> int:
        return self._read(lambda sdk: sdk.client.block())

    def finalized(self) -> int:
        block = self._read(lambda sdk: sdk.client.finalized_block())
        self._finalized = max(self._finalized, block)
        return block

    def head_time_s(self) -> float:
        """When the best block was made, by its author: seconds since 1970, UTC."""
        return self._read(lambda sdk: sdk.client.timestamp()).timestamp()

    def block_time_s(self) -> float:
        """Seconds from block to block, as the chain means it."""
        return self._read(lambda sdk: sdk.client.block_time())

    def block_hash(self, block: int) -> bytes:
        return self._read_at("hash", block, _block_hash)

    def metagraph(self, block: int) -> Metagraph:
        netuid = self._netuid
        return self._read_at("metagraph", block, lambda sdk, b: _metagraph(sdk, netuid, b))

    def commitments(self, block: int) -> Mapping[str, bytes]:
        netuid = self._netuid
        return self._read_at("commitments", block, lambda sdk, b: _commitments(sdk, netuid, b))

    def publish(self, record: bytes) -> None:
        """Raises ValueError if the record is empty or longer than 384 bytes."""
        call = bt.calls.Commitments.set_commitment(
            netuid=self._netuid, info={"fields": to_fields(record)}
        )
        wallet = self._signer()
        self._write(lambda sdk: _submit(sdk, call, wallet))

    def set_weights(self, weights: Mapping[int, float]) -> None:
        """Raises ValueError if a weight is negative or not finite, or if all are zero."""
        _check_weights(weights)
        wallet = self._signer()
        intent = bt.SetWeights(
            netuid=self._netuid,
            uids=sorted(weights),
            weights=[weights[uid] for uid in sorted(weights)],
            version_key=self._version_key,
        )
        self._write(lambda sdk: _set_weights(sdk, intent, wallet))

    def _signer(self) -> Wallet:
        if self._wallet is None:
            raise ChainError("this node was opened without a wallet: it only reads", "no_wallet")
        return self._wallet

    def _read(self, call: Call[T]) -> T:
        options = self._options
        try:
            return retry(
                lambda: self._try(self._reader, call, options.read_timeout_s),
                on=(ConnectionLost,),
                deadline_s=options.read_deadline_s,
            )
        except ConnectionLost as error:
            raise ConnectionLost(
                f"{error}; it did not answer for {duration(options.read_deadline_s)}: name another "
                "with --subtensor.network or --subtensor.chain_endpoint, or start again later",
                is_final=True,
            ) from error

    def _try(self, connection: "_Connection", call: Call[T], timeout_s: float) -> T:
        """One try, of which the health is told."""
        started_s = time.monotonic()
        try:
            answer = connection.run(call, timeout_s)
        except ConnectionLost as error:
            self._health.failed(str(error.__cause__) or f"no answer within {timeout_s:.0f} s")
            raise
        # A write waits for its block: how long says nothing of the endpoint.
        self._health.answered(time.monotonic() - started_s if connection is self._reader else 0.0)
        return answer

    def _read_at(self, what: str, block: int, fetch: FetchAt[T]) -> T:
        """Read the state after a block, from memory if the block was known to be final."""
        cached = self._answers.get((what, block))
        if cached is not None:
            return cast(T, cached)
        is_final = block <= self._finalized
        answer = self._read(lambda sdk: fetch(sdk, block))
        if is_final:
            self._answers.put((what, block), answer)
        return answer

    def _write(self, call: Call[None]) -> None:
        self._try(self._writer, call, self._options.write_timeout_s)


class _Connection:
    """One SDK client on an event loop of its own, for one call at a time.

    Whatever goes wrong in a call, the client is thrown away and the next call opens another:
    no broken socket, subscription or nonce that the SDK remembers outlives a failure.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._sdk: _Sdk | None = None
        self._genesis: str | None = None
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_note)
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="chain connection", daemon=True
        )
        self._thread.start()

    def run(self, call: Call[T], timeout_s: float) -> T:
        """The call's answer. Raises ConnectionLost if there is none in time, else ChainError."""
        with self._lock:
            if not self._thread.is_alive():
                raise ChainError("this chain was closed; open a new one", "closed", is_final=True)
            try:
                return self._wait(self._opened(call), timeout_s)
            except bt.ChainError as error:
                self._drop()
                if str(error).startswith(BROKEN_WRITE):
                    raise ChainError(
                        f"the connection to the chain at {shown_endpoint(self._endpoint)} broke "
                        "during a write, which may be on chain all the same; if this goes on, name "
                        "another endpoint with --subtensor.network",
                        "unreachable",
                    ) from error
                raise ChainError(str(error), error.code.value, name=error.name or "") from error
            except (bt.RpcConnectionError, bt.ConnectionNotReady, OSError) as error:
                self._drop()
                reason = str(error) or f"no answer within {timeout_s:.0f} s"
                shown = shown_endpoint(self._endpoint)
                raise ConnectionLost(f"the chain at {shown} is unreachable: {reason}") from error
            except (bt.BittensorError, ValueError, LookupError) as error:
                self._drop()
                raise ChainError(f"the SDK gave up: {error!r}", "not_understood") from error

    def close(self) -> None:
        """Close the client and end the event loop. A call after this raises ChainError."""
        with self._lock:
            if not self._thread.is_alive():
                return
            closing = self._drop()
            if closing is not None:
                wait([closing], timeout=CLOSE_TIMEOUT_S)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSE_TIMEOUT_S)
            if not self._loop.is_running():
                self._loop.close()

    async def _opened(self, call: Call[T]) -> T:
        if self._sdk is None:
            self._sdk = await self._open()
        return await call(self._sdk)

    async def _open(self) -> _Sdk:
        sdk = _new_sdk(self._endpoint)
        await sdk.client.connect()
        genesis = await sdk.substrate.block_hash(0)
        if self._genesis not in (None, genesis):
            await sdk.client.close()
            raise ChainError(
                f"{shown_endpoint(self._endpoint)} (--subtensor.network) now serves another chain "
                "than before; name an endpoint of the right one and start again",
                "other_chain",
                is_final=True,
            )
        self._genesis = genesis
        return sdk

    def _wait(self, coroutine: Coroutine[Any, Any, T], timeout_s: float) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout_s)
        finally:
            # Not awaited: a cancelled call of the SDK may still wait for a dead socket.
            future.cancel()

    def _drop(self) -> Future[None] | None:
        sdk, self._sdk = self._sdk, None
        if sdk is None:
            return None
        return asyncio.run_coroutine_threadsafe(sdk.client.close(), self._loop)


class _Answers:
    """The most recently used answers about final blocks, shared by threads."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._items: OrderedDict[Hashable, object] = OrderedDict()

    def get(self, key: Hashable) -> object | None:
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def put(self, key: Hashable, answer: object) -> None:
        with self._lock:
            self._items[key] = answer
            self._items.move_to_end(key)
            while len(self._items) > self._capacity:
                self._items.popitem(last=False)


def _check_endpoint(endpoint: str) -> None:
    try:
        resolve_endpoint(endpoint)
    except ValueError as error:
        remedy = "use finney, test, local or a ws:// or wss:// URL"
        raise ConfigError(f"--subtensor.network {endpoint!r} is not known; {remedy}") from error


def _note(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What a task of the SDK left behind when its connection was thrown away: no news, for the
    call itself has failed. asyncio would print a traceback."""
    logger.debug("event loop of a chain connection: %s", context.get("message"))


def _new_sdk(endpoint: str) -> _Sdk:
    """An unconnected client; only a named network brings its public pools along."""
    is_url = endpoint.startswith(("ws://", "wss://"))
    substrate = bt.RpcSubstrate(
        resolve_endpoint(endpoint)[1],
        fallback_endpoints=[] if is_url else default_fallback_endpoints(endpoint),
        archive_endpoints=[] if is_url else default_archive_endpoints(endpoint),
    )
    return _Sdk(client=bt.Client(endpoint, substrate=substrate), substrate=substrate)


async def _block_hash(sdk: _Sdk, block: int) -> bytes:
    return bytes.fromhex((await sdk.substrate.block_hash(block)).removeprefix("0x"))


async def _metagraph(sdk: _Sdk, netuid: int, block: int) -> Metagraph:
    snapshot = await sdk.client.at(block)
    graph = await snapshot.subnets.metagraph(netuid, commitments=False)
    if graph is None:
        raise ChainError(
            f"netuid {netuid} does not exist at block {block}: check --netuid and "
            "--subtensor.network",
            "subnet_not_exists",
        )
    return Metagraph(
        netuid=netuid,
        block=block,
        tempo_blocks=graph.tempo,
        owner_hotkey=graph.owner_hotkey,
        neurons=tuple(_neuron(row) for row in graph.neurons),
    )


def _neuron(row: bt.MetagraphNeuron) -> Neuron:
    return Neuron(
        uid=row.uid,
        hotkey=row.hotkey,
        coldkey=row.coldkey,
        validator_permit=row.validator_permit,
        total_stake_rao=row.total_stake.rao,
        alpha_stake_rao=row.alpha_stake.rao,
        block_at_registration=row.block_at_registration,
        last_update=row.last_update,
        incentive=row.incentive,
        dividends=row.dividends,
        emission_rao=row.emission.rao,
    )


async def _commitments(sdk: _Sdk, netuid: int, block: int) -> Mapping[str, bytes]:
    """From the storage map itself: the SDK's typed read turns bytes into text."""
    snapshot = await sdk.client.at(block)
    rows = await snapshot.query_map(bt.storage.Commitments.CommitmentOf, [netuid])
    joined = ((str(hotkey), from_fields(record["info"]["fields"])) for hotkey, record in rows)
    return MappingProxyType({hotkey: data for hotkey, data in joined if data is not None})


async def _submit(sdk: _Sdk, call: Any, wallet: Wallet) -> None:
    result = await sdk.client.submit_call(
        call, wallet, signer="hotkey", wait_for_finalization=False
    )
    result.raise_for_failure()


async def _set_weights(sdk: _Sdk, intent: bt.SetWeights, wallet: Wallet) -> None:
    if not await _has_epoch_consensus(sdk, intent.netuid):
        logger.warning("old runtime: weights go by the raw call, without checks or commit-reveal")
        await _submit(sdk, _raw_weights_call(intent), wallet)
        return
    result = await sdk.client.execute(intent, wallet, wait_for_finalization=False)
    result.raise_for_failure()


async def _has_epoch_consensus(sdk: _Sdk, netuid: int) -> bool:
    try:
        await sdk.client.query(EPOCH_CONSENSUS, [netuid])
    except ValueError:
        return False
    return True


def _raw_weights_call(intent: bt.SetWeights) -> Any:
    uids, values = bt.intents.normalize(intent.uids or [], intent.weights or [])
    return bt.calls.SubtensorModule.set_mechanism_weights(
        netuid=intent.netuid, mecid=0, dests=uids, weights=values, version_key=intent.version_key
    )


def _check_weights(weights: Mapping[int, float]) -> None:
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights.values()):
        raise ValueError("every weight must be finite and at least 0")
    if not any(weights.values()):
        raise ValueError("at least one weight must be above 0")
    if not all(0 <= uid <= U16_MAX for uid in weights):
        raise ValueError("every uid must lie in 0..65535")
