"""The real runtime's metadata, and the codec made from the metadata.

Owns the vendored metadata of subtensor's runtime (spec 461, as shipped in the source
distribution of `bittensor` 11.3.0), an added storage entry, and the encoding of keys, values,
calls, events and runtime APIs. Stateless.
"""

import lzma
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from typing import Any

from bittensor._transport.codec import RuntimeCodec, StorageEntry, strip_option_opaque_metadata

SPEC_NAME = "node-subtensor"
# One above the vendored runtime: the metadata below is not byte for byte that runtime's,
# and clients cache metadata on disk by spec version.
SPEC_VERSION = 462
TRANSACTION_VERSION = 1
SS58_FORMAT = 42
_U64_BYTES = 8
_BLOB = "subtensor_metadata_v15_spec461.scale.xz"


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeMethod:
    """A runtime API method: the types of the inputs, in order, and of the output."""

    input_types: tuple[str, ...]
    output_type: str


class ChainMetadata:
    """Encodes and decodes all types of a runtime; immutable once built."""

    def __init__(self, metadata_bytes: bytes) -> None:
        self.metadata_bytes = metadata_bytes
        self.codec = RuntimeCodec(
            metadata_bytes,
            spec_version=SPEC_VERSION,
            transaction_version=TRANSACTION_VERSION,
            spec_name=SPEC_NAME,
            ss58_format=SS58_FORMAT,
        )
        self._entries: dict[tuple[str, str], StorageEntry] = {}

    def entry(self, pallet: str, item: str) -> StorageEntry:
        """The storage entry; raises StorageFunctionNotFound if missing from the runtime."""
        found = self._entries.get((pallet, item))
        if found is None:
            found = self._entries[pallet, item] = self.codec.storage_entry(pallet, item)
        return found

    def storage_key(self, pallet: str, item: str, keys: tuple[Any, ...]) -> bytes:
        """The full storage key, or the prefix if fewer keys than the map has are given."""
        return bytes(self.codec.storage_key(self.entry(pallet, item), list(keys)))

    @cached_property
    def opaque_option(self) -> bytes:
        """The answer of `Metadata_metadata_at_version`: Option<Vec<u8>>, SCALE."""
        return b"\x01" + compact(len(self.metadata_bytes)) + self.metadata_bytes

    def module_error(self, pallet: str, name: str) -> dict[str, Any]:
        """The DispatchError of a pallet's error; KeyError for an unknown error."""
        pallet_index, error_index = self._error_indices[pallet, name]
        return {"Module": {"index": pallet_index, "error": f"0x{error_index:02x}000000"}}

    @cached_property
    def _error_indices(self) -> dict[tuple[str, str], tuple[int, int]]:
        pallets = self.codec.metadata_ir().pallets
        return {(p.name, e.name): (p.index, e.index) for p in pallets for e in p.errors}

    def runtime_method(self, name: str) -> RuntimeMethod | None:
        """The types of `Api_method`; None if undeclared in the runtime."""
        api, _, method = name.partition("_")
        declared = self.codec.runtime_api_map.get(api, {}).get(method)
        if declared is None:
            return None
        inputs = tuple(type_name for _, type_name in declared["inputs"])
        return RuntimeMethod(input_types=inputs, output_type=declared["output"])


