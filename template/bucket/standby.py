"""Named payloads that other validators put: kept on disk, and put when they are needed.

To name a payload is to hold it. Of the validators that vote, three by hash put the payload into
their buckets before the vote (`template.protocol.holders`); every other one that names the payload
keeps the frame here, looks in every window whether the miner still serves it, and steps in for a
miner and holders that do not. Owns the looks and the uploads that follow from them.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Final

from template.bucket.background import Background
from template.bucket.budget import payload_windows
from template.bucket.named_folder import KeptPayload, NamedFolder
from template.context import NodeContext
from template.errors import (
    ChainError,
    NodeTrouble,
    RecordError,
    StoreError,
    Unavailable,
)
from template.peers.arrival import Coming
from template.peers.client import Peers
from template.protocol.holders import Holding, turn_of
from template.protocol.keys import payload_key
from template.store.multipart import FileSource

log = logging.getLogger(__name__)

MIN_COPIES: Final = 2
"""Copies with validators further in front that make another one needless, once the miner's fails.
One could vanish between two looks; the third holder may be away."""
PROBE_BYTES: Final = 4096
"""Read at a secret place: a bucket that knows an object's length alone cannot answer."""
CHECK_THREADS: Final = 8
CHECK_LIMIT_S: Final = 60.0
"""For the payloads of one miner in one look; what is left over is looked at in the next window."""
FULL_READ_BYTES_PER_S: Final = 2e6
"""A bucket that gives less for so long serves nobody in time."""
TURNS: Final = 3
"""Of a window's turns, those before the next payloads come; a later turn comes with the vote."""


