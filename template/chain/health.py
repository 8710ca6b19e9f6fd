"""Log lines about a slow or unreachable chain endpoint, without repeats.

An outage gives a line at the start and a line at the end; a slow endpoint gives a line per ten
minutes. The adapter decides when to try again, and for how long.
"""

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

SLOW_READ_S: Final = 5.0
"""A healthy endpoint answers a read in a tenth of a second; a node makes a few reads per window."""
REMINDER_S: Final = 600.0
NAME_ANOTHER: Final = (
    "if the outage lasts, name another endpoint with --subtensor.network, or several with "
    "--subtensor.fallback_endpoints"
)
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """`outage_s`: how long the caller retries; `slow_read_s`: the shortest read called slow."""

    outage_s: float
    slow_read_s: float = SLOW_READ_S


class EndpointHealth:
    """Counts answers and failures of one endpoint. Safe to share between threads."""

    def __init__(
        self,
        endpoint: str,
        patience: Patience,
        *,
        remedy: str = NAME_ANOTHER,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint = redact_endpoint(endpoint)
        self._patience = patience
        self._remedy = remedy
        self._now_s = now_s
        self._lock = threading.Lock()
        self._away_since_s: float | None = None
        self._trouble_since_s: float | None = None
        self._slow_told_s = float("-inf")

    def note_failure(self, reason: str) -> None:
        """Record a call without an answer."""
        with self._lock:
            if self._away_since_s is not None:
                return
            self._away_since_s = self._now_s()
        logger.warning(
            "the chain endpoint %s does not answer (%s); waiting for up to %s, with no data "
            "lost meanwhile; %s",
            self._endpoint,
            reason,
            format_duration(self._patience.outage_s),
            self._remedy,
        )

    def note_trouble(self, reason: str) -> None:
        """Record a call that this machine could not make: no fault of the endpoint."""
        with self._lock:
            if self._trouble_since_s is not None:
                return
            self._trouble_since_s = self._now_s()
        logger.warning(
            "%s; trying again for up to %s", reason, format_duration(self._patience.outage_s)
        )

    def note_answer(self, took_s: float) -> None:
        """Record an answer, refusals included, to a try that took `took_s` seconds."""
        with self._lock:
            since_s, self._away_since_s = self._away_since_s, None
            trouble_since_s, self._trouble_since_s = self._trouble_since_s, None
            slow = took_s >= self._patience.slow_read_s
            tell = slow and self._now_s() - self._slow_told_s >= REMINDER_S
            if tell:
                self._slow_told_s = self._now_s()
        if since_s is not None:
            away = format_duration(self._now_s() - since_s)
            logger.warning("the chain endpoint %s answers again after %s", self._endpoint, away)
        if trouble_since_s is not None:
            lasted = format_duration(self._now_s() - trouble_since_s)
            logger.warning("this node can ask the chain again after %s", lasted)
        if tell:
            logger.warning(
                "the chain endpoint %s is slow: %.1f s for one read; a node that learns of blocks "
                "late misses windows: name a nearer endpoint with --subtensor.network",
                self._endpoint,
                took_s,
            )


def redact_endpoint(endpoint: str) -> str:
    """A network's name, or a URL cut to scheme, host and port: the rest may hold a token."""
    if "://" not in endpoint:
        return endpoint
    try:
        parts = urlsplit(endpoint)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return f"{endpoint.partition('://')[0]}://(not a URL)"
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}"


def redact_urls(text: str) -> str:
    """A text of a library, with each URL in it as `redact_endpoint` shows it."""
    return _URL.sub(lambda found: redact_endpoint(found[0]), text)


def format_duration(seconds: float) -> str:
    """A duration as text: in seconds below two minutes, then in minutes, hours and days."""
    for limit_s, unit_s, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"
