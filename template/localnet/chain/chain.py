"""The chain: genesis, the pool, making blocks, and which of them are final.

Owns the one mutable state of the process and the rules of the pool (nonces, unsupported
calls). Time comes from the caller; the network front is `rpc.py`. Not thread-safe.
"""

import json
import os
from dataclasses import asdict, dataclass

from template.localnet.chain import dispatch, epoch
from template.localnet.chain.blocks import (
    ZERO_HASH,
    Block,
    BlockList,
    Header,
    blake2_256,
    extrinsics_root,
    next_state_root,
)
from template.localnet.chain.config import ChainConfig
from template.localnet.chain.extrinsics import (
    FUTURE,
    OUTDATED,
    ChainContext,
    Extrinsic,
    InvalidTransaction,
    verify,
)
from template.localnet.chain.metadata import ChainMetadata, compact
from template.localnet.chain.pallets import balances
from template.localnet.chain.state import Event, State
from template.localnet.chain.storage import VersionedStore

_UNSIGNED_V4 = b"\x04"
MAX_POOL_EXTRINSICS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class ProducedBlock:
    """A new block, and the hashes of its signed extrinsics."""

    block: Block
    included: tuple[bytes, ...]


class LocalChain:
    """One chain from its genesis on; every past block stays readable.

    The same config, secret, times and extrinsics make the same blocks, hash for hash.
    """

    def __init__(
        self, config: ChainConfig, metadata: ChainMetadata, *, secret: bytes, now_ms: int
    ) -> None:
        self.config = config
        self.metadata = metadata
        self.blocks = BlockList()
        self._store = VersionedStore()
        self._state = State(metadata, self._store, config.subnet)
        self._pool: list[Extrinsic] = []
        self._secret = secret
        self._now_ms = now_ms
        self._write_genesis()

    @property
    def head(self) -> Block:
        return self.blocks.head

    @property
    def genesis_hash(self) -> bytes:
        return self._existing(0).hash

    @property
    def finalized(self) -> Block:
        """The last final block: `finality_lag_blocks` behind the head, never before genesis."""
        return self._existing(max(0, self.head.header.number - self.config.finality_lag_blocks))

    @property
    def now_ms(self) -> int:
        """The timestamp of the head, in milliseconds since 1970."""
        return self._now_ms

    def state_at(self, block: int) -> State:
        """Read-only state after a sealed block."""
        return State(self.metadata, self._store, self.config.subnet, block)

    def raw_value(self, key: bytes, block: int) -> bytes | None:
        return self._store.read(key, block)

    def raw_keys(self, prefix: bytes, block: int, *, after: bytes) -> list[bytes]:
        return self._store.keys(prefix, block, after=after)

    def next_nonce(self, address: str) -> int:
        """The nonce that the pool expects of an account next."""
        waiting = sum(extrinsic.signer == address for extrinsic in self._pool)
        return balances.nonce(self._state, address) + waiting

    def submit(self, raw: bytes) -> Extrinsic:
        """Put an extrinsic into the pool; raises InvalidTransaction if it may not enter.

        Stricter than substrate in one point: a nonce ahead of the next one is refused at
        once instead of waiting for the gap to close.
        """
        extrinsic = verify(raw, self.metadata, self._context())
        if any(waiting.hash == extrinsic.hash for waiting in self._pool):
            raise InvalidTransaction(
                "The transaction is already in the pool",
                code=1013,
                message="Transaction Already Imported",
            )
        if (extrinsic.pallet, extrinsic.function) not in dispatch.CALLS:
            raise InvalidTransaction(
                "Transaction call is not expected: the local chain has no "
                f"{extrinsic.pallet}.{extrinsic.function}"
            )
        expected = self.next_nonce(extrinsic.signer)
        if extrinsic.nonce != expected:
            raise InvalidTransaction(OUTDATED if extrinsic.nonce < expected else FUTURE)
        if len(self._pool) >= MAX_POOL_EXTRINSICS:
            raise InvalidTransaction("The pool is full", code=1016, message="Immediately Dropped")
        self._pool.append(extrinsic)
        return extrinsic

    def produce_block(self, now_ms: int) -> ProducedBlock:
        """Seal the next block with everything in the pool.

        `now_ms` that lies in the past is moved up: block times never run backwards.
        """
        number = self.head.header.number + 1
        self._now_ms = max(now_ms, self._now_ms + 1)
        self._open_block(number)
        pool, self._pool = self._pool, []
        for index, extrinsic in enumerate(pool, start=1):
            self._state.extrinsic = index
            dispatch.execute(self._state, extrinsic)
        raws = (self._timestamp_inherent(), *(extrinsic.raw for extrinsic in pool))
        included = tuple(extrinsic.hash for extrinsic in pool)
        return ProducedBlock(block=self._seal(number, raws), included=included)

    def _context(self) -> ChainContext:
        def hash_at(number: int) -> bytes | None:
            block = self.blocks.at(number)
            return block.hash if block else None

        return ChainContext(
            genesis_hash=self.genesis_hash, head_number=self.head.header.number, hash_at=hash_at
        )

    def _existing(self, number: int) -> Block:
        block = self.blocks.at(number)
        assert block is not None, f"block {number} is not above the head"
        return block

    def _write_genesis(self) -> None:
        state = self._state
        state.system.put("Number", value=0)
        state.timestamp.put("Now", value=self._now_ms)
        state.subtensor.put("NetworksAdded", 0, value=True)
        state.subtensor.put("NetworkMinLockCost", value=self.config.subnet.network_cost_rao)
        for address, rao in self.config.endowments_rao.items():
            balances.mint(state, address, rao)
        self._seal(0, ())

    def _open_block(self, number: int) -> None:
        state = self._state
        state.extrinsic = None
        state.system.put("Number", value=number)
        state.system.put("ParentHash", value="0x" + self.head.hash.hex())
        state.timestamp.put("Now", value=self._now_ms)
        epoch.run_block_hooks(state)

    def _timestamp_inherent(self) -> bytes:
        call = self.metadata.codec.compose_call("Timestamp", "set", {"now": self._now_ms})
        body = _UNSIGNED_V4 + call.data
        return compact(len(body)) + body

    def _seal(self, number: int, raws: tuple[bytes, ...]) -> Block:
        state = self._state
        state.system.put("Events", value=[_event_record(event) for event in state.events])
        state.events.clear()
        parent = self.head.header if number else None
        changes = self._store.seal(number)
        header = Header(
            number=number,
            parent_hash=self.head.hash if number else ZERO_HASH,
            state_root=next_state_root(parent.state_root if parent else ZERO_HASH, changes),
            extrinsics_root=extrinsics_root(raws),
            entropy=self._entropy(number),
        )
        block = Block(header=header, hash=header.hash, extrinsics=raws)
        self.blocks.append(block)
        return block

    def _entropy(self, number: int) -> bytes:
        """32 bytes that nobody without the secret can tell before the block is out.

        Block 0 also commits to the configuration: clients cache what they learn of a chain
        by its genesis hash.
        """
        config = json.dumps(asdict(self.config), sort_keys=True, default=dict) if not number else ""
        return blake2_256(self._secret + number.to_bytes(8, "little") + config.encode())


def draw_secret(seed: str | None) -> bytes:
    """What block hashes are drawn from: 32 random bytes, or the seed's hash if there is one."""
    return os.urandom(32) if seed is None else blake2_256(seed.encode())


def _event_record(event: Event) -> dict[str, object]:
    phase: object = "Initialization"
    if event.extrinsic is not None:
        phase = {"ApplyExtrinsic": event.extrinsic}
    body = {event.pallet: {event.name: event.attributes}}
    return {"phase": phase, "event": body, "topics": []}
