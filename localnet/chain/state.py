"""Typed access to the storage items of the runtime, now or as of a past block.

Owns the step from Python values to storage bytes, the events of the open block, and the
error of a failed call. `pallets/` and `epoch.py` own the rules.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from localnet.chain.config import SubnetDefaults
from localnet.chain.metadata import ChainMetadata
from localnet.chain.storage import VersionedStore


class DispatchFailed(Exception):
    """A call was included in a block and failed; `dispatch_error` is the runtime's value."""

    def __init__(self, dispatch_error: dict[str, Any] | str) -> None:
        super().__init__(str(dispatch_error))
        self.dispatch_error = dispatch_error


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """A runtime event; `extrinsic`: index in the block, None for block hooks."""

    pallet: str
    name: str
    attributes: Any
    extrinsic: int | None


class PalletStorage:
    """The storage of a pallet. Values are in decoded form: ints, SS58 strings, dicts."""

    def __init__(
        self, metadata: ChainMetadata, store: VersionedStore, pallet: str, block: int | None
    ) -> None:
        self._metadata = metadata
        self._store = store
        self._pallet = pallet
        self._block = block

    def get(self, item: str, *keys: Any) -> Any:
        """The value; if never set, the runtime's default, or None without a default."""
        entry = self._metadata.entry(self._pallet, item)
        raw = self._store.read(self._key(item, keys), self._block)
        if raw is None:
            if entry.modifier != "Default":
                return None
            raw = entry.default_bytes
        return self._metadata.codec.decode(entry.value_type, raw)

    def contains(self, item: str, *keys: Any) -> bool:
        """Whether a value was set, whatever the default is."""
        return self._store.read(self._key(item, keys), self._block) is not None

    def put(self, item: str, *keys: Any, value: Any) -> None:
        entry = self._metadata.entry(self._pallet, item)
        encoded = self._metadata.codec.encode(entry.value_type, value)
        self._store.write(self._key(item, keys), bytes(encoded))

    def add(self, item: str, *keys: Any, amount: int) -> None:
        """Add to an unsigned counter; going below zero is a mistake of ours."""
        total = self.get(item, *keys) + amount
        assert total >= 0, f"{self._pallet}.{item} would become negative"
        self.put(item, *keys, value=total)

    def remove(self, item: str, *keys: Any) -> None:
        self._store.write(self._key(item, keys), None)

    def entries(self, item: str, *prefix: Any) -> list[tuple[Any, Any]]:
        """(remaining key, value) of every entry under `prefix`, in storage order."""
        entry = self._metadata.entry(self._pallet, item)
        raw_keys = self._store.keys(self._key(item, prefix), self._block)
        raw_values = [self._store.read(key, self._block) for key in raw_keys]
        return self._metadata.codec.decode_map_pairs(
            entry, raw_keys, [v for v in raw_values if v is not None], fixed=len(prefix)
        )

    def _key(self, item: str, keys: tuple[Any, ...]) -> bytes:
        return self._metadata.storage_key(self._pallet, item, keys)


class State:
    """All pallets at one block (read only), or in the open block (`block` None)."""

    def __init__(
        self,
        metadata: ChainMetadata,
        store: VersionedStore,
        defaults: SubnetDefaults,
        block: int | None = None,
    ) -> None:
        def pallet(name: str) -> PalletStorage:
            return PalletStorage(metadata, store, name, block)

        self.metadata = metadata
        self.defaults = defaults
        self.system = pallet("System")
        self.balances = pallet("Balances")
        self.subtensor = pallet("SubtensorModule")
        self.commitments = pallet("Commitments")
        self.alpha_assets = pallet("AlphaAssets")
        self.timestamp = pallet("Timestamp")
        self.drand = pallet("Drand")
        self.shield = pallet("MevShield")
        self.events: list[Event] = []
        self.extrinsic: int | None = None
        self._store = store

    @property
    def block_number(self) -> int:
        return int(self.system.get("Number"))

    def emit(self, pallet: str, name: str, attributes: Any) -> None:
        """Record an event of the open block."""
        self.events.append(
            Event(pallet=pallet, name=name, attributes=attributes, extrinsic=self.extrinsic)
        )

    def fail(self, pallet: str, error: str) -> DispatchFailed:
        """The exception for a pallet's error, for the caller to raise."""
        return DispatchFailed(self.metadata.module_error(pallet, error))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Keep writes and events only if the body does not raise."""
        num_events = len(self.events)
        try:
            with self._store.transaction():
                yield
        except DispatchFailed:
            del self.events[num_events:]
            raise
