"""Joining a run: from this node's own checkpoint, a published one, or theta_0."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from template.bucket.retention import oldest_start
from template.chain.ballots import read_ballot
from template.context import ReadContext
from template.data.kept import KeptFiles
from template.data.manifest import Manifest, manifest_digest, parse_manifest
from template.data.pages import OnRead, PageReader
from template.errors import (
    ChainError,
    ConfigError,
    NotFound,
    ObjectError,
    StoreError,
    SubnetError,
    Unavailable,
)
from template.peers.blobs import fetch_from_any, validators_by_stake
from template.peers.client import Peers
from template.protocol.keys import checkpoint_manifest_key
from template.protocol.quorum import decide
from template.protocol.record import ROOT_BYTES
from template.protocol.root import next_root, tensors_digest
from template.protocol.spec import RunSpec
from template.training.checkpoint import LocalCheckpoint, load_local, parse_params, save_local
from template.training.outer import OuterState, first_state
from template.training.published import (
    PublishedFile,
    PublishedManifest,
    parse_published,
    restore_published,
    tensors_limit_bytes,
)

log = logging.getLogger(__name__)

LOCAL_FILE = "node.safetensors"
MAX_MANIFEST_BYTES = 64 * 2**20
FIRST_UPDATED = 2
"""theta_2 is the first that holds payloads: those of window 0."""
REPLAY_SHARE = 0.25
"""Of a window's time that its replay takes, at a guess: there is no training in it. Too large, and
joiners wait for votes where they could replay; too small, and they replay where they could wait."""
JOIN_ROUNDS = 3
"""How often a checkpoint is looked for whose parts do not come, before an older state will do. A
stranger may publish a manifest of parts that nobody has: it must not keep a joiner out."""


def local_path(context: ReadContext) -> Path:
    return context.state_dir / LOCAL_FILE


def join(
    context: ReadContext, peers: Peers, on_fetched: OnRead = lambda _sha256, _data: None
) -> LocalCheckpoint:
    """Where this node starts: its own checkpoint if it has one, else a published one that
    validators hold, else theta_0.

    What a checkpoint's download has brought stays on disk until the node has a checkpoint of its
    own: a start that was killed or broke off goes on from there. `on_fetched` hears of theta_0.
    """
    local = load_local(local_path(context), context.spec)
    if local is not None:
        _parts_on_disk(context).keep_only([])
        log.info("continuing at theta_%d from %s", local.state.window, local_path(context))
        return local
    peers.refresh()
    state = _published_state(context, peers)
    if state is None:
        _demand_beginning(context)
        state = _first_state(context, peers, on_fetched)
    log.info("starting at theta_%d, root %s", state.window, state.root[:8].hex())
    return LocalCheckpoint(state=state)


def _demand_beginning(context: ReadContext) -> None:
    """Unavailable if buckets have forgotten what a start from theta_0 would have to replay: a node
    would wait for those payloads for ever.
    """
    window = context.schedule.window_of(context.chain.finalized())
    if oldest_start((), window, context.spec) >= FIRST_UPDATED:
        raise Unavailable(
            f"--run {context.run_file}: the run is in window {window}, and no validator gives a "
            "checkpoint that the votes prove; from theta_0 on the payloads are gone. Start again "
            "later: what a download has brought is kept"
        )


def join_at(context: ReadContext, peers: Peers, newest: int) -> OuterState:
    """theta_newest or the nearest before it that a validator has published, else theta_0."""
    peers.refresh()
    return _published_state(context, peers, newest) or _first_state(context, peers)


def state_at(context: ReadContext, peers: Peers, window: int, root: bytes) -> OuterState | None:
    """theta_window with this root, as some validator has published it; theta_0 for the first."""
    peers.refresh()
    if window == 1:
        state = _first_state(context, peers)
        return state if state.root == root else None
    return _Search(context, peers).find(window, lambda state: state.root == root)


def save_own(context: ReadContext, checkpoint: LocalCheckpoint) -> None:
    """Write this node's own checkpoint; what the download of one has left is needed no more."""
    save_local(local_path(context), checkpoint, context.spec.run_id)
    _parts_on_disk(context).keep_only([])


def _parts_on_disk(context: ReadContext) -> KeptFiles:
    return KeptFiles(context.state_dir / "joining", ".part")


