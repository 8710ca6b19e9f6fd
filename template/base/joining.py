"""Joining a run: from this node's own checkpoint, a published one, or theta_0."""

import logging
from collections.abc import Sequence
from pathlib import Path

from template.base.ballots import read_ballot
from template.base.context import ReadContext
from template.base.peers import Peers
from template.data.manifest import Manifest, manifest_digest, parse_manifest
from template.data.pages import PageReader
from template.errors import (
    ChainError,
    ConfigError,
    NotFound,
    StoreError,
    SubnetError,
    Unavailable,
)
from template.protocol.keys import checkpoint_manifest_key
from template.protocol.quorum import decide
from template.protocol.record import ROOT_BYTES
from template.protocol.root import next_root, tensors_digest
from template.protocol.spec import RunSpec
from template.training.checkpoint import (
    LocalCheckpoint,
    load_local,
    parse_params,
    parse_published,
    restore_published,
)
from template.training.outer import OuterState, first_state

log = logging.getLogger(__name__)

LOCAL_FILE = "node.safetensors"
MAX_MANIFEST_BYTES = 64 * 2**20


def local_path(context: ReadContext) -> Path:
    return context.state_dir / LOCAL_FILE


def join(context: ReadContext, peers: Peers) -> LocalCheckpoint:
    """Where this node starts: its own checkpoint if it has one, else the newest published
    one that a validator holds, else theta_0.
    """
    local = load_local(local_path(context), context.spec)
    if local is not None:
        log.info("continuing at theta_%d from %s", local.state.window, local_path(context))
        return local
    peers.refresh()
    state = _published_state(context, peers) or _first_state(context, peers)
    log.info("starting at theta_%d, root %s", state.window, state.root[:8].hex())
    return LocalCheckpoint(state=state)


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
    for hotkey in peers.validators():
        found = _published(context, peers, hotkey, window)
        if found is not None and found.root == root:
            return found
    return None


def _first_state(context: ReadContext, peers: Peers) -> OuterState:
    spec = context.spec
    digest, limit = spec.checkpoint.theta0_digest, _params_limit(context)
    params = parse_params(_named(context, peers, "checkpoint.theta0_digest", digest, limit), spec)
    log.debug("theta_0 has tensor digest %s", tensors_digest(params).hex())
    return first_state(params, spec.run_id)


def _named(context: ReadContext, peers: Peers, key: str, digest: str, max_bytes: int) -> bytes:
    """Bytes that the spec names under `key`, from one of its mirrors."""
    mirrors = context.spec.data.mirrors
    try:
        return peers.fetch_blob(mirrors, bytes.fromhex(digest), max_bytes)
    except NotFound as error:
        raise ConfigError(
            f"--run {context.run_file}: {key} is at none of data.mirrors ({error}). Get the file "
            "again from the subnet's owner, and check that --netuid and --subtensor.network are "
            "those of the run"
        ) from error
    except StoreError as error:
        raise Unavailable(
            f"--run {context.run_file}: none of data.mirrors gives {key} now ({error}). Start "
            "again later, or ask the owners of these buckets"
        ) from error


def _published_state(
    context: ReadContext, peers: Peers, newest: int | None = None
) -> OuterState | None:
    """The newest checkpoint, of theta_newest at most, that some validator, most stake first, can
    give us.
    """
    chain, spec = context.chain, context.spec
    finalized = chain.finalized()
    # The last window on which there are votes that prove a checkpoint.
    window = min(context.schedule.window_of(finalized), spec.schedule.num_windows - 1)
    window = window if newest is None else min(window, newest)
    every = spec.checkpoint.every_windows
    validators = [
        n.hotkey
        for n in sorted(
            chain.metagraph(finalized).neurons, key=lambda n: (-n.total_stake_rao, n.uid)
        )
        if n.validator_permit
    ]
    for candidate in range(window // every * every, every - 1, -every):
        for hotkey in validators:
            state = _fetch_checkpoint(context, peers, hotkey, candidate)
            if state is not None:
                return state
    return None


def _fetch_checkpoint(
    context: ReadContext, peers: Peers, hotkey: str, window: int
) -> OuterState | None:
    state = _published(context, peers, hotkey, window)
    if state is None:
        return None
    if _refuted(context, state):
        log.warning("checkpoint %d of %s is not what the stake majority voted", window, hotkey)
        return None
    return state


def _published(context: ReadContext, peers: Peers, hotkey: str, window: int) -> OuterState | None:
    """A checkpoint as one validator has it, whole in itself; its root is not proven."""
    key = checkpoint_manifest_key(context.spec.run_id, window)
    try:
        data = peers.bucket(hotkey).get(key, max_bytes=MAX_MANIFEST_BYTES)
        manifest = parse_published(data, context.spec)
        blob = peers.fetch_blob([hotkey], manifest.params_digest, _params_limit(context))
        state = restore_published(manifest, blob, context.spec)
    except SubnetError as error:
        log.debug("no checkpoint %d from %s: %s", window, hotkey, error)
        return None
    return state if state.window == window else None


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


def _params_limit(context: ReadContext) -> int:
    """Bytes of all tensors in float32, and room for the file's header."""
    numel = 0
    for shape in context.form.shapes.values():
        size = 1
        for side in shape:
            size *= side
        numel += size
    return 4 * numel + 2**20


def open_pages(context: ReadContext, peers: Peers) -> PageReader:
    """The run's dataset, fetched shard by shard as it is read."""
    spec = context.spec
    peers.refresh()
    digest = spec.data.manifest_digest
    manifest = parse_manifest(
        _named(context, peers, "data.manifest_digest", digest, MAX_MANIFEST_BYTES)
    )
    check_manifest(manifest, spec, bytes.fromhex(digest))

    def fetch(shard_digest: str, num_bytes: int) -> bytes:
        try:
            return peers.fetch_blob(spec.data.mirrors, bytes.fromhex(shard_digest), num_bytes)
        except StoreError as error:
            raise Unavailable(
                f"dataset shard {shard_digest} of data.manifest_digest: none of data.mirrors gives "
                f"it ({error}); tell the owners of these buckets"
            ) from error

    return PageReader(
        manifest,
        fetch,
        cache_dir=context.state_dir / "shards",
        max_resident_shards=_RESIDENT_SHARDS,
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
