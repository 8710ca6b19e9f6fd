"""Metrics sinks: each neuron's numbers of every window, in a file or at Weights & Biases.

Owns the JSONL file (the default, one line per call) and the Weights & Biases adapter. No sink
may stop a neuron: a sink's failure is logged as an error, once, with the remedy. Callers choose
the numbers.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

from template.settings import WandbConfig

logger = logging.getLogger(__name__)

Value = float | int | str
EVENTS_FILE: Final = "metrics.jsonl"
RESERVED_KEYS: Final = frozenset({"window", "time_s"})
WANDB_INIT_TIMEOUT_S: Final = 15.0
WANDB_FINISH_TIMEOUT_S: Final = 10.0
MAX_REASON_CHARS: Final = 200


class Metrics(Protocol):
    """A sink of numbers. No method raises for a failure of the sink."""

    def log(self, window: int, values: Mapping[str, Value]) -> None:
        """Record values of one window; may be called more than once for a window.

        Raises ValueError for a reserved key ("window", "time_s").
        """

    def close(self) -> None:
        """Flush and release; may be called twice. `log` must not be called afterwards."""


class JsonlMetrics:
    """Appends one JSON object per call to a file, in one write each.

    A process killed during a write leaves a torn line; the next process starts a new line.
    Values without a JSON form (nan, inf) become strings.
    """

    def __init__(self, path: Path, *, now_s: Callable[[], float] = time.time) -> None:
        """Create the file and the folder if needed. Raises OSError if the creation fails."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._now_s = now_s
        self._file = path.open("ab", buffering=0)
        self._torn = _ends_torn(path)
        self._failing = False

    def log(self, window: int, values: Mapping[str, Value]) -> None:
        checked = {key: _json_value(value) for key, value in _checked(values).items()}
        row = {"window": window, "time_s": round(self._now_s(), 3), **checked}
        line = json.dumps(row, allow_nan=False).encode("ascii") + b"\n"
        try:
            self._write(b"\n" + line if self._torn else line)
        except OSError as error:
            if not self._failing:
                logger.error("metrics: cannot write %s (%s): free the disk", self._path, error)
            self._failing = True
        else:
            self._failing = False

    def close(self) -> None:
        self._file.close()

    def _write(self, data: bytes) -> None:
        written = self._file.write(data)
        self._torn = written != len(data)
        if self._torn:
            raise OSError(f"only {written} of {len(data)} bytes went to the disk")


class WandbMetrics:
    """Sends each call to a Weights & Biases run, with `window` as the axis.

    Windows may repeat or go back (a replay), so wandb's own step counter is unused. The first
    failure is logged as an error and ends all sending.
    """

    def __init__(
        self, config: WandbConfig, state_dir: Path, run_name: str, run_config: Mapping[str, Value]
    ) -> None:
        """Start the run. Raises ImportError without the package, wandb.UsageError without a
        key, wandb.CommError if the server refuses the run or does not answer.
        """
        # Otherwise wandb's makers get a copy of every exception, through the same server.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        state_dir.mkdir(parents=True, exist_ok=True)
        # Otherwise a node started at a terminal without a key would wait at a prompt for ever.
        wandb.setup(settings=wandb.Settings(silent=True))
        self._error_type: type[Exception] = wandb.Error
        self._run: wandb.Run | None = wandb.init(
            mode="offline" if config.mode == "offline" else "online",
            project=config.project_name,
            entity=config.entity,
            notes=config.notes,
            name=run_name,
            config=dict(run_config),
            dir=state_dir,
            settings=_settings(),
        )
        self._run.define_metric("*", step_metric="window")

    def log(self, window: int, values: Mapping[str, Value]) -> None:
        row = {"window": window, **_checked(values)}
        if self._run is None:
            return
        try:
            self._run.log(row)
        except self._error_type as error:
            self._run = None
            logger.error("wandb: %s. Nothing more is sent; metrics.jsonl goes on", _reason(error))

    def close(self) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        try:
            run.finish()
        except self._error_type as error:
            logger.error("wandb: the run is not finished: %s. Run `wandb sync`", _reason(error))


class FanOutMetrics:
    """Passes each call to all `sinks`, in order; `sinks` may be empty."""

    def __init__(self, sinks: Sequence[Metrics]) -> None:
        self._sinks = tuple(sinks)

    def log(self, window: int, values: Mapping[str, Value]) -> None:
        _checked(values)
        for sink in self._sinks:
            sink.log(window, values)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


def open_metrics(
    *,
    state_dir: Path,
    save_events: bool,
    wandb_config: WandbConfig,
    run_name: str,
    run_config: Mapping[str, Value],
) -> Metrics:
    """Open the sinks of a node's config.

    `run_config` describes the run on the wandb page (run id, role, hotkey: no secrets). An
    unusable wandb is logged as an error and left out; with wandb's server unreachable, the run is
    recorded offline. Raises OSError if the state directory cannot be written.
    """
    sinks: list[Metrics] = []
    if save_events:
        sinks.append(JsonlMetrics(state_dir / EVENTS_FILE))
    if wandb_config.mode != "off":
        remote = _open_wandb(wandb_config, state_dir, run_name, run_config)
        if remote is not None:
            sinks.append(remote)
    return FanOutMetrics(sinks)


def _open_wandb(
    config: WandbConfig, state_dir: Path, run_name: str, run_config: Mapping[str, Value]
) -> WandbMetrics | None:
    try:
        from wandb.errors import CommError, Error
    except ImportError:
        logger.error("wandb is not installed: pip install -e '.[wandb]', or pass --wandb.off")
        return None
    try:
        return WandbMetrics(config, state_dir, run_name, run_config)
    except CommError as error:
        logger.error(
            "wandb: the server cannot be used: %s. The run is recorded offline; upload it later "
            "with `wandb sync %s`",
            _reason(error),
            state_dir / "wandb" / "offline-run-*",
        )
        return WandbMetrics(replace(config, mode="offline"), state_dir, run_name, run_config)
    except Error as error:
        logger.error(
            "wandb: %s. The other metrics go on. Set WANDB_API_KEY or run `wandb login`; or pass "
            "--wandb.offline or --wandb.off",
            _reason(error),
        )
        return None


def _settings() -> Any:
    """wandb's settings; typed `Any` because the package is optional."""
    import wandb

    settings = wandb.Settings(
        console="off",
        disable_git=True,
        save_code=False,
        disable_job_creation=True,
        init_timeout=WANDB_INIT_TIMEOUT_S,
        finish_timeout=WANDB_FINISH_TIMEOUT_S,
        host="",
        program="",
    )
    # The command line stays off the run's page: the chain endpoint in it may hold a token. An
    # internal setting, which a later version may not have.
    if "x_disable_meta" in wandb.Settings.model_fields:
        settings.x_disable_meta = True
    return settings


def _reason(error: Exception) -> str:
    """The first line of wandb's message, as a clause: a server may send a whole page."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:MAX_REASON_CHARS].rstrip(". ")


def _checked(values: Mapping[str, Value]) -> Mapping[str, Value]:
    reserved = RESERVED_KEYS & values.keys()
    if reserved:
        raise ValueError(f"metrics: {sorted(reserved)} are set by the sink; rename the value")
    return values


def _json_value(value: Value) -> Value:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _ends_torn(path: Path) -> bool:
    """Whether the last line lacks a line end: a process died during the write."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
