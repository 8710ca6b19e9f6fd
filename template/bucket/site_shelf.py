"""A run's rendered pages in a node's own bucket."""

import hashlib
from collections.abc import Mapping

from template.protocol.keys import site_key
from template.store import Store


class SiteShelf:
    """Puts pages under `RUN_ID/site/`, what changed alone, and removes those of older renderings.

    `bucket`: the node's own, writable. StoreErrors pass through; a later call makes up for what a
    failed one left out.
    """

    def __init__(self, bucket: Store, run_id: bytes) -> None:
        self._bucket, self._run_id = bucket, run_id
        self._digests: dict[str, bytes] = {}

    def put(self, files: Mapping[str, bytes]) -> int:
        """Put every file that differs from the last call's; the bytes sent.

        First pages come last, so that their links lead somewhere.
        """
        num_bytes = 0
        for name in sorted(files, key=lambda name: (name.startswith("index"), name)):
            digest = hashlib.sha256(files[name]).digest()
            if self._digests.get(name) != digest:
                self._bucket.put(site_key(self._run_id, name), files[name])
                self._digests[name] = digest
                num_bytes += len(files[name])
        kept = {site_key(self._run_id, name) for name in files}
        for key in self._bucket.list(site_key(self._run_id, "")):
            if key not in kept:
                self._bucket.delete(key)
        self._digests = {name: self._digests[name] for name in files}
        return num_bytes
