"""Bytes in buckets. `Store` is one bucket seen with one credential; it never decodes.

Adapters: `template.store.memory` for tests and single-process swarms, `template.store.s3`
(boto3) for Cloudflare R2 and any S3 endpoint, imported by `neurons/` and the launcher only.
"""

from template.store.types import Store

__all__ = ["Store"]
