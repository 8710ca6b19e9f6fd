"""The buckets of all participants, on one server of this machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from localnet.buckets import BucketIdentity, BucketServer, new_identity
from template.protocol.keys import bucket_name
from template.protocol.record import Access, AccessKind
from template.protocol.ss58 import public_key
from template.store.s3 import S3Store

DEADLINE_S: Final = 5.0


class Places:
    """A bucket for each hotkey. `server` is still to be entered, as a context manager."""

    def __init__(self, folder: Path, hotkeys: Mapping[str, str]) -> None:
        """`hotkeys`: participant's name -> SS58 address."""
        self._hotkeys = hotkeys
        self._identities: dict[str, BucketIdentity] = {
            name: new_identity(bucket_name(public_key(hotkey))) for name, hotkey in hotkeys.items()
        }
        self.server = BucketServer(folder, list(self._identities.values()))

    def identity(self, name: str) -> BucketIdentity:
        return self._identities[name]

    def writable(self, name: str) -> S3Store:
        """A participant's bucket, with the participant's own write key."""
        identity = self._identities[name]
        return S3Store(self.server.bucket(identity.bucket, identity.rw))

    def access(self, name: str) -> Access:
        """The access record that a participant publishes."""
        key = self._identities[name].ro
        return Access(
            kind=AccessKind.S3,
            account=self.server.endpoint_url,
            access_key_id=key.access_key_id,
            secret_access_key=key.secret_access_key.reveal(),
        )

    def admin_views(self) -> Mapping[str, S3Store]:
        """hotkey -> bucket, as the server's administrator sees it."""
        return {
            self._hotkeys[name]: S3Store(
                self.server.bucket(identity.bucket, self.server.admin), deadline_s=DEADLINE_S
            )
            for name, identity in self._identities.items()
        }
