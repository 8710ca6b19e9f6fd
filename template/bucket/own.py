"""A node's own bucket, opened with each of its two keys."""

from dataclasses import dataclass

from template.protocol.keys import bucket_name
from template.protocol.record import AccessKind
from template.protocol.ss58 import public_key
from template.settings import ENV_ENDPOINT, BucketKey, BucketSettings
from template.store.s3 import S3Bucket, S3Store

UPLOAD_DEADLINE_S = 60.0
"""Longest time for the retries of one request."""
START_PROBE_DEADLINE_S = 5.0
"""The same for the test of the bucket at a neuron's start: a restart tests the bucket again."""
COMMAND_PROBE_DEADLINE_S = 10.0
"""The same for the test by a command: a person waits, and nothing repeats the test."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnBucket:
    """One bucket opened with each key; `where` is its name and endpoint."""

    hotkey: str
    writer: S3Store
    reader: S3Store
    where: str

    def close(self) -> None:
        """Close both connections."""
        self.writer.close()
        self.reader.close()


def open_own_bucket(settings: BucketSettings, hotkey: str, *, deadline_s: float) -> OwnBucket:
    """Open the bucket of `hotkey` at the endpoint of the settings; sends no request."""
    name = bucket_name(public_key(hotkey))

    def opened(key: BucketKey) -> S3Store:
        bucket = S3Bucket(
            endpoint_url=settings.endpoint_url,
            bucket=name,
            access_key_id=key.key_id,
            secret_access_key=key.secret,
        )
        return S3Store(bucket, deadline_s=deadline_s)

    source = ENV_ENDPOINT if settings.kind is AccessKind.S3 else "R2"
    return OwnBucket(
        hotkey=hotkey,
        writer=opened(settings.write),
        reader=opened(settings.read),
        where=f"{source} {settings.endpoint_url}, bucket {name}",
    )
