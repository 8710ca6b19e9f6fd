"""`BittensorChain`: the `Chain` protocol over a reading and a writing connection.

Owns retries, the cache of final answers and the endpoint's health. Decides nothing about
windows, records or weights.
"""

import math
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast

import bittensor as bt

from template.chain.bittensor.answers import AnswerCache
from template.chain.bittensor.calls import (
    Sdk,
    fetch_block_hash,
    fetch_commitments,
    fetch_metagraph,
    submit_call,
    submit_weights,
)
from template.chain.bittensor.connection import Call, Connection, check_endpoint
from template.chain.bittensor.translation import ConnectionLost, LocalTrouble
from template.chain.bittensor.wallet import Wallet
from template.chain.commitment import split_into_fields
from template.chain.health import SLOW_READ_S, EndpointHealth, Patience, format_duration
from template.chain.types import Metagraph
from template.errors import ChainError
from template.retry import retry

T = TypeVar("T")
FetchAt: TypeAlias = Callable[[Sdk, int], Coroutine[Any, Any, T]]

U16_MAX = 65_535


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainOptions:
    """Timeouts of the adapter, and the number of answers about final blocks kept in memory.

    A read is tried again until `read_deadline_s`, and each try ends after `read_timeout_s`. A
    write is tried once, because a broken connection hides the result. A read longer than
    `slow_read_s` is logged as a warning.
    """

    read_timeout_s: float = 30.0
    read_deadline_s: float = 90.0
    write_timeout_s: float = 120.0
    cached_answers: int = 256
    slow_read_s: float = SLOW_READ_S


class BittensorChain:
    """`template.chain.types.Chain` over one endpoint, for one subnet and one hotkey.

    `endpoint` is `finney`, `test`, `local` or a ws:// or wss:// URL; only a name brings the
    network's public fallback and archive endpoints. A chain without a wallet only reads. Safe to
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
    ) -> None:
        check_endpoint(endpoint)
        self._netuid = netuid
        self._wallet = wallet
        self._version_key = version_key
        self._options = options or ChainOptions()
        patience = Patience(
            outage_s=self._options.read_deadline_s, slow_read_s=self._options.slow_read_s
        )
        self._health = EndpointHealth(endpoint, patience)
        self._reader = Connection(endpoint)
        self._writer = Connection(endpoint)
        self._answers = AnswerCache(self._options.cached_answers)
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
        """Timestamp of the best block, set by its author: seconds since 1970, UTC."""
        return self._read(lambda sdk: sdk.client.timestamp()).timestamp()

    def block_time_s(self) -> float:
        """The chain's nominal block time in seconds."""
        return self._read(lambda sdk: sdk.client.block_time())

    def block_hash(self, block: int) -> bytes:
        return self._read_at("hash", block, fetch_block_hash)

    def metagraph(self, block: int) -> Metagraph:
        netuid = self._netuid
        return self._read_at("metagraph", block, lambda sdk, b: fetch_metagraph(sdk, netuid, b))

    def commitments(self, block: int) -> Mapping[str, bytes]:
        netuid = self._netuid
        return self._read_at("commitments", block, lambda sdk, b: fetch_commitments(sdk, netuid, b))

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

    def _require_wallet(self) -> Wallet:
        if self._wallet is None:
            raise ChainError("this node was opened without a wallet: it only reads", "no_wallet")
        return self._wallet

    def _read(self, call: Call[T]) -> T:
        options = self._options
        try:
            return retry(
                lambda: self._try_once(self._reader, call, options.read_timeout_s),
                on=(ConnectionLost,),
                deadline_s=options.read_deadline_s,
            )
        except LocalTrouble:
            raise
        except ConnectionLost as error:
            raise ConnectionLost(
                f"{error}; it did not answer for {format_duration(options.read_deadline_s)}: name "
                "another with --subtensor.network or --subtensor.chain_endpoint, or start again "
                "later",
                is_final=True,
            ) from error

    def _try_once(self, connection: Connection, call: Call[T], timeout_s: float) -> T:
        """Try a call, and record the answer or the failure in the endpoint's health."""
        started_s = time.monotonic()
        try:
            answer = connection.run(call, timeout_s)
        except LocalTrouble as error:
            self._health.note_trouble(str(error))
            raise
        except ConnectionLost as error:
            self._health.note_failure(str(error.__cause__) or f"no answer within {timeout_s:.0f} s")
            raise
        # A write waits for its block: its duration says nothing of the endpoint.
        took_s = time.monotonic() - started_s if connection is self._reader else 0.0
        self._health.note_answer(took_s)
        return answer

    def _read_at(self, question: str, block: int, fetch: FetchAt[T]) -> T:
        """Read the state after a block, from memory if the block was known to be final."""
        cached = self._answers.get((question, block))
        if cached is not None:
            return cast(T, cached)
        # Judged before the read: a block finalised meanwhile may have been read on a fork.
        is_final = block <= self._finalized
        answer = self._read(lambda sdk: fetch(sdk, block))
        if is_final:
            self._answers.put((question, block), answer)
        return answer

    def _write(self, call: Call[None]) -> None:
        self._try_once(self._writer, call, self._options.write_timeout_s)


def _check_weights(weights: Mapping[int, float]) -> None:
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights.values()):
        raise ValueError("every weight must be finite and at least 0")
    if not any(weights.values()):
        raise ValueError("at least one weight must be above 0")
    if not all(0 <= uid <= U16_MAX for uid in weights):
        raise ValueError("every uid must lie in 0..65535")
