"""`BittensorChain`: the `Chain` protocol over a reading and a writing connection.

Owns retries, the cache of final answers and the endpoint's health. Decides nothing about
windows, records or weights.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast

import bittensor as bt

from template.chain.bittensor.answers import AnswerCache
from template.chain.bittensor.calls import (
    Sdk,
    fetch_balance,
    fetch_block_hash,
    fetch_commitments,
    fetch_least_version,
    fetch_metagraph,
    fetch_registration_cost,
    fetch_weight_times,
    fetch_weights,
    submit_call,
    submit_weights,
)
from template.chain.bittensor.connection import Call, Connection, check_endpoint
from template.chain.bittensor.translation import ConnectionLost, LocalTrouble, OtherChain
from template.chain.bittensor.wallet import Wallet
from template.chain.commitment import split_into_fields
from template.chain.endpoints import Endpoints, Standstill
from template.chain.health import (
    NAME_ANOTHER,
    SLOW_READ_S,
    EndpointHealth,
    Patience,
    format_duration,
    redact_endpoint,
    redact_urls,
)
from template.chain.types import Metagraph, WeightTimes
from template.chain.waiter import MAX_STILL_S, MIN_STILL_S, STILL_BLOCKS
from template.errors import ChainError, ConfigError
from template.retry import retry

T = TypeVar("T")
FetchAt: TypeAlias = Callable[[Sdk, int], Coroutine[Any, Any, T]]

logger = logging.getLogger(__name__)

U16_MAX = 65_535
IT_DID_NOT = "it did not answer"
NEXT_IS_TAKEN = "the next endpoint of --subtensor.fallback_endpoints is asked meanwhile"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainOptions:
    """Timeouts of the adapter, and the number of answers about final blocks kept in memory.

    A read is tried again until `read_deadline_s`, and each try ends after `read_timeout_s`. A
    write is tried once, because a broken connection hides the result. A read longer than
    `slow_read_s` is logged as a warning. `min_still_s`: shortest time without a new block until
    another endpoint is tried.
    """

    read_timeout_s: float = 30.0
    read_deadline_s: float = 90.0
    write_timeout_s: float = 120.0
    cached_answers: int = 256
    slow_read_s: float = SLOW_READ_S
    min_still_s: float = MIN_STILL_S


class BittensorChain:
    """`template.chain.types.Chain` over one endpoint at a time, for one subnet and one hotkey.

    `endpoint` is `finney`, `test`, `local` or a ws:// or wss:// URL; only a name brings the
    network's public fallback and archive endpoints. An endpoint of `fallbacks` with the same
    genesis hash takes over, for reads and writes alike, once the one in use does not answer or has
    shown no new block for `STILL_BLOCKS` block times. A chain without a wallet only reads. Safe to
    share between threads: reads and writes have separate connections with one call at a time
    each, so a write waiting for inclusion delays no read. The first call opens the connection.
    Raises ConfigError for an endpoint other than a known name or a URL.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        netuid: int,
        wallet: Wallet | None,
        version_key: int,
        options: ChainOptions | None = None,
        fallbacks: Sequence[str] = (),
    ) -> None:
        for named in (endpoint, *fallbacks):
            check_endpoint(named)
        self._netuid = netuid
        self._wallet = wallet
        self._version_key = version_key
        self._options = options or ChainOptions()
        patience = Patience(
            outage_s=self._options.read_deadline_s, slow_read_s=self._options.slow_read_s
        )
        self._endpoints = Endpoints((endpoint, *fallbacks))
        remedy = NEXT_IS_TAKEN if fallbacks else NAME_ANOTHER
        self._health = {
            named: EndpointHealth(named, patience, remedy=remedy)
            for named in (endpoint, *fallbacks)
        }
        self._reader = Connection(self._endpoints.is_same_chain)
        self._writer = Connection(self._endpoints.is_same_chain)
        self._still = {"block": Standstill(), "final block": Standstill()}
        self._searching = threading.Lock()
        self._block_s: float | None = None
        self._changes = 0
        self._answers = AnswerCache(self._options.cached_answers)
        self._finalized = -1

    def close(self) -> None:
        """Close both connections for good. Optional at the end of a process."""
        self._reader.close()
        self._writer.close()

    def head(self) -> int:
        return self._read_rising("block", lambda sdk: sdk.client.block())

    def finalized(self) -> int:
        block = self._read_rising("final block", lambda sdk: sdk.client.finalized_block())
        self._finalized = max(self._finalized, block)
        return block

    def head_time_s(self) -> float:
        """Timestamp of the best block, set by its author: seconds since 1970, UTC."""
        return self._read(lambda sdk: sdk.client.timestamp()).timestamp()

    def block_time_s(self) -> float:
        """The chain's nominal block time in seconds."""
        return self._read(lambda sdk: sdk.client.block_time())

    def balance_rao(self, coldkey: str) -> int:
        """Free balance of a coldkey at the best block."""
        return self._read(lambda sdk: fetch_balance(sdk, coldkey))

    def registration_cost_rao(self) -> int:
        """Cost of a registration in the subnet now."""
        return self._read(lambda sdk: fetch_registration_cost(sdk, self._netuid))

    def least_version_key(self) -> int:
        return self._read(lambda sdk: fetch_least_version(sdk, self._netuid))

    def block_hash(self, block: int) -> bytes:
        return self._read_at("hash", block, fetch_block_hash)

    def metagraph(self, block: int) -> Metagraph:
        netuid = self._netuid
        return self._read_at("metagraph", block, lambda sdk, b: fetch_metagraph(sdk, netuid, b))

    def commitments(self, block: int) -> Mapping[str, bytes]:
        netuid = self._netuid
        return self._read_at("commitments", block, lambda sdk, b: fetch_commitments(sdk, netuid, b))

    def weights(self, block: int) -> Mapping[int, Mapping[int, float]]:
        """On a subnet with commit-reveal a row changes when its commitment is revealed."""
        netuid = self._netuid
        return self._read_at("weights", block, lambda sdk, b: fetch_weights(sdk, netuid, b))

    def weight_times(self, block: int) -> WeightTimes:
        netuid = self._netuid
        return self._read_at(
            "weight times", block, lambda sdk, b: fetch_weight_times(sdk, netuid, b)
        )

    def publish(self, record: bytes) -> None:
        """Raises ValueError if the record is empty or longer than 384 bytes."""
        call = bt.calls.Commitments.set_commitment(
            netuid=self._netuid, info={"fields": split_into_fields(record)}
        )
        wallet = self._require_wallet()
        self._write(lambda sdk: submit_call(sdk, call, wallet))

    def set_weights(self, weights: Mapping[int, float]) -> None:
        """Raises ValueError if a weight is negative or not finite, or if all are zero."""
        _check_weights(weights)
        wallet = self._require_wallet()
        intent = bt.SetWeights(
            netuid=self._netuid,
            uids=sorted(weights),
            weights=[weights[uid] for uid in sorted(weights)],
            version_key=self._version_key,
        )
        self._write(lambda sdk: submit_weights(sdk, intent, wallet))

    def check_fallbacks(self) -> None:
        """Raise ConfigError for a fallback of another chain; warn of one that does not answer."""
        self.head()
        for endpoint in self._endpoints.others:
            try:
                self._ask(endpoint, _block_of)
            except OtherChain as error:
                raise ConfigError(
                    f"--subtensor.fallback_endpoints: {redact_endpoint(endpoint)} serves "
                    "another chain (another genesis hash); name endpoints of one chain"
                ) from error
            except ChainError as error:
                logger.warning("--subtensor.fallback_endpoints: %s", error)

    def _ask(self, endpoint: str, call: Call[T]) -> T:
        """Ask an endpoint that is not in use, by a connection of its own."""
        with closing(Connection(self._endpoints.is_same_chain)) as connection:
            return connection.run(endpoint, call, self._options.read_timeout_s)

    def _read_rising(self, what: str, call: Call[int]) -> int:
        """Read a number that rises; by another endpoint, if one has gone on further."""
        value, still = self._read(call), self._still[what]
        if not self._endpoints.others or not still.is_due(value, self._patience_s):
            return value
        if not self._searching.acquire(blocking=False):
            return value
        try:
            return self._search_further(what, value, call)
        finally:
            self._searching.release()

    def _search_further(self, what: str, value: int, call: Call[int]) -> int:
        """The number of the first other endpoint that is further, now in use; else `value`."""
        since = self._still[what].describe()
        for endpoint in self._endpoints.others:
            try:
                found = self._ask(endpoint, call)
            except OtherChain:
                self._endpoints.refuse(endpoint)
                continue
            except ChainError as error:
                logger.info("no other chain endpoint yet: %s", error)
                continue
            if found > value:
                why = f"it answers and stands still: {what} {value} since {since}"
                self._endpoints.take(endpoint, why)
                self._forget()
                return found
        return value

    def _patience_s(self) -> float:
        """Seconds without a new block until another endpoint is tried."""
        if self._block_s is None:
            self._block_s = self.block_time_s()
        return min(max(STILL_BLOCKS * self._block_s, self._options.min_still_s), MAX_STILL_S)

    def _forget(self) -> None:
        """Another endpoint answers from now on: what the last one said is asked again."""
        self._changes += 1
        self._finalized = -1
        self._answers.clear()
        for still in self._still.values():
            still.start()

    def _require_wallet(self) -> Wallet:
        if self._wallet is None:
            raise ChainError("this node was opened without a wallet: it only reads", "no_wallet")
        return self._wallet

    def _read(self, call: Call[T]) -> T:
        options, num_others = self._options, len(self._endpoints.others)
        # However short the patience, each endpoint has its turn.
        turns_s = options.read_timeout_s * (1 + num_others) if num_others else 0.0
        deadline_s = max(options.read_deadline_s, turns_s)
        try:
            return retry(
                lambda: self._try_once(self._reader, call, options.read_timeout_s),
                on=(ConnectionLost,),
                deadline_s=deadline_s,
            )
        except LocalTrouble:
            raise
        except ConnectionLost as error:
            who = f"none of {1 + num_others} endpoints answered" if num_others else IT_DID_NOT
            raise ConnectionLost(
                f"{error}; {who} for {format_duration(deadline_s)}: name another with "
                "--subtensor.network or --subtensor.chain_endpoint, or start again later",
                is_final=True,
            ) from error

    def _try_once(self, connection: Connection, call: Call[T], timeout_s: float) -> T:
        """Try a call, and record the answer or the failure for the endpoint in use."""
        endpoint, started_s = self._endpoints.current, time.monotonic()
        health = self._health[endpoint]
        try:
            answer = connection.run(endpoint, call, timeout_s)
        except LocalTrouble as error:
            health.note_trouble(str(error))
            raise
        except ConnectionLost as error:
            silence = f"no answer within {timeout_s:.0f} s"
            reason = redact_urls(str(error.__cause__)) or silence
            health.note_failure(reason)
            is_silent = isinstance(error.__cause__, TimeoutError)
            self._endpoints.note_failure(endpoint, reason, is_silent=is_silent)
            raise
        except OtherChain as error:
            if self._endpoints.refuse(endpoint):
                raise ConnectionLost(str(error)) from error
            raise
        # A write waits for its block: its duration says nothing of the endpoint.
        took_s = time.monotonic() - started_s if connection is self._reader else 0.0
        health.note_answer(took_s)
        if self._endpoints.note_answer(endpoint):
            self._forget()
        return answer

    def _read_at(self, question: str, block: int, fetch: FetchAt[T]) -> T:
        """Read the state after a block, from memory if the block was known to be final."""
        cached = self._answers.get((question, block))
        if cached is not None:
            return cast(T, cached)
        # Judged before the read: a block finalised meanwhile may have been read on a fork.
        is_final, changes = block <= self._finalized, self._changes
        answer = self._read(lambda sdk: fetch(sdk, block))
        if is_final and changes == self._changes:
            self._answers.put((question, block), answer)
        return answer

    def _write(self, call: Call[None]) -> None:
        self._try_once(self._writer, call, self._options.write_timeout_s)


async def _block_of(sdk: Sdk) -> int:
    return int(await sdk.client.block())


def _check_weights(weights: Mapping[int, float]) -> None:
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights.values()):
        raise ValueError("every weight must be finite and at least 0")
    if not any(weights.values()):
        raise ValueError("at least one weight must be above 0")
    if not all(0 <= uid <= U16_MAX for uid in weights):
        raise ValueError("every uid must lie in 0..65535")
