"""The extrinsics waiting for a block, in the order of inclusion.

Owns future nonces, replacement, limits, and the statuses sent to watchers of a waiting
extrinsic. The pool neither executes calls nor verifies signatures. Source: substrate's
transaction pool. Departure: without tips, all extrinsics have the same priority, and an
extrinsic never replaces another of the same nonce.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from localnet.chain.extrinsics import OUTDATED, Extrinsic, InvalidTransaction

MAX_POOL_EXTRINSICS = 4096
MAX_WAITING_PER_ACCOUNT = 128
"""Most waiting extrinsics of an account, including extrinsics behind a nonce gap."""

READY, FUTURE, INVALID = "ready", "future", "invalid"

NonceOf = Callable[[str], int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """A change of a waiting extrinsic's status, in substrate's words."""

    hash: bytes
    status: str


class Pool:
    """Waiting extrinsics in order of arrival, at most one for each account and nonce.

    `nonce_of`: account -> next nonce in the state.
    """

    def __init__(self, nonce_of: NonceOf) -> None:
        self._nonce_of = nonce_of
        self._waiting: dict[tuple[str, int], Extrinsic] = {}
        self._hashes: set[bytes] = set()
        self._gapped: set[bytes] = set()
        self._notices: list[Notice] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, extrinsic: Extrinsic) -> None:
        """Add an extrinsic; raises InvalidTransaction with substrate's code and text."""
        self._check(extrinsic)
        self._waiting[extrinsic.signer, extrinsic.nonce] = extrinsic
        self._hashes.add(extrinsic.hash)
        if extrinsic.nonce >= self.next_nonce(extrinsic.signer):
            self._gapped.add(extrinsic.hash)
        self._promote((extrinsic.signer,))

    def status(self, extrinsic_hash: bytes) -> str:
        """`future` for an extrinsic behind a nonce gap, else `ready`."""
        return FUTURE if extrinsic_hash in self._gapped else READY

    def next_nonce(self, address: str) -> int:
        """An account's first nonce absent from state and pool."""
        nonce = self._nonce_of(address)
        while (address, nonce) in self._waiting:
            nonce += 1
        return nonce

    def take(self, may_enter: Callable[[Extrinsic], bool]) -> Iterator[Extrinsic]:
        """Remove and yield the open block's extrinsics, each at the account's next nonce.

        The caller executes each extrinsic before asking for the next. An extrinsic refused by
        `may_enter` keeps waiting, together with the account's later extrinsics.
        """
        passed: dict[tuple[str, int], Extrinsic] = {}
        for arrived in list(self._waiting.values()):
            extrinsic: Extrinsic | None = arrived
            while extrinsic is not None:
                key = (extrinsic.signer, extrinsic.nonce)
                if self._nonce_of(extrinsic.signer) != extrinsic.nonce or not may_enter(extrinsic):
                    passed[key] = extrinsic
                    break
                self._forget(key)
                yield extrinsic
                extrinsic = passed.pop((extrinsic.signer, self._nonce_of(extrinsic.signer)), None)

    def settle(self, next_block: int, included: Collection[bytes]) -> None:
        """Drop extrinsics invalid from `next_block` on: used nonces and ended eras.

        `included`: hashes of the block before; dropping these sends no status.
        """
        for key, extrinsic in list(self._waiting.items()):
            used = extrinsic.nonce < self._nonce_of(extrinsic.signer)
            ended = extrinsic.last_block is not None and extrinsic.last_block < next_block
            if used or ended:
                self._forget(key)
                if extrinsic.hash not in included:
                    self._notices.append(Notice(hash=extrinsic.hash, status=INVALID))
        self._promote({signer for signer, _ in self._waiting})

    def drain_notices(self) -> list[Notice]:
        """Changes of status since the last call, in order."""
        notices, self._notices = self._notices, []
        return notices

    def _check(self, extrinsic: Extrinsic) -> None:
        if extrinsic.hash in self._hashes:
            raise _already_imported()
        if extrinsic.nonce < self._nonce_of(extrinsic.signer):
            raise InvalidTransaction(OUTDATED)
        if (extrinsic.signer, extrinsic.nonce) in self._waiting:
            raise _too_low_priority()
        waiting = sum(signer == extrinsic.signer for signer, _ in self._waiting)
        if len(self) >= MAX_POOL_EXTRINSICS or waiting >= MAX_WAITING_PER_ACCOUNT:
            raise InvalidTransaction("The pool is full", code=1016, message="Immediately Dropped")

    def _promote(self, signers: Iterable[str]) -> None:
        """Send statuses for extrinsics no longer behind a nonce gap."""
        for signer in sorted(signers):
            nonce = self._nonce_of(signer)
            while (signer, nonce) in self._waiting:
                extrinsic_hash = self._waiting[signer, nonce].hash
                if extrinsic_hash in self._gapped:
                    self._gapped.remove(extrinsic_hash)
                    self._notices.append(Notice(hash=extrinsic_hash, status=READY))
                nonce += 1

    def _forget(self, key: tuple[str, int]) -> None:
        extrinsic = self._waiting.pop(key)
        self._hashes.discard(extrinsic.hash)
        self._gapped.discard(extrinsic.hash)


def _already_imported() -> InvalidTransaction:
    return InvalidTransaction(
        "The transaction is already in the pool", code=1013, message="Transaction Already Imported"
    )


def _too_low_priority() -> InvalidTransaction:
    return InvalidTransaction(
        "The transaction has too low priority to replace another transaction already in the pool.",
        code=1014,
        message="Priority is too low: (0 vs 0)",
    )
