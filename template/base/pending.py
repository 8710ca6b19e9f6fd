"""The miner's own payloads between making and decision: pure bookkeeping, no chain, no bucket."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from template.protocol.payload import Frame, payload_digest


@dataclass(frozen=True, kw_only=True, slots=True)
class PendingPayload:
    """One payload of this miner, made and not yet decided. `frame`: the bytes to upload."""

    window: int
    frame: bytes

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", Frame.of(self.frame))

    @property
    def digest(self) -> bytes:
        return payload_digest(self.frame)


class PendingPayloads:
    """Payloads in the order of making, the newest last.

    Every payload leaves exactly once: by `settle` or by `withdraw`. Commitments and uploads are
    forgotten with the process, so a restarted miner repeats both: the chain and the bucket then
    receive the same bytes again.
    """

    def __init__(self, payloads: Iterable[PendingPayload] = ()) -> None:
        self._payloads = list(payloads)
        self._committed = b""
        self._attempted: set[bytes] = set()
        self._revealed: set[bytes] = set()

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "PendingPayloads":
        """The inverse of `to_tensors`; sorted by window number, since files sort by name."""
        found = cls(
            PendingPayload(window=window, frame=tensors[str(window)].numpy().tobytes())
            for window in sorted(map(int, tensors))
        )
        # The process before may have committed each of them.
        found._attempted = {payload.digest for payload in found}
        return found

    def to_tensors(self) -> dict[str, Tensor]:
        """Window number -> frame as uint8 [bytes], for the local checkpoint."""
        return {
            str(payload.window): torch.from_numpy(
                # Copied, because torch requires a writable buffer.
                np.frombuffer(payload.frame, dtype=np.uint8).copy()
            )
            for payload in self._payloads
        }

    def __len__(self) -> int:
        return len(self._payloads)

    def __iter__(self) -> Iterator[PendingPayload]:
        return iter(self._payloads)

    @property
    def newest(self) -> PendingPayload | None:
        return self._payloads[-1] if self._payloads else None

    def add(self, payload: PendingPayload) -> None:
        self._payloads = [*self._payloads, payload]

    def before(self, window: int) -> list[PendingPayload]:
        """Payloads of earlier windows."""
        return [payload for payload in self._payloads if payload.window < window]

    def uncommitted(self, window: int) -> list[PendingPayload]:
        """Payloads of the window whose digest this process has not committed."""
        return [
            payload
            for payload in self._payloads
            if payload.window == window and payload.digest != self._committed
        ]

    def note_attempt(self, payload: PendingPayload) -> None:
        """Before a commitment: a write without an answer may be on chain."""
        self._attempted.add(payload.digest)

    def forget_attempt(self, payload: PendingPayload) -> None:
        """The chain refused the commitment."""
        self._attempted.discard(payload.digest)

    def may_be_committed(self, payload: PendingPayload) -> bool:
        """Whether the digest is, or may be, on chain."""
        return payload.digest in self._attempted

    def mark_committed(self, payload: PendingPayload) -> None:
        self._committed = payload.digest

    def unrevealed(self, is_over: Callable[[int], bool]) -> list[PendingPayload]:
        """Payloads not uploaded by this process, of windows that are over."""
        return [
            payload
            for payload in self._payloads
            if is_over(payload.window) and payload.digest not in self._revealed
        ]

    def mark_revealed(self, payload: PendingPayload) -> None:
        self._revealed.add(payload.digest)

    def is_revealed(self, payload: PendingPayload) -> bool:
        """Whether this process has uploaded the payload."""
        return payload.digest in self._revealed

    def settle(self, window: int, accepted: Collection[bytes]) -> list[PendingPayload]:
        """Drop all payloads up to the decided window; the dropped ones that were not accepted.

        `accepted`: digests of the decision. The caller returns the result to error feedback.
        """
        return [p for p in self._drop(lambda p: p.window <= window) if p.digest not in accepted]

    def withdraw(self, is_unwanted: Callable[[PendingPayload], bool]) -> list[PendingPayload]:
        """Drop and return the payloads that match."""
        return self._drop(is_unwanted)

    def _drop(self, leaves: Callable[[PendingPayload], bool]) -> list[PendingPayload]:
        dropped = [payload for payload in self._payloads if leaves(payload)]
        self._payloads = [payload for payload in self._payloads if not leaves(payload)]
        self._revealed.difference_update(payload.digest for payload in dropped)
        self._attempted.difference_update(payload.digest for payload in dropped)
        return dropped
