"""What a node's own bucket keeps, and what it may forget.

A joiner starts from one of the last two checkpoints that final votes prove, and replays; all that
this takes stays: these checkpoints and those since, the payloads from the older one on, the verdict
logs from which pay and audits of those windows follow. Lineage stays for ever. Nothing of another
run, and nothing that is not plainly this run's, is ever touched. Owns the rule and its carrying
out; knows no other bucket.
"""

import logging
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from template.context import NodeContext
from template.errors import Denied, ObjectError, StoreError
from template.protocol.keys import blob_key, checkpoint_manifest_key, dropped_manifest_key
from template.protocol.quorum import VOID_WINDOWS
from template.protocol.spec import RunSpec
from template.scoring.rules import pay_rules
from template.training.published import named_digests

log = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2
"""One alone would be gone for whoever is reading it when the next one comes."""
PROOF_WINDOWS = VOID_WINDOWS
"""The votes that prove theta_c are final when theta_{c+2} comes: whoever starts from it cannot go
on before. Until theta_{c+4} its last window may still be found void: then it was none, and nodes go
back to the one before it and replay."""
MAX_MANIFEST_BYTES = 64 * 2**20
_WINDOW = r"([0-9]{8}|[1-9][0-9]{8,})"
_MANIFEST = re.compile(rf"[0-9a-f]{{32}}/checkpoint/{_WINDOW}/(manifest|dropped)\.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Expired:
    """What may go: keys of payloads and verdict logs, and windows of checkpoints."""

    keys: tuple[str, ...]
    checkpoints: tuple[int, ...]


def expired(keys: Collection[str], window: int, spec: RunSpec) -> Expired:
    """What of a bucket's keys a node at theta_window needs no more, nor anybody else.

    Pure. A payload of window w is part of theta_{w+2}; it may go when the second checkpoint with
    it in is proven: with the last two of these at c and c + every, those up to c - 2.
    """
    run = spec.run_id.hex()
    published = _windows(keys, rf"{run}/checkpoint/{_WINDOW}/manifest\.json")
    oldest = oldest_start(published.values(), window, spec)
    payloads = _windows(keys, rf"{run}/payload/{_WINDOW}/[0-9a-f]{{64}}")
    verdicts = _windows(keys, rf"{run}/verdict/{_WINDOW}\.jsonl")
    first_audited = oldest - 1
    first_log = first_audited - pay_rules(spec).length
    return Expired(
        keys=(
            *(key for key, w in sorted(payloads.items()) if w < first_audited),
            *(key for key, w in sorted(verdicts.items()) if w < first_log),
        ),
        checkpoints=tuple(sorted(w for w in published.values() if w < oldest)),
    )


def oldest_start(published: Iterable[int], window: int, spec: RunSpec) -> int:
    """The oldest checkpoint from which theta_window must be replayable; 0 or less: theta_0.

    The older of the last two that are due and proven, or that lie in this bucket if those are
    older: one that could not be published yet takes nothing away.
    """
    every = spec.checkpoint.every_windows
    proven = (window - PROOF_WINDOWS) // every * every
    return min([proven - (KEPT_CHECKPOINTS - 1) * every, *sorted(published)[-KEPT_CHECKPOINTS:]])


def _windows(keys: Iterable[str], pattern: str) -> dict[str, int]:
    """Key -> its window, of those that match: what another program may have put is not ours."""
    matches = ((key, re.fullmatch(pattern, key)) for key in keys)
    return {key: int(match[1]) for key, match in matches if match}


class Sweeper:
    """Removes from a node's bucket what has expired, once for each checkpoint that is proven.

    `needed`: digests of blobs that stay whatever happens: the dataset's.
    """

    def __init__(self, context: NodeContext, needed: Collection[bytes] = ()) -> None:
        spec = context.spec
        first = (spec.data.manifest_digest, spec.checkpoint.theta0_digest)
        self._context = context
        self._needed = {*needed, *map(bytes.fromhex, first)}
        self._swept = 0
        self._has_warned = False

    def sweep(self, window: int, stop: Callable[[], bool] = lambda: False) -> None:
        """Remove what a node at theta_window needs no more, one object at least, until `stop()`.

        What is left then, or could not be removed, is tried again with the next window. A
        failure is told once, and is never more than a warning.
        """
        every = self._context.spec.checkpoint.every_windows
        checkpoint = (window - PROOF_WINDOWS) // every
        if checkpoint < KEPT_CHECKPOINTS or checkpoint == self._swept:
            return
        try:
            is_done = self._sweep(window, stop)
        except (StoreError, ObjectError) as error:
            self._tell(error)
            return
        if is_done:
            self._swept, self._has_warned = checkpoint, False

    def _sweep(self, window: int, stop: Callable[[], bool]) -> bool:
        context = self._context
        run_id = context.spec.run_id
        found = expired(context.bucket.list(f"{run_id.hex()}/"), window, context.spec)
        for key in found.keys:
            context.bucket.delete(key)
            if stop():
                return False
        for checkpoint in found.checkpoints:
            self._withdraw(checkpoint)
        return self._remove_loose_blobs(stop)

    def _withdraw(self, window: int) -> None:
        """Nobody finds the checkpoint any more, and what it names is not forgotten: blobs carry no
        name of a run, so that its manifest alone tells which were its own.
        """
        bucket, run_id = self._context.bucket, self._context.spec.run_id
        key = checkpoint_manifest_key(run_id, window)
        manifest = bucket.get(key, max_bytes=MAX_MANIFEST_BYTES)
        bucket.put(dropped_manifest_key(run_id, window), manifest)
        bucket.delete(key)

    def _remove_loose_blobs(self, stop: Callable[[], bool]) -> bool:
        bucket, run = self._context.bucket, self._context.spec.run_id.hex()
        keys = set(bucket.list(""))
        dropped = _windows(keys, rf"{run}/checkpoint/{_WINDOW}/dropped\.json")
        if not dropped:
            return True
        # Manifests of other runs count, too: two runs may share a file.
        others = [key for key in keys if _MANIFEST.fullmatch(key) and key not in dropped]
        needed = self._needed.union(*map(self._named_by, others))
        for key in sorted(dropped):
            loose = {blob_key(digest) for digest in self._named_by(key) - needed}
            for blob in sorted(loose & keys):
                bucket.delete(blob)
                if stop():
                    return False
            bucket.delete(key)
        return True

    def _named_by(self, key: str) -> frozenset[bytes]:
        return named_digests(self._context.bucket.get(key, max_bytes=MAX_MANIFEST_BYTES))

    def _tell(self, error: StoreError | ObjectError) -> None:
        remedy = ": let the write key delete, or it only grows" if isinstance(error, Denied) else ""
        log.log(
            logging.DEBUG if self._has_warned else logging.WARNING,
            "what nobody needs any more stays in the bucket until the next window%s (%s)",
            remedy,
            error,
        )
        self._has_warned = True
