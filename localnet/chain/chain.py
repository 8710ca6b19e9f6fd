"""The chain: genesis, block production and finality.

Owns the process's mutable state: the admission of extrinsics to the pool and to the next block.
The caller passes the time; `rpc.py` is the network front. Not thread-safe.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from localnet.chain import dispatch, drand, epoch
from localnet.chain.blocks import (
    ZERO_HASH,
    Block,
    BlockList,
    Changes,
    Header,
    StoredBlock,
    blake2_256,
    extrinsics_root,
    next_state_root,
)
from localnet.chain.config import ChainConfig
from localnet.chain.extrinsics import (
    OUTDATED,
    ChainContext,
    Extrinsic,
    InvalidTransaction,
    verify,
)
from localnet.chain.metadata import ChainMetadata, compact
from localnet.chain.pallets import balances, networks, reveals, shield
from localnet.chain.pool import Pool
from localnet.chain.state import Event, State
from localnet.chain.storage import VersionedStore

_UNSIGNED_V4 = b"\x04"
# What the real runtime answers to a sealed extrinsic that is cut short (FailedShieldedTxParsing).
_BAD_CIPHERTEXT = "Custom error: 23"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProducedBlock:
    """A new block, the hashes of the signed extrinsics, and the changes of the state."""

    block: Block
    included: tuple[bytes, ...]
    changes: Changes


class LocalChain:
    """A chain from genesis on; every past block stays readable.

    The same config, secret, times and extrinsics make the same blocks, hash for hash.
    `history`: earlier blocks of the same chain, from genesis on, restored without execution.
    Raises ValueError with the number of a block with a wrong hash.
    """

    def __init__(
        self,
        config: ChainConfig,
        metadata: ChainMetadata,
        *,
        secret: bytes,
        now_ms: int,
        history: Iterable[StoredBlock] = (),
    ) -> None:
        self.config = config
        self.metadata = metadata
        self.blocks = BlockList()
        self._store = VersionedStore()
        self._state = State(metadata, self._store, config.subnet)
        self.pool = Pool(lambda address: balances.nonce(self._state, address))
        self._secret = secret
        self._shield = shield.ShieldKeys(secret)
        self._now_ms = now_ms
        for stored in history:
            self._take_over(stored)
        if self.blocks:
            self._now_ms = self._state.timestamp.get("Now")
        else:
            self.genesis = self._write_genesis()

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
        """The account's next nonce in the pool."""
        return self.pool.next_nonce(address)

    def submit(self, raw: bytes) -> Extrinsic:
        """Put an extrinsic into the pool; raises InvalidTransaction on a refusal."""
        extrinsic = self._checked(raw)
        self.pool.add(extrinsic)
        return extrinsic

    def produce_block(self, now_ms: int) -> ProducedBlock:
        """Seal the next block with every admissible extrinsic of the pool.

        Block times never run backwards: an earlier `now_ms` is moved up.
        """
        number = self.head.header.number + 1
        self._now_ms = max(now_ms, self._now_ms + 1)
        self._open_block(number)
        signed: list[Extrinsic] = []
        for extrinsic in self.pool.take(self._may_enter):
            self._execute(extrinsic, signed)
            inner = self._unsealed(extrinsic)
            if inner is not None:
                self._execute(inner, signed)
        raws = (self._timestamp_inherent(), *(extrinsic.raw for extrinsic in signed))
        included = tuple(extrinsic.hash for extrinsic in signed)
        made = self._seal(number, raws, included)
        self.pool.settle(number + 1, included)
        return made

    def _checked(self, raw: bytes) -> Extrinsic:
        """Decode and verify a stranger's bytes as an extrinsic of a later block."""
        extrinsic = verify(raw, self.metadata, self._context())
        dispatch.check_callable(extrinsic)
        if (extrinsic.pallet, extrinsic.function) == shield.CALL:
            _check_carrier(extrinsic)
        return extrinsic

    def _execute(self, extrinsic: Extrinsic, signed: list[Extrinsic]) -> None:
        signed.append(extrinsic)
        self._state.extrinsic = len(signed)
        dispatch.execute(self._state, extrinsic)

    def _may_enter(self, extrinsic: Extrinsic) -> bool:
        """Whether the open block takes the extrinsic. Sealed to another key, an extrinsic waits."""
        if (extrinsic.pallet, extrinsic.function) != shield.CALL:
            return True
        sealed = shield.parse(extrinsic.call_data)
        assert sealed is not None, "the pool has whole ciphertexts only"
        return self._shield.generation_of(sealed, self._open_number) is not None

    def _unsealed(self, carrier: Extrinsic) -> Extrinsic | None:
        """The inner extrinsic of a sealed extrinsic just executed, if the same block may take it.

        Like the real block author, drops an inner extrinsic silently after a failure to open,
        decode or verify, or with a wrong nonce: the sender waits in vain until the era ends.
        Opens a single layer of sealing.
        """
        if (carrier.pallet, carrier.function) != shield.CALL:
            return None
        sealed = shield.parse(carrier.call_data)
        raw = None if sealed is None else self._shield.unseal(sealed, self._open_number)
        if raw is None:
            return None
        try:
            inner = self._checked(raw)
        except InvalidTransaction:
            return None
        return inner if inner.nonce == balances.nonce(self._state, inner.signer) else None

    @property
    def _open_number(self) -> int:
        return self.head.header.number + 1

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

    def _write_genesis(self) -> ProducedBlock:
        state = self._state
        state.system.put("Number", value=0)
        state.timestamp.put("Now", value=self._now_ms)
        networks.write_genesis(state)
        for address, rao in self.config.endowments_rao.items():
            balances.mint(state, address, rao)
        self._shield.publish(state, 0)
        return self._seal(0, (), ())

    def _open_block(self, number: int) -> None:
        state = self._state
        state.extrinsic = None
        state.system.put("Number", value=number)
        state.system.put("ParentHash", value="0x" + self.head.hash.hex())
        state.timestamp.put("Now", value=self._now_ms)
        self._shield.publish(state, number)
        drand.write_due_pulses(state, self.config.drand_pulses)
        epoch.run_block_hooks(state)
        reveals.reveal_due(state)

    def _timestamp_inherent(self) -> bytes:
        call = self.metadata.codec.compose_call("Timestamp", "set", {"now": self._now_ms})
        body = _UNSIGNED_V4 + call.data
        return compact(len(body)) + body

    def _seal(
        self, number: int, raws: tuple[bytes, ...], included: tuple[bytes, ...]
    ) -> ProducedBlock:
        state = self._state
        state.system.put("Events", value=[_event_record(event) for event in state.events])
        state.events.clear()
        changes = self._store.seal(number)
        header = self._header(number, raws, changes)
        block = Block(header=header, hash=header.hash, extrinsics=raws)
        self.blocks.append(block)
        return ProducedBlock(block=block, included=included, changes=changes)

    def _take_over(self, stored: StoredBlock) -> None:
        number = len(self.blocks)
        header = self._header(number, stored.extrinsics, stored.changes)
        if header.hash != stored.hash:
            raise ValueError(f"block {number} does not follow from the one before it")
        self._store.load(number, stored.changes)
        self.blocks.append(Block(header=header, hash=stored.hash, extrinsics=stored.extrinsics))

    def _header(self, number: int, raws: tuple[bytes, ...], changes: Changes) -> Header:
        parent = self.head if number else None
        parent_root = parent.header.state_root if parent else ZERO_HASH
        return Header(
            number=number,
            parent_hash=parent.hash if parent else ZERO_HASH,
            state_root=next_state_root(parent_root, changes),
            extrinsics_root=extrinsics_root(raws),
            entropy=self._entropy(number),
        )

    def _entropy(self, number: int) -> bytes:
        """32 bytes, unpredictable without the secret until the block is published.

        Block 0 also commits to the configuration: clients cache facts on a chain by genesis hash.
        """
        config = "" if number else self.config.to_json()
        return blake2_256(self._secret + number.to_bytes(8, "little") + config.encode())


def _check_carrier(carrier: Extrinsic) -> None:
    """The real runtime's rules for a sealed extrinsic: a short era, a whole ciphertext."""
    if carrier.era_blocks is None or carrier.era_blocks > shield.MAX_ERA_BLOCKS:
        raise InvalidTransaction(OUTDATED)
    if shield.parse(carrier.call_data) is None:
        raise InvalidTransaction(_BAD_CIPHERTEXT)


def draw_secret(seed: str | None) -> bytes:
    """The secret behind block hashes: the seed's hash, or 32 random bytes without a seed."""
    return os.urandom(32) if seed is None else blake2_256(seed.encode())


def _event_record(event: Event) -> dict[str, object]:
    phase: object = "Initialization"
    if event.extrinsic is not None:
        phase = {"ApplyExtrinsic": event.extrinsic}
    body = {event.pallet: {event.name: event.attributes}}
    return {"phase": phase, "event": body, "topics": []}
