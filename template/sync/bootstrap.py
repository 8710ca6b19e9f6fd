"""Joining a run: from the node's own checkpoint, a published checkpoint, or theta_0."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from template.bucket.retention import oldest_start
from template.context import ReadContext
from template.errors import (
    ConfigError,
    NodeTrouble,
    ObjectError,
    StateError,
    StoreError,
    SubnetError,
    TooLarge,
    Unavailable,
)
from template.peers.blobs import fetch_into_from_any, validators_by_stake
from template.peers.client import Peers
from template.protocol.holders import holders_of
from template.protocol.keys import checkpoint_manifest_key
from template.protocol.lineage import LineageStep
from template.sync.beginning import steps_before_payloads
from template.sync.dataset import NOT_OFFERED, Offers, downloaded_parts, fetch_theta0
from template.sync.lineage import find_voted_root, read_lineage_to, wait_for_voted_root
from template.sync.own_checkpoint import load_own_checkpoint
from template.sync.traces import find_traces
from template.training.checkpoint import LocalCheckpoint
from template.training.outer import OuterState, first_state
from template.training.published import (
    PublishedFile,
    PublishedManifest,
    parse_published,
    published_limit_bytes,
    restore_published,
)

log = logging.getLogger(__name__)

FIRST_UPDATED = 2
"""theta_2 is the first state with payloads: the payloads of window 0."""
JOIN_ROUNDS = 3
"""Attempts to download a checkpoint before falling back to an older state. A stranger may publish
a manifest whose parts no bucket has; such a manifest must not keep a joiner out."""


class Bootstrap:
    """Finds a state to follow the run from."""

    def __init__(self, context: ReadContext, peers: Peers) -> None:
        self._context = context
        self._peers = peers

    def join(self, offers: Offers = NOT_OFFERED) -> LocalCheckpoint:
        """The node's own checkpoint, else a published checkpoint, else theta_0.

        Downloaded parts stay on disk until the node has saved its own checkpoint, so an interrupted
        download continues. `offers` gets theta_0.
        """
        local = load_own_checkpoint(self._context)
        if local is not None:
            downloaded_parts(self._context.state_dir).keep_only([])
            log.info("continuing at theta_%d from %s", local.state.window, self._context.state_dir)
            return local
        self._peers.refresh()
        if find_voted_root(self._context) is None:
            # Before a wait of two windows for votes with authority.
            self._demand_known_run()
        state = self._find_published()
        if state is None:
            self._demand_known_run()
            self._demand_replayable_beginning()
            state = self._first_state(offers)
        log.info("starting at theta_%d, root %s", state.window, state.root[:8].hex())
        return LocalCheckpoint(state=state)

    def published_or_first_state(self, newest: int) -> OuterState:
        """theta_newest, or the nearest published state before theta_newest, else theta_0."""
        return self.published_up_to(newest) or self._first_state()

    def published_up_to(self, newest: int) -> OuterState | None:
        """theta_newest, or the nearest published state before theta_newest, if any."""
        self._peers.refresh()
        return self._find_published(newest)

    def published_state(self, step: LineageStep) -> OuterState | None:
        """The state at the start of a proven step, from any validator; for window 0 theta_0."""
        self._peers.refresh()
        if step.window == 0:
            state = self._first_state()
            return state if state.root == step.root else None
        return CheckpointSearch(self._context, self._peers).find(step)

    def newest_on_the_way(self, steps: Sequence[LineageStep]) -> OuterState | None:
        """The newest published state at the start of one of these proven steps, or theta_0."""
        self._peers.refresh()
        return self._find_on_the_way(steps) or self._first_if_on_the_way(steps)

    def _first_if_on_the_way(self, steps: Sequence[LineageStep]) -> OuterState | None:
        return self.published_state(steps[0]) if steps and steps[0].window == 0 else None

    def _first_state(self, offers: Offers = NOT_OFFERED) -> OuterState:
        params = fetch_theta0(self._context, self._peers, offers)
        return first_state(params, self._context.run.run_id)

    def _demand_known_run(self) -> None:
        """ConfigError if the validators here follow another run than the run spec's."""
        context = self._context
        traces = find_traces(context.run, context.chain, self._peers.bucket)
        if traces is not None and traces.is_foreign:
            raise ConfigError(f"--run {context.run_file}: {traces.describe(context.run)}")

    def _demand_replayable_beginning(self) -> None:
        """Unavailable if buckets have deleted payloads needed for a replay from theta_0.

        Without this check the node would wait for the payloads without end. A run that has not
        begun needs none.
        """
        context = self._context
        window = context.schedule.window_of(context.chain.finalized())
        is_kept = oldest_start((), window, context.run) < FIRST_UPDATED
        if not is_kept and steps_before_payloads(context, self._peers) is None:
            raise Unavailable(
                f"--run {context.run_file}: the run is in window {window}, no validator serves a "
                "checkpoint that the votes prove, and the payloads since theta_0 have been "
                "deleted. Start again later: downloaded parts are kept"
            )

    def _find_published(self, newest: int | None = None) -> OuterState | None:
        """The newest proven checkpoint, of theta_newest at most, or None.

        A checkpoint is proven backwards from the root with authority now: the root chain covers
        every content of a checkpoint, and the age of the votes on the checkpoint does not matter.
        """
        context, run = self._context, self._context.run
        last = context.schedule.last_counted(context.chain.finalized())
        # The step on window c - 1 proves theta_c, and the root of the votes on c covers the step.
        newest = last if newest is None else min(newest, last)
        if run.checkpoint_before(newest) == 0:
            return None
        try:
            vote = wait_for_voted_root(context)
        except Unavailable as error:
            log.warning("no checkpoint can be proven: %s", error)
            return None
        # Buckets keep no checkpoint from before `oldest_start`, so older steps prove nothing.
        two_before = run.checkpoint_before(run.checkpoint_before(newest) - 1)
        since = max(0, min(oldest_start((), last, run), two_before) - 1)
        steps = read_lineage_to(context, self._peers, vote, since)
        return self._find_on_the_way([step for step in steps if step.window < newest])

    def _find_on_the_way(self, steps: Sequence[LineageStep]) -> OuterState | None:
        """The newest published state at the start of a step.

        A checkpoint whose parts do not come is tried in `JOIN_ROUNDS` rounds.
        """
        for _round in range(JOIN_ROUNDS):
            search = CheckpointSearch(self._context, self._peers)
            for step in reversed(steps):
                if step.checkpoint and (state := search.find(step)) is not None:
                    return state
            if not search.is_broken:
                return None
            self._context.waiter.pause("another try at the parts of a published checkpoint")
        return None


