"""Waits for the neurons of a localnet until each is ready for window 0."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from template.commands.neuron import READY
from template.errors import ConfigError

_POLL_S = 0.1


def await_ready(
    logs: Mapping[str, Path],
    exit_of: Callable[[str], int | None],
    tend: Callable[[], object],
    say: Callable[[str], None],
    limit_s: float,
) -> None:
    """Return once each neuron has said that it is ready, or has ended for good.

    `logs`: of each neuron, by name. `tend` restarts the dead. ConfigError after `limit_s`.
    """
    end_s = time.monotonic() + limit_s
    while True:
        tend()
        waiting = [name for name, log in logs.items() if exit_of(name) is None and not _said(log)]
        say(f"starting the neurons: {len(logs) - len(waiting)} of {len(logs)} are ready")
        if not waiting:
            return
        if time.monotonic() > end_s:
            raise ConfigError(
                f"cores: {', '.join(waiting)} not ready {limit_s:.0f} s after the start: end other "
                "programs, or take fewer --miners and --validators; their logs say how far they "
                "came"
            )
        time.sleep(_POLL_S)


def _said(log: Path) -> bool:
    try:
        return READY in log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return False