@lru_cache(maxsize=4)
def load_metadata(block_time_s: float = 0.25) -> ChainMetadata:
    """The vendored metadata with `SubtensorModule.SubnetEpochConsensus` and our block time.

    SDK 11.3.0 reads the item before setting weights, and fails on a runtime without the item,
    as spec 461. The bool False reads as "Yuma", the consensus of this chain.
    Clients take the block time from `Aura.SlotDuration`, in whole milliseconds.
    """
    packed = resources.files(__package__).joinpath("data", _BLOB).read_bytes()
    inner = strip_option_opaque_metadata(lzma.decompress(packed))
    assert inner is not None, "the vendored metadata is an Option that is Some"
    patched = clone_storage_entry(
        inner,
        pallet="SubtensorModule",
        source="VotingPowerTrackingEnabled",
        name="SubnetEpochConsensus",
    )
    slot_ms = round(block_time_s * 1000)
    patched = replace_u64_constant(patched, "SlotDuration", old=250, new=slot_ms)
    patched = replace_u64_constant(patched, "MinimumPeriod", old=125, new=slot_ms // 2)
    return ChainMetadata(patched)


def clone_storage_entry(metadata: bytes, *, pallet: str, source: str, name: str) -> bytes:
    """The metadata with an added storage entry: a copy of `source` called `name`.

    Raises ValueError if the pallet's storage or the source entry is not found.
    """
    quoted = _string(pallet)
    marker = quoted + b"\x01" + quoted
    if metadata.count(marker) != 1:
        raise ValueError(f"pallet {pallet} has no storage in this metadata")
    count_at = metadata.index(marker) + len(marker)
    count, first = read_compact(metadata, count_at)
    position, body = first, None
    for _ in range(count):
        name_bytes, name_end = _read_bytes(metadata, position)
        end = _entry_end(metadata, name_end)
        if name_bytes == source.encode():
            body = metadata[name_end:end]
        position = end
    if body is None:
        raise ValueError(f"{pallet} has no storage item {source}")
    entries = metadata[first:position] + _string(name) + body
    return metadata[:count_at] + compact(count + 1) + entries + metadata[position:]


def replace_u64_constant(metadata: bytes, name: str, *, old: int, new: int) -> bytes:
    """The metadata with a new value of a constant, found by name and old value.

    Raises ValueError unless exactly one constant matches. (Encoding of a constant: name,
    number of the type, length of the value, value.)
    """
    quoted, value = _string(name), compact(_U64_BYTES) + old.to_bytes(_U64_BYTES, "little")
    found = []
    start = metadata.find(quoted)
    while start >= 0:
        _, value_at = read_compact(metadata, start + len(quoted))
        if metadata.startswith(value, value_at):
            found.append(value_at + 1)
        start = metadata.find(quoted, start + 1)
    if len(found) != 1:
        raise ValueError(f"this metadata has no constant {name} of value {old}")
    end = found[0] + _U64_BYTES
    return metadata[: found[0]] + new.to_bytes(_U64_BYTES, "little") + metadata[end:]


def _entry_end(data: bytes, position: int) -> int:
    """End of a storage entry whose name ends at `position`: modifier, type, default, docs."""
    is_map = data[position + 1]
    position += 2
    if is_map:
        hashers, position = read_compact(data, position)
        position += hashers
        _, position = read_compact(data, position)
    _, position = read_compact(data, position)
    _, position = _read_bytes(data, position)
    docs, position = read_compact(data, position)
    for _ in range(docs):
        _, position = _read_bytes(data, position)
    return position


def compact(value: int) -> bytes:
    """SCALE compact encoding of an unsigned integer below 2**30."""
    if value < 1 << 6:
        return bytes([value << 2])
    if value < 1 << 14:
        return (value << 2 | 1).to_bytes(2, "little")
    if value < 1 << 30:
        return (value << 2 | 2).to_bytes(4, "little")
    raise ValueError(f"{value} needs the big mode of SCALE's compact encoding")


def read_compact(data: bytes, position: int) -> tuple[int, int]:
    """(value, end) of a SCALE compact below 2**30; raises ValueError on the big mode."""
    mode = data[position] & 3
    if mode == 3:
        raise ValueError("big mode of SCALE's compact encoding is not expected here")
    size = 1 << mode
    return int.from_bytes(data[position : position + size], "little") >> 2, position + size


def bytes_of(decoded: str) -> bytes:
    """The bytes of a decoded `Vec<u8>`: the codec gives text for UTF-8, else 0x-hex.

    Never pass the text back to the codec, since the codec reads every 0x as hex. An ambiguity
    remains: text equal to the 0x-hex of bytes outside UTF-8 is read as these bytes.
    """
    if decoded.startswith("0x"):
        try:
            raw = bytes.fromhex(decoded[2:])
        except ValueError:
            return decoded.encode()
        return raw if not _is_utf8(raw) else decoded.encode()
    return decoded.encode()


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _read_bytes(data: bytes, position: int) -> tuple[bytes, int]:
    length, start = read_compact(data, position)
    return data[start : start + length], start + length


def _string(text: str) -> bytes:
    return compact(len(text)) + text.encode()
