"""Retention in a node's own bucket: the pure rule `expired`, and the sweeper.

A joiner starts from one of the last two checkpoints proven by final votes, and replays. The bucket
keeps the objects for this: both checkpoints and all newer checkpoints, payloads since the older
checkpoint, and verdict logs for pay and audits of the same windows. Lineage stays for ever.
The sweeper deletes only objects with a key of this run, and blobs named by its manifests.
"""

import logging
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from template.context import NodeContext
from template.errors import Denied, NotFound, ObjectError, StoreError
from template.protocol.keys import blob_key, checkpoint_manifest_key, dropped_manifest_key
from template.protocol.quorum import VOID_WINDOWS
from template.protocol.run import Run
from template.scoring.rules import pay_rules
from template.training.published import named_digests, published_limit_bytes
from template.training.theta0 import index_length, parse_index

log = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2
"""Two: a joiner may still be reading the older checkpoint when the next is proven."""
PROOF_WINDOWS = VOID_WINDOWS
"""Windows until a checkpoint counts as proven.

The votes on theta_c are final at theta_{c+2}. Until theta_{c+4} the last window may still be
voided; nodes then return to the checkpoint before and replay.
"""
MAX_OTHER_MANIFEST_BYTES = 64 * 2**20
"""Limit on a manifest of another run in the node's own bucket."""
_WINDOW = r"([0-9]{8}|[1-9][0-9]{8,})"
_MANIFEST = re.compile(rf"[0-9a-f]{{32}}/checkpoint/{_WINDOW}/(manifest|dropped)\.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Expired:
    """Objects to delete: keys of payloads, verdict logs and models' files, and windows of
    checkpoints.

    `first_payloads`: the first window whose payloads are still needed.
    """

    keys: tuple[str, ...]
    checkpoints: tuple[int, ...]
    first_payloads: int


def expired(keys: Collection[str], window: int, run: Run) -> Expired:
    """Keys of a bucket that every node has stopped needing, at theta_window.

    Pure. A payload of window w is part of theta_{w+2} and expires when two proven checkpoints
    contain its step: with these checkpoints at c and c + every, payloads up to window c - 2.
    """
    run_id = run.run_id.hex()
    published = _windows(keys, rf"{run_id}/checkpoint/{_WINDOW}/manifest\.json")
    oldest = oldest_start(published.values(), window, run)
    payloads = _windows(keys, rf"{run_id}/payload/{_WINDOW}/[0-9a-f]{{64}}")
    verdicts = _windows(keys, rf"{run_id}/verdict/{_WINDOW}\.jsonl")
    models = _windows(keys, rf"{run_id}/model/{_WINDOW}/[A-Za-z0-9._-]+")
    first_audited = oldest - 1
    first_log = first_audited - max(pay_rules(spec).length for spec in run)
    return Expired(
        keys=(
            *(key for key, w in sorted(payloads.items()) if w < first_audited),
            *(key for key, w in sorted(verdicts.items()) if w < first_log),
            *(key for key, w in sorted(models.items()) if w < oldest),
        ),
        checkpoints=tuple(sorted(w for w in published.values() if w < oldest)),
        first_payloads=first_audited,
    )


def oldest_start(published: Iterable[int], window: int, run: Run) -> int:
    """The oldest checkpoint from which theta_window must be replayable; 0 or less: theta_0.

    The older of the last two proven checkpoints, or of the last two published in this bucket if
    older: an unpublished checkpoint expires no object.
    """
    oldest = window - PROOF_WINDOWS + 1
    for _ in range(KEPT_CHECKPOINTS):
        oldest = run.checkpoint_before(oldest - 1)
    return min([oldest, *sorted(published)[-KEPT_CHECKPOINTS:]])


def _windows(keys: Iterable[str], pattern: str) -> dict[str, int]:
    """Key -> window for keys matching `pattern`; skips objects of other programs."""
    matches = ((key, re.fullmatch(pattern, key)) for key in keys)
    return {key: int(match[1]) for key, match in matches if match}


def ignore_window(_window: int) -> None:
    """The `on_expired` of a bucket without payloads elsewhere."""


class Sweeper:
    """Deletes expired objects from a node's bucket, once per proven checkpoint.

    `needed`: digests of the dataset's blobs, kept for the whole run. `promised`: digests of a
    checkpoint under way, whose manifest comes after its parts. `on_expired` gets the first window
    whose payloads are still needed.
    """

    def __init__(
        self,
        context: NodeContext,
        needed: Collection[bytes] = (),
        *,
        promised: Callable[[], Collection[bytes]] = tuple,
        on_expired: Callable[[int], None] = ignore_window,
    ) -> None:
        spec = context.run.first
        first = (spec.data.manifest_digest, spec.checkpoint.theta0_digest)
        self._context, self._promised, self._on_expired = context, promised, on_expired
        self._needed = {*needed, *map(bytes.fromhex, first)}
        self._swept = 0
        self._has_warned = False

    def sweep(self, window: int, stop: Callable[[], bool] = lambda: False) -> None:
        """Delete objects expired at theta_window, at least one, until `stop()`.

        Remaining objects wait for the next window. A failure is logged as a warning, once.
        """
        run = self._context.run
        checkpoint = run.checkpoint_before(window - PROOF_WINDOWS)
        if run.checkpoint_before(checkpoint - 1) == 0 or checkpoint == self._swept:
            return
        try:
            is_done = self._sweep(window, stop)
        except (StoreError, ObjectError) as error:
            self._warn_once(error)
            return
        if is_done:
            self._swept, self._has_warned = checkpoint, False

    def _sweep(self, window: int, stop: Callable[[], bool]) -> bool:
        context = self._context
        run_id = context.run.run_id
        found = expired(context.bucket.list(f"{run_id.hex()}/"), window, context.run)
        self._on_expired(found.first_payloads)
        for key in found.keys:
            context.bucket.delete(key)
            if stop():
                return False
        for checkpoint in found.checkpoints:
            self._withdraw(checkpoint)
        return self._remove_loose_blobs(stop)

    def _withdraw(self, window: int) -> None:
        """Hide a checkpoint from joiners, but keep the list of its blobs under another key.

        Blob keys lack a run id; only the manifest says which blobs belonged to the checkpoint.
        """
        bucket, run_id = self._context.bucket, self._context.run.run_id
        key = checkpoint_manifest_key(run_id, window)
        limit = published_limit_bytes(self._context.run.bounds)
        manifest = bucket.get(key, max_bytes=limit)
        bucket.put(dropped_manifest_key(run_id, window), manifest)
        bucket.delete(key)

    def _remove_loose_blobs(self, stop: Callable[[], bool]) -> bool:
        bucket, run = self._context.bucket, self._context.run.run_id.hex()
        keys = set(bucket.list(""))
        dropped = _windows(keys, rf"{run}/checkpoint/{_WINDOW}/dropped\.json")
        if not dropped:
            return True
        # Manifests of other runs count too: two runs may share a blob.
        others = [key for key in keys if _MANIFEST.fullmatch(key) and key not in dropped]
        needed = self._needed.union(
            self._theta0_parts(), self._promised(), *map(self._named_by, others)
        )
        for key in sorted(dropped):
            loose = {blob_key(digest) for digest in self._named_by(key) - needed}
            for blob in sorted(loose & keys):
                bucket.delete(blob)
                if stop():
                    return False
            bucket.delete(key)
        return True

    def _theta0_parts(self) -> frozenset[bytes]:
        """Parts of theta_0 in this bucket: a tensor that never moved is in a checkpoint too."""
        spec = self._context.run.first
        key = blob_key(bytes.fromhex(spec.checkpoint.theta0_digest))
        try:
            index = self._context.bucket.get(key, max_bytes=index_length(spec))
        except NotFound:
            return frozenset()  # without the index nobody looks for the parts here
        return frozenset(digest for digest, _ in parse_index(index, spec))

    def _named_by(self, key: str) -> frozenset[bytes]:
        own = published_limit_bytes(self._context.run.bounds)
        limit = max(MAX_OTHER_MANIFEST_BYTES, own)
        return named_digests(self._context.bucket.get(key, max_bytes=limit))

    def _warn_once(self, error: StoreError | ObjectError) -> None:
        remedy = (
            ": let the write key delete, or the bucket only grows"
            if isinstance(error, Denied)
            else ""
        )
        log.log(
            logging.DEBUG if self._has_warned else logging.WARNING,
            "bucket cleanup failed; retrying after the next window%s (%s)",
            remedy,
            error,
        )
        self._has_warned = True
