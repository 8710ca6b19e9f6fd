"""Which endpoints a node talks to on a peer's word.

An access record is a stranger's bytes: it must not send our requests anywhere but to a bucket. On
a real network that is Cloudflare R2 alone, on a localnet this machine alone, so that no name and
no address inside somebody's network can ever be asked. Whatever the record says, the answer is a
RecordError and nothing else.
"""

import re
from urllib.parse import urlsplit

from template.errors import RecordError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

_LOCAL_URL = re.compile(r"https?://(?:localhost|127\.0\.0\.1)(?::[0-9]{1,5})?", re.IGNORECASE)
_R2_URL = re.compile(r"https://[0-9a-f]{32}(?:\.eu|\.fedramp)?\.r2\.cloudflarestorage\.com")


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine; what is no URL is not."""
    try:
        return (urlsplit(url).hostname or "") in LOOPBACK_NAMES
    except ValueError:
        return False


def is_local_chain(network: str) -> bool:
    """Whether --subtensor.network is this machine: `local` is ws://127.0.0.1:9944 to the SDK."""
    return network == "local" or is_loopback(network)


def check_peer_endpoint(url: str, *, on_localnet: bool) -> None:
    """RecordError unless a peer's endpoint is a bucket's on such a network.

    On a localnet (the chain is on this machine too): scheme, host and port of this machine. Else:
    https to an R2 account's host, and nothing more.
    """
    if on_localnet:
        if _LOCAL_URL.fullmatch(url) is None or not _has_good_port(url):
            raise RecordError(
                f"endpoint {url}: on a localnet a peer's bucket is on this machine, "
                "http://127.0.0.1:PORT"
            )
    elif _R2_URL.fullmatch(url) is None:
        raise RecordError(
            f"endpoint {url}: a peer's bucket is on Cloudflare R2, "
            "https://ACCOUNT.r2.cloudflarestorage.com"
        )


def _has_good_port(url: str) -> bool:
    """Whether the port, if there is one, is in [1, 65535]."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False
