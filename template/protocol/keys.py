"""Object keys and bucket names: every node computes the key of an object, without a LIST."""

import base64

RUN_ID_BYTES = 16


def bucket_name(public_key: bytes) -> str:
    """The bucket of a hotkey, from its 32-byte public key: 60 characters, valid on S3 and R2."""
    if len(public_key) != 32:
        raise ValueError(f"a hotkey's public key has 32 bytes, not {len(public_key)}")
    return "tessera-" + base64.b32encode(public_key).decode("ascii").rstrip("=").lower()


def payload_key(run_id: bytes, window: int, digest: bytes) -> str:
    return f"{run_id.hex()}/payload/{window:08d}/{digest.hex()}"


def checkpoint_manifest_key(run_id: bytes, window: int) -> str:
    return f"{run_id.hex()}/checkpoint/{window:08d}/manifest.json"


def dropped_manifest_key(run_id: bytes, window: int) -> str:
    """Key of a manifest during the removal of its files."""
    return f"{run_id.hex()}/checkpoint/{window:08d}/dropped.json"


def model_key(run_id: bytes, window: int, name: str) -> str:
    """Key of a file of theta_window's model as other programs load it."""
    return f"{run_id.hex()}/model/{window:08d}/{name}"


def run_spec_key(run_id: bytes) -> str:
    """Key of a run's spec in the bucket of a hotkey whose record offers the run."""
    return f"{run_id.hex()}/run.toml"


def spec_key(run_id: bytes, spec_id: bytes) -> str:
    """Key of a spec that continues a run, in the bucket of whoever supports or follows it."""
    return f"{run_id.hex()}/spec/{spec_id.hex()}.toml"


def verdict_key(run_id: bytes, window: int) -> str:
    return f"{run_id.hex()}/verdict/{window:08d}.jsonl"


def site_key(run_id: bytes, name: str) -> str:
    """Key of a file of the run's rendered pages; the prefix of all of them for an empty name."""
    return f"{run_id.hex()}/site/{name}"


def lineage_key(run_id: bytes, window: int) -> str:
    """Key of the lineage from theta_window (a checkpoint or theta_0) to the next checkpoint."""
    return f"{run_id.hex()}/lineage/{window:08d}.jsonl"


def blob_key(digest: bytes) -> str:
    """Immutable bytes of any kind (manifests, digest lists, checkpoint parts) by SHA-256."""
    return f"blob/{digest.hex()}"


def notice_key() -> str:
    """Key of the notice of a version in the bucket of the subnet owner's hotkey."""
    return "notice/version.json"


def shard_key(digest: bytes) -> str:
    """A dataset shard's bytes, by the SHA-256 of its digest list: read in ranges."""
    return f"shard/{digest.hex()}"
