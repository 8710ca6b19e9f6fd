"""Publishing the objects from which a newcomer starts: checkpoints, dataset, theta_0.

Validators share a checkpoint: each puts the files that it holds by `template.protocol.holders`, and
the manifest last. With few validators every one holds all, and a bucket may always hold more.
Owns the queue of unpublished objects, large ones on disk, and the retries. The loop offers, and one
other thread pushes (`template.bucket.background`): a slow or failing bucket never delays a vote,
and a failed upload waits for the next call. A checkpoint is read from the node's anchor on disk.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from threading import Lock

from template.bucket.background import as_it_is
from template.bucket.carried import Carried
from template.bucket.retention import KEPT_CHECKPOINTS, PROOF_WINDOWS
from template.bucket.shown_model import ShownModel
from template.chain.ballots import read_active_validators
from template.context import NodeContext
from template.data.kept import KeptFiles
from template.errors import ChainError, NotFound, StoreError, unreadable
from template.protocol.holders import holders_of
from template.protocol.keys import blob_key, checkpoint_manifest_key
from template.store.multipart import BytesSource, FileSource
from template.store.types import Source
from template.training.file_tensors import state_on_disk
from template.training.outer import OuterState
from template.training.published import build_checkpoint

log = logging.getLogger(__name__)


def waiting_files(state_dir: Path) -> KeptFiles:
    """theta_0 until its upload: on disk, so that a restart goes on with it."""
    return KeptFiles(state_dir / "serving", ".blob")


class Publisher:
    """A queue of objects for the validator's own bucket; `push` uploads.

    One thread offers and one thread pushes. The lock covers the queues and no upload.
    `paced`: makes of a source one that gives way between two pieces.
    """

    def __init__(
        self, context: NodeContext, *, paced: Callable[[Source], Source] = as_it_is
    ) -> None:
        self._context, self._paced = context, paced
        self._lock = Lock()
        self._blobs: OrderedDict[bytes, bytes] = OrderedDict()
        """Read again at every start: the manifest of the dataset and the tokenizer."""
        self._kept = waiting_files(context.state_dir)
        self._files = deque(self._kept.digests())
        self._served: set[bytes] = set()
        self._checkpoint: deque[tuple[str, Callable[[], Source]]] = deque()
        self._checkpoint_window, self._num_files = 0, 0
        self._next: OuterState | None = None
        """Not begun: its files are not hashed yet."""
        self._promised: frozenset[bytes] = frozenset()
        self.carried = Carried(context.run)
        """The companions: files that every checkpoint offered has beside its tensors."""
        self._shown: ShownModel | None = None
        self._has_warned = False

    def show(self) -> None:
        """Put a model for other programs after every checkpoint offered from now on."""
        self._shown = ShownModel(self._context, self.carried)

    def offer(self, sha256: str, data: bytes) -> None:
        """Queue verified bytes of a blob, unless already served by the bucket."""
        digest = bytes.fromhex(sha256)
        with self._lock:
            if digest not in self._served:
                self._blobs[digest] = data

    def offer_file(self, sha256: str, path: Path) -> None:
        """As `offer`, of a file; the caller may remove it. Waits on disk, also for a restart."""
        digest = bytes.fromhex(sha256)
        with self._lock:
            if digest in self._served:
                return
            # In place of a file of this name too: a kill or a power cut may have damaged that one.
            self._kept.link(digest, path)
            if digest not in self._files:
                self._files.append(digest)

    def offer_checkpoint(
        self, state: OuterState, *, is_last: bool = False, anchor: Path | None = None
    ) -> None:
        """Queue this node's share of the state's checkpoint if due.

        The manifest goes last: a reader of the manifest finds every file of this node. A file is
        made when its turn comes, from `anchor`, a file of this state on disk, which may be removed
        meanwhile; without one the state stays in memory until the last file is out. A checkpoint
        of which a file is out goes on, as long as joiners may start from it, and the newest waits
        until then: on a slow line no checkpoint would ever be complete otherwise. `is_last`: no
        other checkpoint follows, so this one takes the place of any.
        """
        if not state.checkpoint_digest:
            return
        with self._lock:
            waiting = self._next
            if state.window == self._checkpoint_window or (
                waiting is not None and state.window == waiting.window
            ):
                return
            if waiting is not None:
                self._tell_dropped(waiting.window)
            if self._checkpoint and not self._is_busy(state.window, is_last):
                self._tell_dropped(self._checkpoint_window)
                self._checkpoint, self._promised = deque(), frozenset()
            self._next = _from_disk(state, anchor)

    @property
    def promised(self) -> frozenset[bytes]:
        """Digests of the checkpoint under way: parts are in the bucket before their manifest."""
        return self._promised

    def _begin(self) -> None:
        """Hash the files of the checkpoint that waits, and queue this node's share."""
        state = self._next
        if state is None:
            return
        companions = self.carried.of(state.window).files
        published = build_checkpoint(state, self._context.run.at(state.window), companions)
        blobs = published.blobs
        mine = self._share(blobs, state.window)
        files = [(blob_key(d), published.parts.get(d) or partial(_small, blobs, d)) for d in mine]
        manifest = (self._manifest_key(state.window), partial(BytesSource, published.manifest))
        shown = self._shown.objects(state) if self._shown is not None else []
        with self._lock:
            if self._next is not state:
                return  # a newer one was offered meanwhile
            self._checkpoint = deque([*files, manifest, *shown])
            self._promised = frozenset(mine)
            self._checkpoint_window, self._num_files = state.window, len(self._checkpoint)
            self._next = None

    def _is_busy(self, window: int, is_last: bool) -> bool:
        """Whether an older checkpoint goes on before that of `window`."""
        waiting, older = len(self._checkpoint), self._checkpoint_window
        every = self._context.run.at(window).checkpoint.every_windows
        is_useful = window - older <= PROOF_WINDOWS + (KEPT_CHECKPOINTS - 1) * every
        return is_useful and 0 < waiting < self._num_files and not is_last

    def _tell_dropped(self, window: int) -> None:
        log.warning(
            "theta_%d: this checkpoint is dropped: %d of %d files of theta_%d are out. If "
            "this comes again, the upload is too slow for checkpoint.every_windows",
            window,
            self._num_files - len(self._checkpoint),
            self._num_files,
            self._checkpoint_window or window,
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
        chain, run_id = self._context.chain, self._context.run.run_id
        try:
            block, since = chain.finalized(), window - PROOF_WINDOWS
            return set(read_active_validators(chain, run_id, block, since))
        except ChainError as error:
            log.info("theta_%d: publishing all files of the checkpoint: %s", window, error)
            return set()

    def offer_missing_checkpoint(self, state: OuterState, *, anchor: Path | None = None) -> None:
        """Queue the checkpoint after a restart, unless the bucket has what goes last."""
        try:
            self._context.bucket.size(self._manifest_key(state.window))
            if self._shown is not None:
                self._context.bucket.size(self._shown.last_key(state.window))
        except NotFound:
            self.offer_checkpoint(state, anchor=anchor)
        except StoreError as error:
            log.debug(
                "theta_%d: cannot tell whether the checkpoint is published: %s", state.window, error
            )
            self.offer_checkpoint(state, anchor=anchor)

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
        with self._lock:
            return bool(self._checkpoint or self._next or self._blobs or self._files)

    def _send_next(self) -> None:
        if not self._checkpoint:
            self._begin()
        with self._lock:
            files, blob = self._checkpoint, next(iter(self._blobs.items()), None)
            file = self._files[0] if self._files else None
        if files:
            self._send_part(files)
        elif blob is not None:
            self._send_blob(*blob)
        elif file is not None:
            self._send_file(file)
            with self._lock:
                self._files.remove(file)

    def _send_part(self, files: "deque[tuple[str, Callable[[], Source]]]") -> None:
        """The next file of a checkpoint; `files` may be dropped meanwhile."""
        key, make = files[0]
        self._context.bucket.put_source(key, self._paced(make()))
        with self._lock:
            files.popleft()
            if not files and files is self._checkpoint:
                self._promised = frozenset()

    def _send_blob(self, digest: bytes, data: bytes) -> None:
        if not self._has(digest, len(data)):
            self._context.bucket.put_source(blob_key(digest), self._paced(BytesSource(data)))
        with self._lock:
            self._served.add(digest)
            del self._blobs[digest]

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
            with FileSource(path) as source:
                self._context.bucket.put_source(blob_key(digest), self._paced(source))
        with self._lock:
            self._served.add(digest)
        self._kept.remove(digest)

    def _has(self, digest: bytes, num_bytes: int) -> bool:
        try:
            return self._context.bucket.size(blob_key(digest)) == num_bytes
        except NotFound:
            return False

    def _manifest_key(self, window: int) -> str:
        return checkpoint_manifest_key(self._context.run.run_id, window)


def _from_disk(state: OuterState, anchor: Path | None) -> OuterState:
    """The state with its tensors on disk, where the file is of this state."""
    found = None if anchor is None else state_on_disk(state, anchor)
    if found is None and anchor is not None:
        log.info(
            "theta_%d: %s is not a file of this state, so its tensors stay in memory until this "
            "node's share of the checkpoint is out",
            state.window,
            anchor,
        )
    return found or state


def _small(blobs: Mapping[bytes, bytes], digest: bytes) -> BytesSource:
    return BytesSource(blobs[digest])
