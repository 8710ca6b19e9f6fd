"""Accepted payloads on a node: frames kept until their window is decided, fetched where missing."""

import logging
from collections.abc import Mapping, Sequence
from threading import Lock

from template.context import ReadContext
from template.errors import NodeTrouble, PayloadError, Unavailable
from template.peers.blobs import validators_for_payloads
from template.peers.client import Peers
from template.protocol.admission import open_payload
from template.protocol.lineage import LineageStep
from template.protocol.payload import Frame, Payload
from template.protocol.root import Member

log = logging.getLogger(__name__)


class PayloadCache:
    """Frames by payload digest. Keeping and looking up are for any thread."""

    def __init__(self, context: ReadContext, peers: Peers) -> None:
        self._context, self._peers = context, peers
        self._frames: dict[bytes, tuple[int, Frame]] = {}
        self._lock = Lock()

    def keep(self, window: int, digest: bytes, frame: bytes) -> None:
        """Keep a frame fetched or made by this node for the step of `window`.

        A frame with another digest is not kept: the wrong payload would fork the node.
        """
        frame = Frame.of(frame)
        if frame.digest == digest:
            with self._lock:
                self._frames[digest] = (window, frame)

    def held(self, digest: bytes) -> bytes | None:
        """The kept frame with this digest, or None; frames of decided windows are dropped."""
        kept = self._frames.get(digest)
        return None if kept is None else kept[1]

    def forget_up_to(self, window: int) -> None:
        """Drop the frames of `window` and of all windows before."""
        with self._lock:
            self._frames = {d: kept for d, kept in self._frames.items() if kept[0] > window}

    def fetch_missing(
        self, window: int, members: Sequence[Member], holders: Mapping[int, Sequence[str]]
    ) -> list[Member]:
        """As `ask_for_missing`; a payload that this node could not ask for counts as missing."""
        try:
            return self.ask_for_missing(window, members, holders)
        except NodeTrouble:
            return [m for m in members if self.held(m.digest) is None]

    def ask_for_missing(
        self, window: int, members: Sequence[Member], holders: Mapping[int, Sequence[str]]
    ) -> list[Member]:
        """Ask once for every missing payload, all at the same time; returns the still missing.

        `holders`: uid -> hotkeys whose buckets should hold the payload, beside the miner's.
        NodeTrouble if a payload is missing because this node could not ask.
        """
        missing = [m for m in members if self.held(m.digest) is None]
        if not missing:
            return []
        self._peers.refresh()

        found = self._peers.fetch_named_payloads({m: holders[m.uid] for m in missing}, window)
        for member in missing:
            frame = found.get(member.uid)
            if isinstance(frame, bytes):
                self.keep(window, member.digest, frame)
        troubles = [error for error in found.values() if isinstance(error, NodeTrouble)]
        if troubles:
            raise troubles[0]
        return [m for m in missing if self.held(m.digest) is None]

    def open_frames(self, window: int, members: Sequence[Member]) -> dict[int, Payload]:
        """uid -> opened payload. Every frame must be held.

        An undecodable frame is left out by every node alike, so no node forks.
        """
        context, opened = self._context, {}
        form, spec = context.form_at(window), context.run.at(window)
        for member in members:
            _, frame = self._frames[member.digest]
            try:
                opened[member.uid] = open_payload(
                    frame,
                    member,
                    window,
                    form,
                    spec.outer.max_staleness,
                    oldest_base=spec.first_window,
                )
            except PayloadError as error:
                log.error(
                    "window %d: uid %d was accepted with a payload that no node can open: %s",
                    window,
                    member.uid,
                    error,
                )
        return opened

    def obtain_past_payloads(self, step: LineageStep) -> dict[int, Payload]:
        """The payloads of a past step, from their miners or any validator.

        Unavailable if a payload is in no bucket now; NodeTrouble if this node could not ask.
        """
        if not step.members:
            return {}
        holders = validators_for_payloads(self._context, step.window)
        missing = self.ask_for_missing(
            step.window, step.members, {m.uid: holders(m.digest) for m in step.members}
        )
        if missing:
            raise Unavailable(
                f"window {step.window}: no bucket has the payloads of uids "
                f"{[m.uid for m in missing]} now, and the step cannot be retaken without them"
            )
        opened = self.open_frames(step.window, step.members)
        for member in step.members:
            self._frames.pop(member.digest, None)
        return opened
