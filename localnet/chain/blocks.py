"""Headers, hashes and the list of blocks.

Owns a block's commitment to parent, state changes and extrinsics (substrate's rule: blake2b-256
of the SCALE-encoded header). `chain.py` fills blocks; `journal.py` keeps blocks on disk.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from localnet.chain.metadata import compact

ZERO_HASH = bytes(32)
Changes = list[tuple[bytes, bytes | None]]
"""A block's changes of the state: keys in order with the new value, None if removed."""

_PRE_RUNTIME = 6
_ENGINE = b"aura"


def blake2_256(data: bytes) -> bytes:
    return blake2b(data, digest_size=32).digest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """The input of a block's hash.

    `state_root` chains the hash of each block's state changes, so two chains with the
    same root have the same writes. Unlike a Merkle root, `state_root` cannot prove a single
    item. `entropy` replaces a block author's VRF output: the hash is unknown before the block.
    """

    number: int
    parent_hash: bytes
    state_root: bytes
    extrinsics_root: bytes
    entropy: bytes

    @property
    def hash(self) -> bytes:
        digest = compact(1) + self._digest_item
        roots = self.state_root + self.extrinsics_root
        return blake2_256(self.parent_hash + compact(self.number) + roots + digest)

    @property
    def _digest_item(self) -> bytes:
        return bytes([_PRE_RUNTIME]) + _ENGINE + compact(len(self.entropy)) + self.entropy

    def to_json(self) -> dict[str, Any]:
        """The header in JSON-RPC's form."""
        return {
            "parentHash": hex_of(self.parent_hash),
            "number": hex(self.number),
            "stateRoot": hex_of(self.state_root),
            "extrinsicsRoot": hex_of(self.extrinsics_root),
            "digest": {"logs": [hex_of(self._digest_item)]},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A sealed block: header, hash of the header, and the extrinsics as submitted."""

    header: Header
    hash: bytes
    extrinsics: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredBlock:
    """The parts of a block needed to restore the block."""

    hash: bytes
    extrinsics: tuple[bytes, ...]
    changes: Changes


class BlockList:
    """All blocks from genesis to the head, by number and by hash."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._numbers: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def append(self, block: Block) -> None:
        assert block.header.number == len(self._blocks), "blocks are appended in order"
        self._numbers[block.hash] = block.header.number
        self._blocks.append(block)

    @property
    def head(self) -> Block:
        return self._blocks[-1]

    def at(self, number: int) -> Block | None:
        return self._blocks[number] if 0 <= number < len(self._blocks) else None

    def number_of(self, block_hash: bytes) -> int | None:
        return self._numbers.get(block_hash)


def extrinsics_root(extrinsics: tuple[bytes, ...]) -> bytes:
    return blake2_256(b"".join(blake2_256(raw) for raw in extrinsics))


def next_state_root(parent_root: bytes, changes: Changes) -> bytes:
    """The parent's root hashed with this block's changes, in key order."""
    hasher = blake2b(parent_root, digest_size=32)
    for key, value in changes:
        hasher.update(compact(len(key)) + key)
        hasher.update(b"\x00" if value is None else b"\x01" + compact(len(value)) + value)
    return hasher.digest()


def hex_of(data: bytes) -> str:
    return "0x" + data.hex()
