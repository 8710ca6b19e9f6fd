"""Joining a run: from the node's own checkpoint, a published checkpoint, or theta_0."""

import logging
from collections.abc import Callable

from template.bucket.retention import oldest_start
from template.chain.ballots import read_ballot
from template.context import ReadContext
from template.data.pages import OnRead
from template.errors import ChainError, NodeTrouble, StoreError, SubnetError, Unavailable
from template.peers.blobs import fetch_from_any, validators_by_stake
from template.peers.client import Peers
from template.protocol.keys import checkpoint_manifest_key
from template.protocol.quorum import decide
from template.protocol.record import ROOT_BYTES
from template.protocol.root import next_root
from template.sync.dataset import fetch_theta0, ignore_object
from template.sync.own_checkpoint import downloaded_parts, load_own_checkpoint
from template.training.checkpoint import LocalCheckpoint
from template.training.outer import OuterState, first_state
from template.training.published import (
    PublishedFile,
    PublishedManifest,
    parse_published,
    restore_published,
)

log = logging.getLogger(__name__)

MAX_CHECKPOINT_MANIFEST_BYTES = 64 * 2**20
FIRST_UPDATED = 2
"""theta_2 is the first state with payloads: the payloads of window 0."""
REPLAY_SHARE = 0.25
"""Estimated duration of a window's replay, as a fraction of the window: a replay has no training.
Too large, and joiners wait for votes where a replay is faster; too small, the reverse."""
JOIN_ROUNDS = 3
"""Attempts to download a checkpoint before falling back to an older state. A stranger may publish
a manifest whose parts no bucket has; such a manifest must not keep a joiner out."""