class CheckpointSearch:
    """One round over the validators' buckets.

    `is_broken`: a part could not be fetched, and a later round may succeed.
    """

    def __init__(self, context: ReadContext, peers: Peers) -> None:
        self._context = context
        self._peers = peers
        self._parts = downloaded_parts(context.state_dir)
        self._validators = validators_by_stake(context)
        self.is_broken = False

    def find(self, step: LineageStep) -> OuterState | None:
        """The state at the start of a proven step, or None if no validator's manifest leads there.

        The root and the checkpoint digest of the step prove the whole state. Honest validators
        publish equal manifests, so each distinct manifest is tried once; a bucket with another
        state is asked last from then on. NodeTrouble if this node could not ask, StateError if its
        disk refused a part: neither says anything about what is published.
        """
        window = step.window + 1
        tried: set[bytes] = set()
        for hotkey in self._peers.in_order(self._validators):
            try:
                data = self._read_manifest(hotkey, window)
                if data in tried:
                    continue
                tried.add(data)
                manifest = parse_published(data, self._context.run.bounds)
                if not _leads_to(manifest, step):
                    raise ObjectError("the voted root proves another state")
                return self._restore(manifest, hotkey)
            except (NodeTrouble, StateError):
                raise
            except ObjectError as error:
                log.warning("checkpoint %d of %s is refused: %s", window, hotkey, error)
                self._peers.ask_last(hotkey)
            except SubnetError as error:
                log.debug("no checkpoint %d from %s: %s", window, hotkey, error)
                if isinstance(error, (Unavailable, TooLarge)):
                    self._peers.ask_last(hotkey)
        return None

    def _read_manifest(self, hotkey: str, window: int) -> bytes:
        key = checkpoint_manifest_key(self._context.run.run_id, window)
        bucket = self._peers.bucket(hotkey)
        return bucket.get(key, max_bytes=published_limit_bytes(self._context.run.bounds))

    def _restore(self, manifest: PublishedManifest, publisher: str) -> OuterState:
        # Parts of one checkpoint at most stay on disk, whatever strangers publish.
        self._parts.keep_only([part.digest for part in manifest.parts])
        log.info(
            "downloading theta_%s: %d parts, %d bytes; parts on disk are not asked for again",
            manifest.carried.get("window"),
            len(manifest.parts),
            sum(part.num_bytes for part in manifest.parts),
        )
        parts = (self._read_part(part, publisher) for part in self._told_parts(manifest.parts))
        # Disk and buckets have compared each part with its digest.
        return restore_published(
            manifest,
            parts,
            self._context.run.first,
            are_verified=True,
            spreader=self._context.spreader,
        )

    def _told_parts(self, parts: Sequence[PublishedFile]) -> Iterator[PublishedFile]:
        """The parts in turn; a long download says how far it is."""
        for number, part in enumerate(parts):
            self._context.waiter.tell(
                "the download of a checkpoint", progress=f"{number} of {len(parts)} parts"
            )
            yield part

    def _read_part(self, part: PublishedFile, publisher: str) -> Path:
        path = self._parts.find(part.digest, part.num_bytes)
        if path is not None:
            return path
        try:
            fetch_into_from_any(
                self._context,
                self._peers,
                part.digest,
                part.num_bytes,
                self._parts.coming(part.digest),
                first=self._order(part.digest, publisher),
            )
        except StoreError as error:
            self.is_broken |= isinstance(error, Unavailable)
            raise
        return self._parts.accept(part.digest)

    def _order(self, digest: bytes, publisher: str) -> list[str]:
        """Whom to ask for a part: its holders, where validators share a checkpoint."""
        holders = holders_of(digest, self._validators)
        is_shared = len(self._validators) > len(holders)
        return [*(holders if is_shared else ()), publisher, *self._validators]


def _leads_to(manifest: PublishedManifest, step: LineageStep) -> bool:
    """Whether a manifest names the state at the start of a proven step.

    Checked before any part is downloaded; `restore_published` then holds the parts to the digest.
    """
    carried = manifest.carried
    named = (carried.get("window"), carried.get("root"), carried.get("checkpoint_digest"))
    return named == (step.window + 1, step.root.hex(), step.checkpoint.hex())
