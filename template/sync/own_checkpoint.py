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
    return load_local(own_checkpoint_path(context.state_dir), context.spec, context.spreader)


class OwnCheckpoints:
    """Saves this node's own checkpoint again and again; one object for a node's life.

    For any thread.
    """

    def __init__(self, context: ReadContext) -> None:
        self._writer = CheckpointWriter(own_checkpoint_path(context.state_dir), context.spec.run_id)
        self._downloaded = downloaded_parts(context.state_dir)
        self._lock = Lock()

    def save(self, checkpoint: LocalCheckpoint, older: Collection[str] = ()) -> None:
        """As `CheckpointWriter.save`; and delete the downloaded parts."""
        with self._lock:
            self._writer.save(checkpoint, older)
            self._downloaded.keep_only([])

    def prepare(self, checkpoint: LocalCheckpoint, groups: Collection[str]) -> None:
        """As `CheckpointWriter.prepare`."""
        with self._lock:
            self._writer.prepare(checkpoint, groups)
