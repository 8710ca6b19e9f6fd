"""Which endpoints a node talks to on a peer's word.

An access record is a stranger's bytes: it must not send our requests into our own network.
Names are not resolved here, so a public name that points inside is not seen; a node on a
private network should have an egress rule for that.
"""

import ipaddress
from urllib.parse import urlsplit

from template.errors import ConfigError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine."""
    return (urlsplit(url).hostname or "") in LOOPBACK_NAMES


def check_peer_endpoint(url: str, *, allow_loopback: bool) -> None:
    """ConfigError unless a peer's endpoint is https to a public host, or loopback is allowed.

    Loopback is allowed only where the chain is on this machine too: on a localnet.
    """
    if is_loopback(url):
        if allow_loopback:
            return
        raise ConfigError(f"endpoint {url}: a peer's bucket cannot be on this machine")
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or "." not in parts.hostname:
        raise ConfigError(f"endpoint {url}: a peer's bucket must be https to a public host")
    try:
        address = ipaddress.ip_address(parts.hostname)
    except ValueError:
        return
    if not address.is_global:
        raise ConfigError(f"endpoint {url}: a private address")