class Bootstrap:
    """Finds a state to follow the run from."""

    def __init__(self, context: ReadContext, peers: Peers) -> None:
        self._context = context
        self._peers = peers

    def join(self, on_fetched: OnRead = ignore_object) -> LocalCheckpoint:
        """The node's own checkpoint, else a published checkpoint, else theta_0.

        Downloaded parts stay on disk until the node has saved its own checkpoint, so an interrupted
        download continues. `on_fetched` gets theta_0.
        """
        local = load_own_checkpoint(self._context)
        if local is not None:
            downloaded_parts(self._context).keep_only([])
            log.info("continuing at theta_%d from %s", local.state.window, self._context.state_dir)
            return local
        self._peers.refresh()
        state = self._find_published()
        if state is None:
            self._demand_replayable_beginning()
            state = self._first_state(on_fetched)
        log.info("starting at theta_%d, root %s", state.window, state.root[:8].hex())
        return LocalCheckpoint(state=state)

    def published_or_first_state(self, newest: int) -> OuterState:
        """theta_newest, or the nearest published state before theta_newest, else theta_0."""
        self._peers.refresh()
        return self._find_published(newest) or self._first_state()

    def published_state(self, window: int, root: bytes) -> OuterState | None:
        """theta_window with this root, from any validator; for window 1 theta_0."""
        self._peers.refresh()
        if window == 1:
            state = self._first_state()
            return state if state.root == root else None
        search = CheckpointSearch(self._context, self._peers)
        return search.find(window, lambda state: state.root == root)

    def _first_state(self, on_fetched: OnRead = ignore_object) -> OuterState:
        params = fetch_theta0(self._context, self._peers, on_fetched)
        return first_state(params, self._context.spec.run_id)

    def _demand_replayable_beginning(self) -> None:
        """Unavailable if buckets have deleted payloads needed for a replay from theta_0.

        Without this check the node would wait for the payloads without end.
        """
        context = self._context
        window = context.schedule.window_of(context.chain.finalized())
        if oldest_start((), window, context.spec) >= FIRST_UPDATED:
            raise Unavailable(
                f"--run {context.run_file}: the run is in window {window}, no validator serves a "
                "checkpoint that the votes prove, and the payloads since theta_0 have been "
                "deleted. Start again later: downloaded parts are kept"
            )

    def _find_published(self, newest: int | None = None) -> OuterState | None:
        """A proven checkpoint, of theta_newest at most, from the validators by stake.

        A checkpoint whose parts do not come is tried in `JOIN_ROUNDS` rounds.
        """
        for _round in range(JOIN_ROUNDS):
            search = CheckpointSearch(self._context, self._peers)
            for window in self._candidate_windows(newest):
                state = search.find(window, lambda state: not self._is_refuted(state))
                if state is not None:
                    return state
            if not search.is_broken:
                return None
            self._context.waiter.pause()
        return None

    def _candidate_windows(self, newest: int | None) -> list[int]:
        """Windows of published checkpoints to try, the soonest way into the run first.

        With `newest` given: all checkpoints up to theta_newest, newest first.
        """
        context = self._context
        finalized, spec = context.chain.finalized(), context.spec
        # The last window has no votes after it that could prove a checkpoint.
        window = min(context.schedule.window_of(finalized), spec.schedule.num_windows - 1)
        every = spec.checkpoint.every_windows
        if newest is not None:
            return [*range(min(window, newest) // every * every, every - 1, -every)]
        first = max(every, oldest_start((), window, spec))
        kept = range(first, window + 1, every)
        return sorted(kept, key=lambda candidate: self._join_cost(candidate, window, finalized))

    def _join_cost(self, candidate: int, window: int, finalized: int) -> tuple[bool, float, int]:
        """Sort key of a checkpoint: unprovable last, then windows to wait for and to replay."""
        schedule = self._context.schedule
        missing_blocks = schedule.vote_block(candidate) - finalized
        wait_windows = max(0, missing_blocks) / schedule.blocks_per_window
        is_forgotten = missing_blocks <= 0 and not self._has_readable_votes(candidate - 1)
        return is_forgotten, wait_windows + REPLAY_SHARE * (window - candidate), -candidate

    def _has_readable_votes(self, window: int) -> bool:
        try:
            read_ballot(self._context.chain, self._context.schedule, window)
        except ChainError as error:
            log.debug("window %d: the chain endpoint no longer has its votes: %s", window, error)
            return False
        return True

    def _is_refuted(self, state: OuterState) -> bool:
        """Whether final votes carry another root than the root computed from `state`.

        The root after the next contains a digest over the whole checkpoint, so no part can be
        forged. Waits for the votes, two windows at most. Votes too old for the chain endpoint do
        not refute: the first window followed will show a fork.
        """
        context, window = self._context, state.window
        rules = context.spec.outer.quorum_rules()
        context.waiter.until_finalized(context.schedule.vote_block(window))
        try:
            before = read_ballot(context.chain, context.schedule, window - 1)
            after = decide(read_ballot(context.chain, context.schedule, window), (), rules)
        except ChainError as error:
            log.warning("window %d: the chain endpoint no longer has its votes: %s", window, error)
            return False
        members = decide(before, state.voting_stakes_rao, rules).members
        root = next_root(state.root, window - 1, members, state.checkpoint_digest)
        return after.root is not None and after.root != root[:ROOT_BYTES]


class CheckpointSearch:
    """One round over the validators' buckets.

    `is_broken`: a part could not be fetched, and a later round may succeed.
    """

    def __init__(self, context: ReadContext, peers: Peers) -> None:
        self._context = context
        self._peers = peers
        self._parts = downloaded_parts(context)
        self._validators = validators_by_stake(context)
        self.is_broken = False

    def find(self, window: int, is_right: Callable[[OuterState], bool]) -> OuterState | None:
        """A right theta_window, or None if no validator's manifest leads there.

        Honest validators publish equal manifests, so each distinct manifest is tried once.
        NodeTrouble if this node could not ask: that says nothing about what is published.
        """
        tried: set[bytes] = set()
        for hotkey in self._validators:
            try:
                data = self._read_manifest(hotkey, window)
                if data in tried:
                    continue
                tried.add(data)
                state = self._restore(parse_published(data, self._context.spec), hotkey)
            except NodeTrouble:
                raise
            except SubnetError as error:
                log.debug("no checkpoint %d from %s: %s", window, hotkey, error)
                continue
            if state.window == window and is_right(state):
                return state
            log.warning(
                "checkpoint %d of %s is not the state that the stake majority voted",
                window,
                hotkey,
            )
        return None

    def _read_manifest(self, hotkey: str, window: int) -> bytes:
        key = checkpoint_manifest_key(self._context.spec.run_id, window)
        bucket = self._peers.bucket(hotkey)
        return bucket.get(key, max_bytes=MAX_CHECKPOINT_MANIFEST_BYTES)

    def _restore(self, manifest: PublishedManifest, publisher: str) -> OuterState:
        # Parts of one checkpoint at most stay on disk, whatever strangers publish.
        self._parts.keep_only([part.digest for part in manifest.parts])
        parts = (self._read_part(part, publisher) for part in manifest.parts)
        return restore_published(manifest, parts, self._context.spec)

    def _read_part(self, part: PublishedFile, publisher: str) -> bytes:
        data = self._parts.get(part.digest, part.num_bytes)
        if data is not None:
            return data
        try:
            data = fetch_from_any(
                self._context,
                self._peers,
                part.digest,
                part.num_bytes,
                exact=True,
                first=(publisher, *self._validators),
            )
        except StoreError as error:
            self.is_broken |= isinstance(error, Unavailable)
            raise
        self._parts.put(part.digest, data)
        return data
