"""What reading a run takes: its buckets by their access records, its payloads' format."""

from template.base.context import OpenBucket
from template.protocol.keys import bucket_name
from template.protocol.payload import PayloadFormat
from template.protocol.record import Access
from template.protocol.spec import RunSpec
from template.protocol.ss58 import public_key
from template.secret import Secret
from template.store.endpoints import check_peer_endpoint
from template.store.s3 import S3Bucket, S3Store
from template.training.model import tensor_shapes

PEER_DEADLINE_S = 20.0
"""How long one request to a peer's bucket may be retried: a dead peer must not stop a node."""


def payload_format(spec: RunSpec) -> PayloadFormat:
    return PayloadFormat(
        run_id=spec.run_id, shapes=tensor_shapes(spec), top_k=spec.compression.top_k
    )


def bucket_opener(*, allow_loopback: bool) -> OpenBucket:
    """Opens peers' buckets by their access records; refuses endpoints inside our network."""

    def open_bucket(hotkey: str, access: Access) -> S3Store:
        check_peer_endpoint(access.endpoint_url, allow_loopback=allow_loopback)
        bucket = S3Bucket(
            endpoint_url=access.endpoint_url,
            bucket=bucket_name(public_key(hotkey)),
            access_key_id=access.access_key_id,
            secret_access_key=Secret(access.secret_access_key),
        )
        return S3Store(bucket, deadline_s=PEER_DEADLINE_S)

    return open_bucket
