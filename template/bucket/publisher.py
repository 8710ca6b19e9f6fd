"""Publishing the objects from which a newcomer starts: checkpoints, dataset, theta_0.

Owns the queue of unpublished objects and the retries. A failing bucket never delays a vote: uploads
run between the votes on one window and the scoring of the next, and a failed upload waits.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping

from template.context import NodeContext
from template.errors import NotFound, StoreError
from template.protocol.keys import blob_key, checkpoint_manifest_key
from template.training.outer import OuterState
from template.training.published import build_checkpoint

log = logging.getLogger(__name__)

MAX_WAITING_BLOBS = 64
"""Maximum number of blobs held in memory until upload; a dropped blob returns when read again."""


class Publisher:
    """A queue of objects for the validator's own bucket; `push` uploads."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._blobs: OrderedDict[bytes, bytes] = OrderedDict()
        self._served: set[bytes] = set()
        self._checkpoint: deque[tuple[str, bytes]] = deque()
        self._companions: Mapping[str, bytes] = {}
        self._has_warned = False

    def carry(self, companions: Mapping[str, bytes]) -> None:
        """Add these files to every checkpoint offered from now on."""
        self._companions = companions

    def offer(self, sha256: str, data: bytes) -> None:
        """Queue verified bytes of a blob, unless already served by the bucket."""
        digest = bytes.fromhex(sha256)
        if digest not in self._served:
            self._blobs[digest] = data
        while len(self._blobs) > MAX_WAITING_BLOBS:
            self._blobs.popitem(last=False)

    def offer_checkpoint(self, state: OuterState) -> None:
        """Queue the state's checkpoint if due, in place of an older unpublished checkpoint.

        The manifest goes last: a reader of the manifest finds every file.
        """
        if not state.checkpoint_digest:
            return
        published = build_checkpoint(state, self._context.spec, self._companions)
        files = [(blob_key(digest), data) for digest, data in published.blobs.items()]
        manifest = (self._manifest_key(state.window), published.manifest)
        self._checkpoint = deque([*files, manifest])

    def offer_missing_checkpoint(self, state: OuterState) -> None:
        """Queue the checkpoint after a restart, unless the bucket has the manifest."""
        try:
            self._context.bucket.size(self._manifest_key(state.window))
        except NotFound:
            self.offer_checkpoint(state)
        except StoreError as error:
            log.debug(
                "theta_%d: cannot tell whether the checkpoint is published: %s", state.window, error
            )
            self.offer_checkpoint(state)

    def push(self, stop: Callable[[], bool]) -> bool:
        """Upload queued objects, at least one, until `stop()`; returns whether the queue is empty.

        A failure is warned about once; the remaining objects wait for the next call.
        """
        try:
            while self._checkpoint or self._blobs:
                self._send_next()
                if stop():
                    break
        except StoreError as error:
            log.log(
                logging.DEBUG if self._has_warned else logging.WARNING,
                "upload to the own bucket failed; retrying after the next window: %s",
                error,
            )
            self._has_warned = True
            return False
        self._has_warned = False
        return not (self._checkpoint or self._blobs)

    def _send_next(self) -> None:
        if self._checkpoint:
            key, data = self._checkpoint[0]
            self._context.bucket.put(key, data)
            self._checkpoint.popleft()
            return
        digest, data = next(iter(self._blobs.items()))
        if not self._has(digest, len(data)):
            self._context.bucket.put(blob_key(digest), data)
        self._served.add(digest)
        del self._blobs[digest]

    def _has(self, digest: bytes, num_bytes: int) -> bool:
        try:
            return self._context.bucket.size(blob_key(digest)) == num_bytes
        except NotFound:
            return False

    def _manifest_key(self, window: int) -> str:
        return checkpoint_manifest_key(self._context.spec.run_id, window)
