"""The extrinsics that wait for a block, and in which order a block may take them.

Owns nonces that are ahead, replacement, limits, and what those who watch an extrinsic are
told while it waits. It executes nothing and verifies no signature. Source: substrate's
transaction pool. Departure: no tips are taken, so all extrinsics have the same priority
and none replaces another of the same nonce.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from localnet.chain.extrinsics import OUTDATED, Extrinsic, InvalidTransaction

MAX_POOL_EXTRINSICS = 4096
MAX_WAITING_PER_ACCOUNT = 128
"""How many extrinsics of one account wait at a time, those ahead of a gap included."""

READY, FUTURE, INVALID = "ready", "future", "invalid"

NonceOf = Callable[[str], int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """A change of a waiting extrinsic's status: one of substrate's words for it."""

    hash: bytes
    status: str


class Pool:
    """Waiting extrinsics in order of arrival, at most one for each account and nonce.

    `nonce_of` tells the nonce that the state expects of an account next.
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
        """Let it wait; raises InvalidTransaction with substrate's code and text."""
        self._check(extrinsic)
        self._waiting[extrinsic.signer, extrinsic.nonce] = extrinsic
        self._hashes.add(extrinsic.hash)
        if extrinsic.nonce >= self.next_nonce(extrinsic.signer):
            self._gapped.add(extrinsic.hash)
        self._promote((extrinsic.signer,))

    def status(self, extrinsic_hash: bytes) -> str:
        """`future` for one that waits behind a gap, else `ready`."""
        return FUTURE if extrinsic_hash in self._gapped else READY

    def next_nonce(self, address: str) -> int:
        """The first nonce of an account that neither the state nor the pool has."""
        nonce = self._nonce_of(address)
        while (address, nonce) in self._waiting:
            nonce += 1
        return nonce

    def take(self, may_enter: Callable[[Extrinsic], bool]) -> Iterator[Extrinsic]:
        """Remove and yield what the open block includes, each when its nonce is next.

        The caller executes each one before it asks for the next. What `may_enter` refuses
        goes on waiting, and so do the later ones of its account.
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
        """Drop what `next_block` and all later ones refuse: used nonces and ended eras.

        `included` are the hashes of the block before it; nobody is told that those ended.
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
        """Tell of those that no gap keeps back any more."""
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
