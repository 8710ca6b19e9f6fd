"""The grammar of bucket endpoints, and the endpoints that a peer may name in its access record.

An access record is a stranger's bytes, and must not direct our requests to any server but a
bucket's: Cloudflare R2 on a real network, this machine on a localnet. No record can make a node
contact a name or an address inside a private network. The S3 client takes every endpoint that a
peer may name, because both read endpoints by `parse_endpoint`.
"""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from template.errors import RecordError
from template.protocol.strangers import shown

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

_LABEL = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
_ENDPOINT = re.compile(rf"(https?)://({_LABEL}(?:\.{_LABEL})*)(?::([0-9]{{1,5}}))?/?")
_MAX_HOST_CHARS = 253
_MAX_PORT = 65_535
_PEER_LOCAL_HOSTS = ("localhost", "127.0.0.1")
_R2_HOST = re.compile(r"[0-9a-f]{32}(?:\.eu|\.fedramp)?\.r2\.cloudflarestorage\.com")


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """A server of buckets. `scheme` is http or https; `port` is None for the scheme's own."""

    scheme: str
    host: str
    port: int | None

    @property
    def url(self) -> str:
        """The only spelling of this endpoint that an access record may have."""
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"


def parse_endpoint(url: str) -> Endpoint:
    """The endpoint in a URL; ValueError for anything but http(s)://host[:port].

    The message does not repeat the URL, which may hold a password.
    """
    match = _ENDPOINT.fullmatch(url)
    port = None if match is None or match[3] is None else int(match[3])
    if match is None or len(match[2]) > _MAX_HOST_CHARS or port == 0 or (port or 1) > _MAX_PORT:
        raise ValueError("endpoint_url must be http(s)://host[:port] and nothing more")
    return Endpoint(scheme=match[1], host=match[2], port=port)


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine; False for text that is no URL."""
    try:
        return (urlsplit(url).hostname or "") in LOOPBACK_NAMES
    except ValueError:
        return False


def check_peer_endpoint(url: str, *, on_localnet: bool) -> None:
    """Raises RecordError unless a peer may have a bucket at `url`.

    On a localnet (by the run spec, whatever the chain's address), only scheme, host and port of
    this machine pass; else only https to an R2 account's host. A path, a query, a user, an
    upper-case letter or a port with leading zeros is refused in both.
    """
    endpoint = _parse_record(url)
    if on_localnet:
        if endpoint is None or endpoint.host not in _PEER_LOCAL_HOSTS:
            raise RecordError(
                f"endpoint {shown(url)}: on a localnet a peer's bucket is on this machine, "
                "http://127.0.0.1:PORT"
            )
    elif endpoint is None or not _is_r2(endpoint):
        raise RecordError(
            f"endpoint {shown(url)}: a peer's bucket is on Cloudflare R2, "
            "https://ACCOUNT.r2.cloudflarestorage.com"
        )


def _parse_record(url: str) -> Endpoint | None:
    """The endpoint of an access record, or None unless spelled as `Endpoint.url`."""
    try:
        endpoint = parse_endpoint(url)
    except ValueError:
        return None
    return endpoint if endpoint.url == url else None


def _is_r2(endpoint: Endpoint) -> bool:
    is_r2_host = _R2_HOST.fullmatch(endpoint.host) is not None
    return is_r2_host and endpoint.scheme == "https" and endpoint.port is None
