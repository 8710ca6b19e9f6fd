"""How many bytes a run leaves in a node's bucket at once, from its spec and dataset alone.

Verdict logs and lineage are left out: their length is text, kilobytes a window. Nothing here is
measured; what is stated is the most that lies there between two sweeps that go well.
"""

from dataclasses import dataclass

from template.bucket.retention import KEPT_CHECKPOINTS, PROOF_WINDOWS
from template.data.manifest import Manifest, manifest_bytes
from template.protocol.spec import RunSpec
from template.training.model import payload_bytes
from template.training.published import checkpoint_limit_bytes, theta0_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """Bytes by what they are for. `dataset_bytes`: every shard, the manifest and theta_0; a
    validator holds of them what it has read.
    """

    payload_bytes: int
    checkpoint_bytes: int = 0
    dataset_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.payload_bytes + self.checkpoint_bytes + self.dataset_bytes


def payload_windows(spec: RunSpec) -> int:
    """Windows whose payloads lie in a bucket at once, at most: those since the older of the two
    checkpoints that were proven last, until the next is proven.
    """
    return KEPT_CHECKPOINTS * spec.checkpoint.every_windows + PROOF_WINDOWS


def checkpoints_kept(spec: RunSpec) -> int:
    """Checkpoints in a validator's bucket at once, at most: those from which one may start, those
    that are not proven yet, and the newest that is put before the oldest goes.
    """
    return KEPT_CHECKPOINTS + 1 + PROOF_WINDOWS // spec.checkpoint.every_windows


def miner_storage(spec: RunSpec) -> Storage:
    """One payload a window; two are under way, revealed and not decided on."""
    return Storage(payload_bytes=(payload_windows(spec) + 2) * payload_bytes(spec))


def validator_storage(spec: RunSpec, manifest: Manifest) -> Storage:
    """Every payload that it may name, the checkpoints, the dataset."""
    named = payload_windows(spec) * spec.outer.peers_per_step
    shards = (*manifest.shards, manifest.held_out)
    return Storage(
        payload_bytes=named * payload_bytes(spec),
        checkpoint_bytes=checkpoints_kept(spec) * checkpoint_limit_bytes(spec),
        dataset_bytes=sum(shard.num_bytes for shard in shards)
        + len(manifest_bytes(manifest))
        + theta0_bytes(spec),
    )
