"""Checks the bucket endpoint named in a peer's access record.

An access record is a stranger's bytes, and must not direct our requests to any server but a
bucket's: Cloudflare R2 on a real network, this machine on a localnet. No record can make a node
contact a name or an address inside a private network. Every bad endpoint raises RecordError.
"""

import re
from urllib.parse import urlsplit

from template.errors import RecordError
from template.protocol.strangers import shown

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

_LOCAL_URL = re.compile(r"https?://(?:localhost|127\.0\.0\.1)(?::[0-9]{1,5})?", re.IGNORECASE)
_R2_URL = re.compile(r"https://[0-9a-f]{32}(?:\.eu|\.fedramp)?\.r2\.cloudflarestorage\.com")


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine; False for text that is no URL."""
    try:
        return (urlsplit(url).hostname or "") in LOOPBACK_NAMES
    except ValueError:
        return False


def is_local_chain(network: str) -> bool:
    """Whether --subtensor.network is this machine: `local` is ws://127.0.0.1:9944 to the SDK."""
    return network == "local" or is_loopback(network)


def check_peer_endpoint(url: str, *, on_localnet: bool) -> None:
    """Raises RecordError unless a peer may have a bucket at `url`.

    On a localnet (a chain on this machine), only scheme, host and port of this machine pass; else
    only https to an R2 account's host. A path, a query or a user is refused in both.
    """
    if on_localnet:
        if _LOCAL_URL.fullmatch(url) is None or not _has_good_port(url):
            raise RecordError(
                f"endpoint {shown(url)}: on a localnet a peer's bucket is on this machine, "
                "http://127.0.0.1:PORT"
            )
    elif _R2_URL.fullmatch(url) is None:
        raise RecordError(
            f"endpoint {shown(url)}: a peer's bucket is on Cloudflare R2, "
            "https://ACCOUNT.r2.cloudflarestorage.com"
        )


def _has_good_port(url: str) -> bool:
    """Whether the port is absent or in [1, 65535]."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False