def _first_state(
    context: ReadContext, peers: Peers, on_fetched: OnRead = lambda _sha256, _data: None
) -> OuterState:
    spec = context.spec
    digest, limit = spec.checkpoint.theta0_digest, tensors_limit_bytes(context.form.shapes)
    data = _named(context, peers, "checkpoint.theta0_digest", digest, limit)
    try:
        params = parse_params(data, spec)
    except ObjectError as error:
        raise _wrong_in_spec(context, "checkpoint.theta0_digest", error) from error
    on_fetched(digest, data)
    log.debug("theta_0 has tensor digest %s", tensors_digest(params).hex())
    return first_state(params, spec.run_id)


def _named(context: ReadContext, peers: Peers, key: str, digest: str, max_bytes: int) -> bytes:
    """Bytes that the spec names under `key`, from one of its mirrors or any validator."""
    try:
        return fetch_from_any(context, peers, bytes.fromhex(digest), max_bytes)
    except NotFound as error:
        raise ConfigError(
            f"--run {context.run_file}: {key} is at none of data.mirrors, nor at any validator "
            f"({error}). Get the file again from the subnet's owner, and check that --netuid and "
            "--subtensor.network are those of the run"
        ) from error
    except StoreError as error:
        raise Unavailable(
            f"--run {context.run_file}: none of data.mirrors and no validator gives {key} now "
            f"({error}). Start again later, or ask the owners of these buckets"
        ) from error


def _wrong_in_spec(context: ReadContext, key: str, error: ObjectError) -> ConfigError:
    """The bytes have the digest that the run spec names: no other copy can be better."""
    return ConfigError(f"--run {context.run_file}: {key}: {error}. Ask the subnet's owner")


def _published_state(
    context: ReadContext, peers: Peers, newest: int | None = None
) -> OuterState | None:
    """A checkpoint, of theta_newest at most, that validators, most stake first, can give us. Where
    one is there and its parts do not come, it is asked for again.
    """
    for _round in range(JOIN_ROUNDS):
        search = _Search(context, peers)
        for candidate in _candidates(context, newest):
            state = search.find(candidate, lambda state: not _refuted(context, state))
            if state is not None:
                return state
        if not search.is_broken:
            return None
        context.waiter.pause()
    return None


