"""The node's own checkpoint on disk, and downloaded parts of a published checkpoint."""

from pathlib import Path

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
    """Saves this node's own checkpoint again and again; one object for a node's life."""

    def __init__(self, context: ReadContext) -> None:
        self._writer = CheckpointWriter(own_checkpoint_path(context.state_dir), context.spec.run_id)
        self._downloaded = downloaded_parts(context.state_dir)

    def save(self, checkpoint: LocalCheckpoint) -> None:
        """Write the node's own checkpoint, and delete the downloaded parts."""
        self._writer.save(checkpoint)
        self._downloaded.keep_only([])
