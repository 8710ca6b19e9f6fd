"""The node's own checkpoint on disk, and downloaded parts of a published checkpoint."""

from collections.abc import Collection
from pathlib import Path
from threading import Lock

from template.context import ReadContext
from template.sync.dataset import downloaded_parts
from template.training.checkpoint import (
    CheckpointWriter,
    LocalCheckpoint,
    load_local,
    pieces_folder,
)

LOCAL_FILE = "node.safetensors"
PIECES_FOLDER = pieces_folder(Path(LOCAL_FILE)).name
"""Where the large groups of the checkpoint lie; the file names them."""


def own_checkpoint_path(state_dir: Path) -> Path:
    """The file for a restart of the node."""
    return state_dir / LOCAL_FILE


def load_own_checkpoint(context: ReadContext) -> LocalCheckpoint | None:
    """The node's own checkpoint, or None; ConfigError if the file cannot be used."""
    return load_local(own_checkpoint_path(context.state_dir), context.run.first, context.spreader)


class OwnCheckpoints:
    """Saves this node's own checkpoint again and again; one object for a node's life.

    For any thread.
    """

    def __init__(self, context: ReadContext, *, drops_downloads: bool = True) -> None:
        """`drops_downloads`: whether each save deletes the downloaded parts of a published
        checkpoint, which a node that joins anew in another thread still needs.
        """
        self._drops_downloads = drops_downloads
        self._writer = CheckpointWriter(own_checkpoint_path(context.state_dir), context.run.run_id)
        self._downloaded = downloaded_parts(context.state_dir)
        self._lock = Lock()

    def save(self, checkpoint: LocalCheckpoint, older: Collection[str] = ()) -> None:
        """As `CheckpointWriter.save`."""
        with self._lock:
            self._writer.save(checkpoint, older)
        if self._drops_downloads:
            self.drop_downloads()

    def prepare(self, checkpoint: LocalCheckpoint, groups: Collection[str]) -> None:
        """As `CheckpointWriter.prepare`."""
        with self._lock:
            self._writer.prepare(checkpoint, groups)

    def drop_downloads(self) -> None:
        """Delete the downloaded parts, once the state made of them is saved."""
        self._downloaded.keep_only([])
