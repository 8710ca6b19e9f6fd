"""Process state that a test must leave as it was, or the next test on the same worker sees it."""

import logging
import os
import resource
import signal
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

OWN = ("template", "compression", "evaluation", "neurons", "localnet", "benchmarks", "simulation")
LIBRARIES = ("bittensor", "websockets", "__main__")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE)
SET_BY_PYTEST = ("PYTEST_CURRENT_TEST", "PYTEST_VERSION")


def process_state() -> dict[str, Any]:
    """The state by name; a few microseconds per logger of ours, the rest is cheaper."""
    root = logging.getLogger()
    return {
        "handlers of the root logger": root.handlers[:],
        "level of the root logger": root.level,
        "logging.disable": logging.Logger.manager.disable,
        "levels of loggers": _levels(),
        "signal handlers": {number.name: signal.getsignal(number) for number in SIGNALS},
        "environment": {k: v for k, v in os.environ.items() if k not in SET_BY_PYTEST},
        "working directory": os.getcwd(),
        "sys.path": sys.path[:],
        "limit on file sizes": resource.getrlimit(resource.RLIMIT_FSIZE),
        "limit on core files": resource.getrlimit(resource.RLIMIT_CORE),
        "torch threads": torch.get_num_threads(),
        "torch default dtype": torch.get_default_dtype(),
        "torch deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch gradients": torch.is_grad_enabled(),
        "numpy error handling": np.geterr(),
    }


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Different values as (before, after); of mappings the different entries only."""
    found: dict[str, tuple[Any, Any]] = {}
    for name, old in before.items():
        new = after[name]
        if isinstance(old, dict):
            entries = [k for k in old.keys() | new.keys() if old.get(k) != new.get(k)]
            found.update({f"{name}: {k}": (old.get(k), new.get(k)) for k in entries})
        elif old != new:
            found[name] = (old, new)
    return found


def _levels() -> dict[str, int]:
    known = logging.Logger.manager.loggerDict.copy()
    return {
        name: logger.level
        for name, logger in known.items()
        if name.partition(".")[0] in (*OWN, *LIBRARIES)
        and isinstance(logger, logging.Logger)
        and logger.level != logging.NOTSET
    }
