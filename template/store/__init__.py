"""Bytes in buckets. A `Store` is one bucket seen with one credential, and never decodes.

Adapters: `template.store.memory` for tests and single-process swarms, `template.store.s3`
(boto3) for Cloudflare R2 and any S3 endpoint. Only code at the top chooses an adapter.
"""

from template.store.types import Store

__all__ = ["Store"]