class Standby:
    """The payloads that this node named and did not put.

    The loop calls `keep` and `settle`; `look` runs in one other thread.
    """

    def __init__(self, context: NodeContext, background: Background) -> None:
        self._context, self._background = context, background
        self._folder = NamedFolder(context.state_dir, context.hotkey)
        self._peers = Peers(context)
        self._missing: dict[bytes, int] = {}
        """Digest -> the block in which the miner's copy was found to fail."""
        self._settled = self._looked = -1
        self._has_warned = False

    def keep(
        self,
        window: int,
        frames: Mapping[bytes, bytes],
        authors: Mapping[bytes, str],
        holding: Holding,
    ) -> None:
        """Write these payloads of a window before the vote that names them.

        `authors`: digest -> the miner's hotkey. `holding`: with this node in it. StateError if the
        disk refuses.
        """
        if not frames:
            return
        self._folder.add(
            (
                KeptPayload(
                    window=window,
                    digest=digest,
                    author=authors[digest],
                    line=tuple(holding.line(digest)),
                ),
                frame,
            )
            for digest, frame in frames.items()
        )
        self.drop_before(window - max(map(payload_windows, self._context.run)))

    def frames_from(self, window: int) -> Iterator[tuple[int, bytes, bytes]]:
        """(window, digest, frame) of each payload of `window` and later: a restart goes on."""
        for payload in self._folder.payloads():
            if payload.window >= window:
                frame = self._folder.files(payload.window).get(
                    payload.digest, self._num_bytes(payload)
                )
                if frame is not None:
                    yield payload.window, payload.digest, frame

    def settle(self, window: int) -> None:
        """The votes on `window` are counted: from now on its payloads are asked for."""
        self._settled = max(self._settled, window)

    def drop_before(self, window: int) -> None:
        """Let the next look remove the payloads of all windows before."""
        self._folder.drop_before(window)

    @property
    def is_waiting(self) -> bool:
        """Whether a miner's copy fails, and another turn may be this node's."""
        return bool(self._missing)

    @property
    def turn_blocks(self) -> int:
        """From turn to turn: time for an upload of those before, and for their look."""
        # The phases of the payloads that are asked for now lie in the window after theirs.
        era = self._context.schedule.era(self._settled + 1)
        return max(1, (era.vote_margin_blocks + era.upload_blocks) // (TURNS + 1))

    def look(self) -> None:
        """Look whether every payload is served, and put what nobody serves. For another thread.

        Everything once a window; else only what was found to fail. In an outage of this node or of
        the chain nothing is concluded.
        """
        self._folder.drop_old()
        settled, is_new = self._settled, self._settled > self._looked
        kept = self._folder.payloads()
        there = {payload.digest for payload in kept}
        self._missing = {d: since for d, since in self._missing.items() if d in there}
        payloads = [
            payload
            for payload in kept
            if payload.window <= settled and (is_new or payload.digest in self._missing)
        ]
        if not payloads:
            self._looked = settled
            return
        try:
            self._peers.refresh()
            absent = self._find_absent(payloads)
            block = self._context.chain.head()
        except (NodeTrouble, ChainError) as error:
            log.debug("named payloads are looked for later: %s", error)
            return
        self._missing = {p.digest: self._missing.get(p.digest, block) for p in absent}
        self._step_in([p for p in absent if self._is_due(p, block)], self._is_served)
        if is_new:
            self._read_whole([p for p in payloads if p not in absent])
        self._looked = settled

    def _is_due(self, payload: KeptPayload, block: int) -> bool:
        turn = turn_of(payload.line.index(self._context.hotkey))
        return block - self._missing[payload.digest] >= turn * self.turn_blocks

    def _find_absent(self, payloads: Iterable[KeptPayload]) -> list[KeptPayload]:
        """Those that their miners do not serve; the miners are asked side by side."""
        by_author: dict[str, list[KeptPayload]] = {}
        for payload in payloads:
            by_author.setdefault(payload.author, []).append(payload)
        with ThreadPoolExecutor(CHECK_THREADS, thread_name_prefix="look") as pool:
            found = list(pool.map(self._absent_at, by_author.values()))
        return [payload for absent in found for payload in absent]

    def _absent_at(self, payloads: Iterable[KeptPayload]) -> list[KeptPayload]:
        """The payloads that their one miner does not serve: its silence is waited for once."""
        absent, is_away, until_s = [], False, monotonic() + CHECK_LIMIT_S
        for payload in payloads:
            if not is_away:
                if self._background.is_stopped or monotonic() > until_s:
                    break
                try:
                    if self._is_served(payload, payload.author):
                        continue
                except Unavailable:
                    is_away = True
            absent.append(payload)
        return absent

    def _is_served(self, payload: KeptPayload, hotkey: str) -> bool:
        """Whether a bucket has the bytes at a place that nobody can foresee.

        Unavailable without a usable answer, NodeTrouble if this node could not ask.
        """
        num_bytes = self._num_bytes(payload)
        length = min(PROBE_BYTES, num_bytes)
        lot = int.from_bytes(self._context.random_bytes(8), "little")
        start = lot % (num_bytes - length + 1)
        wanted = self._folder.read(payload, start, length)
        try:
            bucket = self._peers.bucket(hotkey)
            return bucket.get_range(self._key(payload), start, length) == wanted
        except Unavailable:
            raise
        except (StoreError, RecordError) as error:
            log.debug("%s does not serve %s: %s", hotkey, payload.digest.hex(), error)
            return False

    def _read_whole(self, payloads: Iterable[KeptPayload]) -> None:
        """Read every payload from its miner once, to the last bit, and step in for a wrong one.

        Whoever would step in first reads in the first window, the next ones in the next: a miner
        that changes a byte passes most looks at single places, and deceives no reader for long.
        """
        own = self._context.hotkey
        wrong = []
        for payload in payloads:
            if self._settled - payload.window == turn_of(payload.line.index(own)):
                self._background.give_way()
                if not self._is_whole(payload, payload.author):
                    wrong.append(payload)
        self._step_in(wrong, self._is_whole)

    def _is_whole(self, payload: KeptPayload, hotkey: str) -> bool:
        """Whether a bucket gives a payload's very bytes, in time."""
        num_bytes = self._num_bytes(payload)
        coming = _Hashed(max(CHECK_LIMIT_S, num_bytes / FULL_READ_BYTES_PER_S))
        try:
            bucket = self._peers.bucket(hotkey)
            bucket.stream(self._key(payload), coming, max_bytes=num_bytes)
        except NodeTrouble as error:
            log.debug("%s was not read to its end: %s", payload.digest.hex(), error)
            return True  # nobody's fault but this node's: nothing is concluded
        except (StoreError, RecordError) as error:
            log.debug("%s does not serve %s: %s", hotkey, payload.digest.hex(), error)
            return False
        return coming.digest == payload.digest

    def _step_in(
        self, payloads: Iterable[KeptPayload], is_served: Callable[[KeptPayload, str], bool]
    ) -> None:
        for payload in payloads:
            self._background.give_way()
            try:
                if self._num_copies(payload, is_served) < MIN_COPIES:
                    self._put(payload)
            except NodeTrouble as error:
                log.debug("named payloads are put later: %s", error)
                return
            except StoreError as error:
                log.log(
                    logging.DEBUG if self._has_warned else logging.WARNING,
                    "window %d: a payload that no other bucket serves is not in this node's yet; "
                    "retrying after the next window: %s",
                    payload.window,
                    error,
                )
                self._has_warned = True
                return

    def _num_copies(
        self, payload: KeptPayload, is_served: Callable[[KeptPayload, str], bool]
    ) -> int:
        """Copies with the validators in front of this one in line, counted up to `MIN_COPIES`."""
        count = 0
        for hotkey in payload.line[: payload.line.index(self._context.hotkey)]:
            try:
                count += is_served(payload, hotkey)
            except NodeTrouble:
                raise
            except Unavailable as error:
                log.debug("%s does not serve %s: %s", hotkey, payload.digest.hex(), error)
            if count == MIN_COPIES:
                break
        return count

    def _put(self, payload: KeptPayload) -> None:
        files = self._folder.files(payload.window)
        path = files.find(payload.digest, self._num_bytes(payload))
        if path is None:
            log.warning(
                "window %d: %s is damaged or gone, so this node cannot serve a payload that it "
                "named; look at the disk",
                payload.window,
                files.path(payload.digest),
            )
        else:
            with FileSource(path) as source:
                paced = self._background.paced(source)
                self._context.bucket.put_source(self._key(payload), paced)
            log.warning(
                "window %d: the miner %s and validators that hold its payload do not serve it; "
                "this node's bucket does from now on",
                payload.window,
                payload.author,
            )
            self._has_warned = False
        self._missing.pop(payload.digest, None)
        self._folder.remove(payload)

    def _num_bytes(self, payload: KeptPayload) -> int:
        return self._context.form_at(payload.window).num_bytes

    def _key(self, payload: KeptPayload) -> str:
        return payload_key(self._context.run.run_id, payload.window, payload.digest)


class _Hashed(Coming):
    """An object that is hashed and thrown away; Unavailable after `limit_s`."""

    def __init__(self, limit_s: float) -> None:
        super().__init__()
        self._until_s = monotonic() + limit_s

    def _keep(self, _piece: bytes) -> None:
        if monotonic() > self._until_s:
            raise Unavailable("the object comes too slowly for anybody who needs it in time")
