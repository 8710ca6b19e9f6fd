"""Publishing the objects from which a newcomer starts: checkpoints, dataset, theta_0.

Validators share a checkpoint: each puts the files that it holds by `template.protocol.holders`, and
the manifest last. With few validators every one holds all, and a bucket may always hold more.
Owns the queue of unpublished objects, large ones on disk, and the retries. A failing bucket never
delays a vote: uploads run between the votes on one window and the scoring of the next, and a failed
upload waits.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from template.bucket.retention import KEPT_CHECKPOINTS, PROOF_WINDOWS
from template.bucket.shown_model import ShownModel
from template.chain.ballots import read_records
from template.context import NodeContext
from template.data.kept import KeptFiles
from template.errors import ChainError, NotFound, StoreError, unreadable
from template.protocol.holders import holders_of
from template.protocol.keys import blob_key, checkpoint_manifest_key
from template.store.multipart import BytesSource
from template.store.types import Source
from template.training.outer import OuterState
from template.training.published import build_checkpoint

log = logging.getLogger(__name__)


def waiting_files(state_dir: Path) -> KeptFiles:
    """theta_0 until its upload: on disk, so that a restart goes on with it."""
    return KeptFiles(state_dir / "serving", ".blob")


class Publisher:
    """A queue of objects for the validator's own bucket; `push` uploads."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._blobs: OrderedDict[bytes, bytes] = OrderedDict()
        """Read again at every start: the manifest of the dataset and the tokenizer."""
        self._kept = waiting_files(context.state_dir)
        self._files = deque(self._kept.digests())
        self._served: set[bytes] = set()
        self._checkpoint: deque[tuple[str, Callable[[], Source]]] = deque()
        self._checkpoint_window, self._num_files = 0, 0
        self._next: OuterState | None = None
        self._companions: Mapping[str, bytes] = {}
        self._shown: ShownModel | None = None
        self._has_warned = False

    def carry(self, companions: Mapping[str, bytes]) -> None:
        """Add these files to every checkpoint offered from now on."""
        self._companions = companions

    def show(self, shown: ShownModel) -> None:
        """Put a model for other programs after every checkpoint offered from now on."""
        self._shown = shown

    def offer(self, sha256: str, data: bytes) -> None:
        """Queue verified bytes of a blob, unless already served by the bucket."""
        digest = bytes.fromhex(sha256)
        if digest not in self._served:
            self._blobs[digest] = data

    def offer_file(self, sha256: str, path: Path) -> None:
        """As `offer`, of a file; the caller may remove it. Waits on disk, also for a restart."""
        digest = bytes.fromhex(sha256)
        if digest in self._served:
            return
        # In place of a file of this name too: a kill or a power cut may have damaged that one.
        self._kept.link(digest, path)
        if digest not in self._files:
            self._files.append(digest)

    def offer_checkpoint(self, state: OuterState, *, is_last: bool = False) -> None:
        """Queue this node's share of the state's checkpoint if due.

        The manifest goes last: a reader of the manifest finds every file of this node. A file is
        made of the state's tensors when its turn comes: nothing is held but the state. A checkpoint
        of which a file is out goes on, as long as joiners may start from it, and the newest waits
        until then: on a slow line no checkpoint would ever be complete otherwise. `is_last`: no
        other checkpoint follows, so this one takes the place of any.
        """
        if not state.checkpoint_digest or state.window == self._checkpoint_window:
            return
        if self._is_busy(state.window, is_last):
            if self._next is not None and self._next.window != state.window:
                self._tell_dropped(self._next.window)
            self._next = state
            return
        if self._checkpoint:
            self._tell_dropped(self._checkpoint_window)
        self._begin(state)

    def _begin(self, state: OuterState) -> None:
        published = build_checkpoint(state, self._context.spec, self._companions)
        blobs = published.blobs
        mine = self._share(blobs, state.window)
        files = [(blob_key(d), published.parts.get(d) or partial(_small, blobs, d)) for d in mine]
        manifest = (self._manifest_key(state.window), partial(BytesSource, published.manifest))
        shown = self._shown.objects(state) if self._shown is not None else []
        self._checkpoint = deque([*files, manifest, *shown])
        self._checkpoint_window, self._num_files = state.window, len(self._checkpoint)
        self._next = None

    def _is_busy(self, window: int, is_last: bool) -> bool:
        """Whether an older checkpoint goes on before that of `window`."""
        waiting, older = len(self._checkpoint), self._checkpoint_window
        every = self._context.spec.checkpoint.every_windows
        is_useful = window - older <= PROOF_WINDOWS + (KEPT_CHECKPOINTS - 1) * every
        return is_useful and 0 < waiting < self._num_files and not is_last

    def _tell_dropped(self, window: int) -> None:
        log.warning(
            "theta_%d: this checkpoint is dropped: %d of %d files of theta_%d are out. If "
            "this comes again, the upload is too slow for checkpoint.every_windows",
            window,
            self._num_files - len(self._checkpoint),
            self._num_files,
            self._checkpoint_window,
        )

    def _share(self, digests: Iterable[bytes], window: int) -> list[bytes]:
        """The files of a checkpoint that this node holds."""
        own, files = self._context.hotkey, list(digests)
        validators = self._active_validators(window) | {own}
        mine = [digest for digest in files if own in holders_of(digest, validators)]
        if len(mine) < len(files):
            log.info(
                "theta_%d: publishing %d of %d files of the checkpoint; %d validators share it",
                window,
                len(mine),
                len(files),
                len(validators),
            )
        return mine

    def _active_validators(self, window: int) -> set[str]:
        """Hotkeys with a permit and a vote of late; none if the chain does not say so now."""
        chain, run_id = self._context.chain, self._context.spec.run_id
        try:
            block = chain.finalized()
            permits = {n.hotkey for n in chain.metagraph(block).neurons if n.validator_permit}
            records = read_records(chain, block, run_id)
        except ChainError as error:
            log.info("theta_%d: publishing all files of the checkpoint: %s", window, error)
            return set()
        votes = {hotkey: record.vote for hotkey, record in records.items()}
        return {
            hotkey
            for hotkey, vote in votes.items()
            if hotkey in permits and vote is not None and vote.window >= window - PROOF_WINDOWS
        }

    def offer_missing_checkpoint(self, state: OuterState) -> None:
        """Queue the checkpoint after a restart, unless the bucket has what goes last."""
        try:
            self._context.bucket.size(self._manifest_key(state.window))
            if self._shown is not None:
                self._context.bucket.size(self._shown.last_key(state.window))
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
            while self._is_waiting:
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
        return not self._is_waiting

    @property
    def _is_waiting(self) -> bool:
        return bool(self._checkpoint or self._blobs or self._files)

    def _send_next(self) -> None:
        if self._checkpoint:
            key, make = self._checkpoint[0]
            self._context.bucket.put_source(key, make())
            self._checkpoint.popleft()
            if not self._checkpoint and self._next is not None:
                self._begin(self._next)
            return
        if self._blobs:
            digest, data = next(iter(self._blobs.items()))
            if not self._has(digest, len(data)):
                self._context.bucket.put(blob_key(digest), data)
            self._served.add(digest)
            del self._blobs[digest]
            return
        self._send_file(self._files[0])
        self._files.popleft()

    def _send_file(self, digest: bytes) -> None:
        """Upload a file and remove it; a damaged one is dropped, and said to be."""
        path = self._kept.path(digest)
        try:
            num_bytes = path.stat().st_size
        except FileNotFoundError:
            num_bytes = 0
        except OSError as error:
            raise unreadable(path, error) from error
        if not self._has(digest, num_bytes):
            if self._kept.find(digest, num_bytes) is None:
                log.warning(
                    "%s is damaged or gone, so this bucket does not serve this part of theta_0; "
                    "the mirrors do, and `tessera owner publish` sends it again",
                    path,
                )
                self._kept.remove(digest)
                return
            self._context.bucket.put_file(blob_key(digest), path)
        self._served.add(digest)
        self._kept.remove(digest)

    def _has(self, digest: bytes, num_bytes: int) -> bool:
        try:
            return self._context.bucket.size(blob_key(digest)) == num_bytes
        except NotFound:
            return False

    def _manifest_key(self, window: int) -> str:
        return checkpoint_manifest_key(self._context.spec.run_id, window)


def _small(blobs: Mapping[bytes, bytes], digest: bytes) -> BytesSource:
    return BytesSource(blobs[digest])
