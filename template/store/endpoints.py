"""Which endpoints a node talks to on a peer's word.

An access record is a stranger's bytes: it must not send our requests into our own network,
and whatever it says, the answer is a ConfigError and nothing else.
Names are not resolved here, so a public name that points inside is not seen; a node on a
private network should have an egress rule for that.
"""

import ipaddress
import re
from urllib.parse import urlsplit

from template.errors import ConfigError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

_URL = re.compile(r"https?://[a-z0-9.-]+(?::[0-9]{1,5})?", re.IGNORECASE)
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PUBLIC_NAME = re.compile(rf"(?:{_LABEL}\.)+(?!localhost$)[a-z](?:[a-z0-9-]*[a-z0-9])?")
"""A last label that starts with a digit is a number to the resolver: 127.1 is loopback."""


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine; what is no URL is not."""
    try:
        return (urlsplit(url).hostname or "") in LOOPBACK_NAMES
    except ValueError:
        return False


def is_local_chain(network: str) -> bool:
    """Whether --subtensor.network is this machine: `local` is ws://127.0.0.1:9944 to the SDK."""
    return network == "local" or is_loopback(network)


def check_peer_endpoint(url: str, *, allow_loopback: bool) -> None:
    """ConfigError unless a peer's endpoint is https to a public host, or loopback is allowed.

    A URL is scheme, host and port, nothing more, and no IPv6 literal. Loopback is allowed
    only where the chain is on this machine too: on a localnet.
    """
    if _URL.fullmatch(url) is None or not _has_good_port(url):
        raise ConfigError(f"endpoint {url}: a peer's bucket is https://HOST or https://HOST:PORT")
    if is_loopback(url):
        if allow_loopback:
            return
        raise ConfigError(f"endpoint {url}: a peer's bucket cannot be on this machine")
    parts = urlsplit(url)
    if parts.scheme != "https":
        raise ConfigError(f"endpoint {url}: a peer's bucket must be https to a public host")
    _check_public(url, parts.hostname or "")


def _check_public(url: str, host: str) -> None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if _PUBLIC_NAME.fullmatch(host) is None:
            raise ConfigError(f"endpoint {url}: not the name of a public host") from None
        return
    if not address.is_global:
        raise ConfigError(f"endpoint {url}: a private address")


def _has_good_port(url: str) -> bool:
    """Whether the port, if there is one, is in [1, 65535]."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False
