"""Metrics sinks: each neuron's numbers of every window, in a file or at Weights & Biases.

Owns the JSONL file (the default, one line per call) and the Weights & Biases adapter. No sink
may stop a neuron, whatever the sink raises and however long it takes: a failure is logged as an
error, once, with the remedy, and a foreign library runs on a thread of its own. Callers choose the
numbers.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread
from typing import Any, Final, Protocol

from template.files import append_whole, reason, remedy
from template.settings import WandbConfig

logger = logging.getLogger(__name__)

Value = float | int | str
EVENTS_FILE: Final = "metrics.jsonl"
RESERVED_KEYS: Final = frozenset({"window", "time_s"})
WANDB_INIT_TIMEOUT_S: Final = 15.0
WANDB_FINISH_TIMEOUT_S: Final = 10.0
MAX_REASON_CHARS: Final = 200
OPEN_LIMIT_S: Final = 40.0
"""How long a neuron's start waits for wandb: two time-outs of `wandb.init`, and the imports."""
CLOSE_LIMIT_S: Final = 15.0
MAX_WAITING_ROWS: Final = 1000
"""Rows held for a wandb that does not take them; later rows go to metrics.jsonl alone."""


class Metrics(Protocol):
    """A sink of numbers. No method raises for a failure of the sink."""

    def log(self, window: int, values: Mapping[str, Value]) -> None:
        """Record values of one window; may be called more than once for a window.

        Raises ValueError for a reserved key ("window", "time_s").
        """

    def close(self) -> None:
        """Flush and release; may be called twice. `log` must not be called afterwards."""


class JsonlMetrics:
    """Appends one JSON object per call to a file, as a whole line or not at all.

    Half a line, left by a kill or a full disk, is cut off before the next line. Values without a
    JSON form (nan, inf) become strings.
    """

    def __init__(self, path: Path, *, now_s: Callable[[], float] = time.time) -> None:
        """Create the file and the folder if needed. Raises OSError if the creation fails."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._now_s = now_s
        append_whole(path, b"")
        self._failing = False

    def log(self, window: int, values: Mapping[str, Value]) -> None:
        checked = {key: _json_value(value) for key, value in _checked(values).items()}
        row = {"window": window, "time_s": round(self._now_s(), 3), **checked}
        line = json.dumps(row, allow_nan=False).encode("ascii") + b"\n"
        try:
            append_whole(self._path, line)
        except OSError as error:
            if not self._failing:
                _report_unwritten(self._path, error, "windows are left out meanwhile")
            self._failing = True
        else:
            self._failing = False

    def close(self) -> None:
        """Nothing is held open."""


class WandbMetrics:
    """Sends each call to a Weights & Biases run, with `window` as the axis.

    Windows may repeat or go back (a replay), so wandb's own step counter is unused. Raises whatever
    wandb raises, and may hang: for use inside `ForeignMetrics`.
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
        self._run: wandb.Run = wandb.init(
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
        self._run.log({"window": window, **_checked(values)})

    def close(self) -> None:
        self._run.finish()


class ForeignMetrics:
    """A sink of another library, opened, fed and closed on a thread of its own.

    Whatever the library raises is logged as one error and ends the sink. A library that hangs costs
    the start `open_limit_s` and the end `close_limit_s`; meanwhile rows wait, and rows beyond
    `max_waiting` are left out.
    """

    def __init__(
        self,
        open_sink: Callable[[], Metrics | None],
        *,
        name: str,
        remedy: str,
        open_limit_s: float = OPEN_LIMIT_S,
        close_limit_s: float = CLOSE_LIMIT_S,
        max_waiting: int = MAX_WAITING_ROWS,
    ) -> None:
        """Open the sink; `open_sink` logs its own reason for None."""
        self._open_sink, self._name, self._remedy = open_sink, name, remedy
        self._close_limit_s = close_limit_s
        self._rows: Queue[tuple[int, dict[str, Value]] | None] = Queue(max_waiting)
        self._is_opened, self._is_over, self._has_warned = Event(), Event(), False
        self._thread = Thread(target=self._run, name=f"metrics-{name}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._is_over.set()
            self._report(error)
        else:
            self._is_opened.wait(open_limit_s)

    def log(self, window: int, values: Mapping[str, Value]) -> None:
        if self._is_over.is_set():
            return
        try:
            self._rows.put_nowait((window, dict(_checked(values))))
        except Full:
            self._warn_of_silence("takes no rows")

    def close(self) -> None:
        if self._is_over.is_set():
            return
        try:
            self._rows.put_nowait(None)
        except Full:
            self._warn_of_silence("takes no rows")
            return
        if not self._is_over.wait(self._close_limit_s):
            self._warn_of_silence("does not end")

    def _run(self) -> None:
        try:
            sink = self._open_sink()
            self._is_opened.set()
            while sink is not None and (row := self._rows.get()) is not None:
                sink.log(*row)
            if sink is not None:
                sink.close()
        except BaseException as error:  # noqa: BLE001 - even a SystemExit is no reason to be silent
            self._report(error)
        finally:
            self._is_over.set()
            self._is_opened.set()

    def _report(self, error: BaseException) -> None:
        logger.error("%s: %s. %s", self._name, _reason(error), self._remedy)

    def _warn_of_silence(self, what: str) -> None:
        if not self._has_warned:
            logger.error("%s %s: rows are left out. %s", self._name, what, self._remedy)
        self._has_warned = True


class FanOutMetrics:
    """Passes each call to all `sinks`, in order; `sinks` may be empty.

    The first failure of a sink is logged as an error. The sink is tried again at each call.
    """

    def __init__(self, sinks: Sequence[Metrics]) -> None:
        self._sinks = tuple(sinks)
        self._failed: set[Metrics] = set()

    def log(self, window: int, values: Mapping[str, Value]) -> None:
        _checked(values)
        for sink in self._sinks:
            self._try(sink, partial(sink.log, window, values))

    def close(self) -> None:
        for sink in self._sinks:
            self._try(sink, sink.close)

    def _try(self, sink: Metrics, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - numbers are worth no window
            if sink not in self._failed:
                logger.error("metrics: %s: %s", type(sink).__name__, _reason(error))
            self._failed.add(sink)


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
    unusable sink is logged as an error and left out; with wandb's server unreachable, the run is
    recorded offline.
    """
    sinks: list[Metrics] = []
    if save_events and (events := _open_events(state_dir / EVENTS_FILE)) is not None:
        sinks.append(events)
    if wandb_config.mode != "off":
        open_sink = partial(_open_wandb, wandb_config, state_dir, run_name, run_config)
        sinks.append(ForeignMetrics(open_sink, name="wandb", remedy=_wandb_remedy()))
    return FanOutMetrics(sinks)


def _wandb_remedy() -> str:
    """Names the variables that wandb reads here, never a value."""
    names = ", ".join(sorted(name for name in os.environ if name.startswith("WANDB_")))
    return (
        f"The neuron and its other metrics go on; mend wandb (variables set here: "
        f"{names or 'none'}), upload what is on disk with `wandb sync`, or pass --wandb.off"
    )


def _open_events(path: Path) -> JsonlMetrics | None:
    try:
        return JsonlMetrics(path)
    except OSError as error:
        _report_unwritten(path, error, "no events are kept")
        return None


def _report_unwritten(path: Path, error: OSError, loss: str) -> None:
    logger.error(
        "metrics: %s cannot be written (%s), %s: %s",
        path,
        reason(error),
        loss,
        remedy(path, error),
    )


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


def _reason(error: BaseException) -> str:
    """The first line of a message, as a clause: a server may send a whole page."""
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
