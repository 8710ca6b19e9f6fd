"""Bytes of a run in a node's bucket, computed from the run spec and the dataset.

Each figure is a maximum between two successful sweeps. Verdict logs (megabytes a window with
hundreds of payloads; `verdict_log_limit_bytes`) and lineage are left out.
"""

from dataclasses import dataclass

from template.bucket.mirror import copied_shards
from template.bucket.retention import KEPT_CHECKPOINTS, PROOF_WINDOWS
from template.data.manifest import Manifest, manifest_bytes
from template.protocol.spec import RunSpec
from template.training.model import payload_bytes
from template.training.published import checkpoint_limit_bytes, theta0_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """Bytes by purpose. `dataset_bytes`: the copied shards, digest lists, manifest and theta_0."""

    payload_bytes: int
    checkpoint_bytes: int = 0
    dataset_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.payload_bytes + self.checkpoint_bytes + self.dataset_bytes


def payload_windows(spec: RunSpec) -> int:
    """Maximum number of windows with payloads in a bucket at once.

    From the older of the last two proven checkpoints until the proof of the next checkpoint.
    """
    return KEPT_CHECKPOINTS * spec.checkpoint.every_windows + PROOF_WINDOWS


def checkpoints_kept(spec: RunSpec) -> int:
    """Maximum number of checkpoints in a validator's bucket at once.

    The checkpoints for joiners, the checkpoints awaiting proof, and the newest checkpoint, put
    before the oldest is removed.
    """
    return KEPT_CHECKPOINTS + 1 + PROOF_WINDOWS // spec.checkpoint.every_windows


def miner_storage(spec: RunSpec) -> Storage:
    """One payload per window, and two payloads awaiting a decision."""
    return Storage(payload_bytes=(payload_windows(spec) + 2) * payload_bytes(spec))


def validator_storage(spec: RunSpec, manifest: Manifest, hotkey: str = "") -> Storage:
    """Every payload that the validator may name, the checkpoints and the dataset."""
    named = payload_windows(spec) * spec.outer.peers_per_step
    shards = (*manifest.shards, manifest.held_out)
    # Which shards follows from the hotkey; how many bytes, nearly not.
    copied = [shards[index] for index in copied_shards(manifest, hotkey)]
    return Storage(
        payload_bytes=named * payload_bytes(spec),
        checkpoint_bytes=checkpoints_kept(spec) * checkpoint_limit_bytes(spec),
        dataset_bytes=sum(manifest.shard_bytes(s) + s.list_bytes for s in copied)
        + manifest.tokenizer.num_bytes
        + len(manifest_bytes(manifest))
        + theta0_bytes(spec),
    )
