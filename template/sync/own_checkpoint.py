"""The node's own checkpoint on disk, and downloaded parts of a published checkpoint."""

from pathlib import Path

from template.context import ReadContext
from template.sync.dataset import downloaded_parts
from template.training.checkpoint import LocalCheckpoint, load_local, save_local

LOCAL_FILE = "node.safetensors"


def own_checkpoint_path(state_dir: Path) -> Path:
    """The file for a restart of the node."""
    return state_dir / LOCAL_FILE


def load_own_checkpoint(context: ReadContext) -> LocalCheckpoint | None:
    """The node's own checkpoint, or None; ConfigError if the file cannot be used."""
    return load_local(own_checkpoint_path(context.state_dir), context.spec)


def save_own_checkpoint(context: ReadContext, checkpoint: LocalCheckpoint) -> None:
    """Write the node's own checkpoint, and delete the downloaded parts."""
    path = own_checkpoint_path(context.state_dir)
    save_local(path, checkpoint, context.spec.run_id)
    downloaded_parts(context.state_dir).keep_only([])
