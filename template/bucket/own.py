"""A node's own bucket, opened with each of its two keys."""

from dataclasses import dataclass

from template.protocol.keys import bucket_name
from template.protocol.record import AccessKind
from template.protocol.ss58 import public_key
from template.settings import ENV_ENDPOINT, BucketKey, BucketSettings
from template.store import Store
from template.store.s3 import S3Bucket, S3Store

UPLOAD_DEADLINE_S = 60.0
PROBE_DEADLINE_S = 10.0
"""How long one request may be retried: a person waits for the answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnBucket:
    """`writer` and `reader` are the same bucket; `where` is its name and endpoint."""

    hotkey: str
    writer: Store
    reader: Store
    where: str


def open_own_bucket(settings: BucketSettings, hotkey: str, *, deadline_s: float) -> OwnBucket:
    """The bucket of a hotkey at the place that the settings name; nothing is sent yet."""
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
