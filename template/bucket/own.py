"""A node's own bucket, opened with each of its two keys."""

import secrets
from dataclasses import dataclass

from template.protocol.keys import bucket_name
from template.protocol.ss58 import public_key
from template.settings import BucketKey, BucketSettings
from template.store.s3 import S3Bucket, S3Store

PUBLIC_KEY_BYTES = 32
UPLOAD_DEADLINE_S = 60.0
"""Longest time for the retries of one request."""
START_PROBE_DEADLINE_S = 5.0
"""The same for the test of the bucket at a neuron's start: a restart tests the bucket again."""
COMMAND_PROBE_DEADLINE_S = 10.0
"""The same for the test by a command: a person waits, and nothing repeats the test."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnBucket:
    """One bucket opened with each key; `where` is its name and endpoint.

    `elsewhere`: a bucket that nobody has, opened with the read key. `anonymous`: the bucket as
    seen by anybody, without a key.
    """

    hotkey: str
    writer: S3Store
    reader: S3Store
    elsewhere: S3Store
    anonymous: S3Store
    where: str
    endpoint_variable: str

    def close(self) -> None:
        """Close all connections."""
        for store in (self.writer, self.reader, self.elsewhere, self.anonymous):
            store.close()


def open_own_bucket(settings: BucketSettings, hotkey: str, *, deadline_s: float) -> OwnBucket:
    """Open the bucket of `hotkey` at the endpoint of the settings; sends no request."""
    name = bucket_name(public_key(hotkey))

    def opened(key: BucketKey, bucket: str = name, *, signs: bool = True) -> S3Store:
        place = S3Bucket(
            endpoint_url=settings.endpoint_url,
            bucket=bucket,
            access_key_id=key.key_id,
            secret_access_key=key.secret,
            signs=signs,
        )
        return S3Store(place, deadline_s=deadline_s)

    return OwnBucket(
        hotkey=hotkey,
        writer=opened(settings.write),
        reader=opened(settings.read),
        elsewhere=opened(settings.read, bucket_name(secrets.token_bytes(PUBLIC_KEY_BYTES))),
        anonymous=opened(settings.read, signs=False),
        where=f"{settings.endpoint_variable} {settings.endpoint_url}, bucket {name}",
        endpoint_variable=settings.endpoint_variable,
    )
