"""What an operator is told of a chain endpoint that is slow, or away for a while.

Owns the words, and that they come once: one line when an endpoint stops answering, one when
it answers again, one in ten minutes while it is slow. Decides nothing: when to try again, and
for how long, is the adapter's.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

SLOW_READ_S: Final = 5.0
"""A read takes a tenth of a second on a healthy endpoint; a window has a handful of them."""
REMINDER_S: Final = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """`outage_s`: how long the caller goes on trying; `slow_read_s`: from when a read is slow."""

    outage_s: float
    slow_read_s: float = SLOW_READ_S


class EndpointHealth:
    """Told of every answer and every failure of one endpoint. Safe to share between threads."""

    def __init__(
        self, endpoint: str, patience: Patience, *, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._endpoint = redact_endpoint(endpoint)
        self._patience = patience
        self._now_s = now_s
        self._lock = threading.Lock()
        self._away_since_s: float | None = None
        self._slow_told_s = float("-inf")

    def note_failure(self, reason: str) -> None:
        """A call had no answer."""
        with self._lock:
            if self._away_since_s is not None:
                return
            self._away_since_s = self._now_s()
        logger.warning(
            "the chain endpoint %s does not answer (%s); waiting for it, up to %s, and nothing is "
            "lost meanwhile; if it stays away, name another with --subtensor.network",
            self._endpoint,
            reason,
            format_duration(self._patience.outage_s),
        )

    def note_answer(self, took_s: float) -> None:
        """A call was answered, whatever the answer; `took_s` of this one try."""
        with self._lock:
            since_s, self._away_since_s = self._away_since_s, None
            slow = took_s >= self._patience.slow_read_s
            tell = slow and self._now_s() - self._slow_told_s >= REMINDER_S
            if tell:
                self._slow_told_s = self._now_s()
        if since_s is not None:
            away = format_duration(self._now_s() - since_s)
            logger.warning("the chain endpoint %s answers again after %s", self._endpoint, away)
        if tell:
            logger.warning(
                "the chain endpoint %s is slow: %.1f s for one read; a node that learns of blocks "
                "late loses windows: name a nearer endpoint with --subtensor.network",
                self._endpoint,
                took_s,
            )


def redact_endpoint(endpoint: str) -> str:
    """A network's name, or a URL without what may be a token: user, path and query."""
    if "://" not in endpoint:
        return endpoint
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")


def format_duration(seconds: float) -> str:
    """A length of time for a reader: seconds below two minutes, else minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
