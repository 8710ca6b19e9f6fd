"""Accepted payloads on a node: kept until their window is decided on, fetched where needed."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from template.context import ReadContext
from template.errors import PayloadError, Unavailable
from template.peers.blobs import validators_by_stake
from template.peers.client import FETCH_THREADS, Peers
from template.protocol.admission import open_payload
from template.protocol.lineage import LineageStep
from template.protocol.payload import Payload, payload_digest
from template.protocol.root import Member

log = logging.getLogger(__name__)


class Frames:
    """Payloads as bytes, by digest."""

    def __init__(self, context: ReadContext, peers: Peers) -> None:
        self._context, self._peers = context, peers
        self._kept: dict[bytes, tuple[int, bytes]] = {}

    def keep(self, window: int, digest: bytes, frame: bytes) -> None:
        """Remember a frame fetched (or made) before, so that it is not fetched again.

        Bytes of another digest are not kept: whoever took the step with them would fork.
        """
        if payload_digest(frame) == digest:
            self._kept[digest] = (window, frame)

    def held(self, digest: bytes) -> bytes | None:
        """A frame that was kept, until its window is decided on."""
        kept = self._kept.get(digest)
        return None if kept is None else kept[1]

    def forget(self, window: int) -> None:
        """Those of this window and the ones before."""
        self._kept = {d: kept for d, kept in self._kept.items() if kept[0] > window}

    def fetch(
        self, window: int, members: Sequence[Member], holders: Mapping[int, Sequence[str]]
    ) -> list[Member]:
        """One try for all payloads at once: a slow bucket delays no other. Returns what is missing.

        `holders`: uid -> hotkeys that should have its bytes beside the miner.
        """
        missing = [m for m in members if self.held(m.digest) is None]
        if not missing:
            return []
        self._peers.refresh()

        def fetch(member: Member) -> bytes | None:
            return self._peers.fetch_named_payload(member, window, holders[member.uid])

        with ThreadPoolExecutor(max_workers=FETCH_THREADS) as pool:
            for member, frame in zip(missing, pool.map(fetch, missing), strict=True):
                if frame is not None:
                    self.keep(window, member.digest, frame)
        return [m for m in missing if self.held(m.digest) is None]

    def opened(self, window: int, members: Sequence[Member]) -> dict[int, Payload]:
        """uid -> payload, of those that every node admits. All must be held."""
        spec, opened = self._context.spec, {}
        for member in members:
            _, frame = self._kept[member.digest]
            try:
                opened[member.uid] = open_payload(
                    frame, member, window, self._context.form, spec.outer.max_staleness
                )
            except PayloadError as error:
                log.error("uid %d was accepted with a payload that is none: %s", member.uid, error)
        return opened

    def again(self, step: LineageStep) -> dict[int, Payload]:
        """Those of a step of the past, from their miners or any validator. Unavailable if one of
        them is not to be had now.
        """
        holders = validators_by_stake(self._context) if step.members else ()
        missing = self.fetch(step.window, step.members, {m.uid: holders for m in step.members})
        if missing:
            raise Unavailable(
                f"window {step.window}: the payloads of uids {[m.uid for m in missing]} are in no "
                "bucket now; without them the step cannot be taken again"
            )
        opened = self.opened(step.window, step.members)
        for member in step.members:
            self._kept.pop(member.digest, None)
        return opened