def _candidates(context: ReadContext, newest: int | None) -> list[int]:
    """Windows of the checkpoints to try, best first: those from which a node is soonest where the
    run is. Below theta_newest, if that is asked for, the newest are the best.
    """
    finalized, spec = context.chain.finalized(), context.spec
    # The last window on which there are votes that prove a checkpoint.
    window = min(context.schedule.window_of(finalized), spec.schedule.num_windows - 1)
    every = spec.checkpoint.every_windows
    if newest is not None:
        return [*range(min(window, newest) // every * every, every - 1, -every)]
    first = max(every, oldest_start((), window, spec))
    kept = range(first, window + 1, every)
    return sorted(kept, key=lambda c: _cost(context, c, window, finalized))


def _cost(
    context: ReadContext, candidate: int, window: int, finalized: int
) -> tuple[bool, float, int]:
    """Whether the chain's node has forgotten the votes that prove a checkpoint and lead on from it;
    then the windows that it takes to wait for them, if they are not final, and to replay.
    """
    missing = context.schedule.vote_block(candidate) - finalized
    wait_windows = max(0, missing) / context.schedule.blocks_per_window
    is_forgotten = missing <= 0 and not _is_readable(context, candidate - 1)
    return is_forgotten, wait_windows + REPLAY_SHARE * (window - candidate), -candidate


def _is_readable(context: ReadContext, window: int) -> bool:
    try:
        read_ballot(context.chain, context.schedule, window)
    except ChainError as error:
        log.debug("votes on window %d cannot be read: %s", window, error)
        return False
    return True


class _Search:
    """One round over validators' buckets. `is_broken`: a part did not come that may come later."""

    def __init__(self, context: ReadContext, peers: Peers) -> None:
        self._context = context
        self._peers = peers
        self._parts = _parts_on_disk(context)
        self._validators = validators_by_stake(context)
        self.is_broken = False

    def find(self, window: int, is_right: Callable[[OuterState], bool]) -> OuterState | None:
        """theta_window as it is right, or None if no validator's manifest leads there.

        Honest validators publish the same manifest: each is tried once.
        """
        tried: set[bytes] = set()
        for hotkey in self._validators:
            try:
                data = self._manifest(hotkey, window)
                if data in tried:
                    continue
                tried.add(data)
                state = self._restore(parse_published(data, self._context.spec), hotkey)
            except SubnetError as error:
                log.debug("no checkpoint %d from %s: %s", window, hotkey, error)
                continue
            if state.window == window and is_right(state):
                return state
            log.warning("checkpoint %d of %s is not what the stake majority voted", window, hotkey)
        return None

    def _manifest(self, hotkey: str, window: int) -> bytes:
        key = checkpoint_manifest_key(self._context.spec.run_id, window)
        return self._peers.bucket(hotkey).get(key, max_bytes=MAX_MANIFEST_BYTES)

    def _restore(self, manifest: PublishedManifest, publisher: str) -> OuterState:
        """One checkpoint's parts are on disk at most, whatever strangers publish."""
        self._parts.keep_only([part.digest for part in manifest.parts])
        parts = (self._part(part, publisher) for part in manifest.parts)
        return restore_published(manifest, parts, self._context.spec)

    def _part(self, part: PublishedFile, publisher: str) -> bytes:
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


def _refuted(context: ReadContext, state: OuterState) -> bool:
    """Whether final votes carry another root than the one that follows from a checkpoint.

    The root after the next contains the digest over all that a checkpoint carries, so
    nothing of it can be forged. Waits for those votes, two windows at most. Where they are so
    old that the chain's node has forgotten them nothing is known: the first window that this
    node follows will tell.
    """
    chain, schedule, window = context.chain, context.schedule, state.window
    rules = context.spec.outer.quorum_rules()
    context.waiter.until_finalized(schedule.vote_block(window))
    try:
        before = read_ballot(chain, schedule, window - 1)
        after = decide(read_ballot(chain, schedule, window), (), rules)
    except ChainError as error:
        log.warning("votes on window %d cannot be read any more: %s", window, error)
        return False
    members = decide(before, state.voting_stakes_rao, rules).members
    root = next_root(state.root, window - 1, members, state.checkpoint_digest)
    return after.root is not None and after.root != root[:ROOT_BYTES]


def open_pages(
    context: ReadContext, peers: Peers, on_read: OnRead = lambda _sha256, _data: None
) -> PageReader:
    """The run's dataset, fetched shard by shard as it is read; `on_read` hears of all of it."""
    spec = context.spec
    peers.refresh()
    digest = spec.data.manifest_digest
    data = _named(context, peers, "data.manifest_digest", digest, MAX_MANIFEST_BYTES)
    try:
        manifest = parse_manifest(data)
    except ObjectError as error:
        raise _wrong_in_spec(context, "data.manifest_digest", error) from error
    check_manifest(manifest, spec, bytes.fromhex(digest))
    on_read(digest, data)

    def fetch(shard_digest: str, num_bytes: int) -> bytes:
        try:
            return fetch_from_any(
                context, peers, bytes.fromhex(shard_digest), num_bytes, exact=True
            )
        except StoreError as error:
            raise Unavailable(
                f"dataset shard {shard_digest} of data.manifest_digest: none of data.mirrors and "
                f"no validator gives it ({error}); tell the owners of these buckets"
            ) from error

    return PageReader(
        manifest,
        fetch,
        cache_dir=context.state_dir / "shards",
        max_resident_shards=_RESIDENT_SHARDS,
        on_read=on_read,
    )


_RESIDENT_SHARDS = 64


def check_manifest(manifest: Manifest, spec: RunSpec, digest: bytes) -> None:
    """ConfigError unless this is the dataset that the spec names and its model can read."""
    if manifest_digest(manifest) != digest:
        raise ConfigError(f"dataset manifest from the mirrors is not the spec's {digest.hex()}")
    pairs: Sequence[tuple[str, object, object]] = (
        ("data.tokenizer", spec.data.tokenizer, manifest.tokenizer),
        ("data.page_tokens", spec.data.page_tokens, manifest.page_tokens),
        ("model.vocab_size", spec.model.vocab_size, manifest.vocab_size),
    )
    for name, wanted, found in pairs:
        if wanted != found:
            raise ConfigError(f"run spec: {name} is {wanted!r}, the dataset's is {found!r}")
