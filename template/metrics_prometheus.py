"""The Prometheus sink: the numbers of `template.metrics` as gauges and counters over HTTP.

`GET /metrics` answers in Prometheus' text format, `GET /healthz` with 200 while the neuron's loop
moves and 503 otherwise. Off unless a port is named, and on loopback unless a host is named: there
is neither password nor encryption. A request never touches the neuron: it reads the last numbers.
"""

import errno
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from template.metrics import Value
from template.metrics_http import Answer, MetricsServer, open_server
from template.settings import MetricsConfig

log = logging.getLogger(__name__)

STILL_WINDOWS: Final = 3.0
"""Windows without a decided window after which the neuron's loop counts as standing still."""
MIN_STILL_S: Final = 60.0
MOVES_WITH: Final = "state_window"
"""The metric that every neuron logs for each window that it follows."""
RAO_PER_TAO: Final = 1e9

Kind = Literal["gauge", "counter", "list", "events"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """A metric of the endpoint. `kind`: a gauge takes the value, a counter adds it; `list` is a
    gauge of the number of items in a text with commas, `events` counts rows with the key. `scale`:
    factor from the value to the exported unit. `label`: the key is a prefix, what follows a label.
    """

    key: str
    name: str
    kind: Kind
    text: str
    scale: float = 1.0
    label: str = ""


EXPORTED: Final = (
    Exported(
        key=MOVES_WITH,
        name="tessera_state_window",
        kind="gauge",
        text="Window that the model's parameters stand before.",
    ),
    Exported(
        key="inner_loss",
        name="tessera_inner_loss_nats",
        kind="gauge",
        text="Mean training loss of the last window, nats per token.",
    ),
    Exported(
        key="held_out_loss",
        name="tessera_held_out_loss_nats",
        kind="gauge",
        text="Loss of the model on held-out pages, nats per token.",
    ),
    Exported(
        key="unigram_entropy",
        name="tessera_unigram_entropy_nats",
        kind="gauge",
        text="Loss of a model of token counts alone, nats per token.",
    ),
    Exported(
        key="inner_tokens",
        name="tessera_tokens_total",
        kind="counter",
        text="Tokens trained since the start of this process.",
    ),
    Exported(
        key="inner_tokens_per_s",
        name="tessera_tokens_per_second",
        kind="gauge",
        text="Tokens a second of the last inner loop.",
    ),
    Exported(
        key="inner_mfu",
        name="tessera_mfu_ratio",
        kind="gauge",
        text="Model FLOPs utilization of the last inner loop; absent for an unknown device.",
    ),
    Exported(
        key="utilisation",
        name="tessera_utilisation_ratio",
        kind="gauge",
        text="Share of wall time in inner steps, from one inner loop's end to the next.",
    ),
    Exported(
        key="inner_steps",
        name="tessera_inner_steps",
        kind="gauge",
        text="Inner steps of the last window.",
    ),
    Exported(
        key="inner_peak_bytes",
        name="tessera_device_peak_bytes",
        kind="gauge",
        text="Most bytes of tensors on the device in the last window.",
    ),
    Exported(
        key="payload_bytes",
        name="tessera_payload_bytes_total",
        kind="counter",
        text="Bytes of payloads uploaded since the start of this process.",
    ),
    Exported(
        key="committed",
        name="tessera_commits_total",
        kind="events",
        text="Payloads committed since the start of this process.",
    ),
    Exported(
        key="own_accepted",
        name="tessera_own_accepted_total",
        kind="counter",
        text="Own payloads that the votes accepted since the start of this process.",
    ),
    Exported(
        key="accepted_uids",
        name="tessera_accepted_payloads",
        kind="list",
        text="Payloads of all miners that the votes accepted in the last decided window.",
    ),
    Exported(
        key="no_op",
        name="tessera_empty_windows_total",
        kind="events",
        text="Decided windows without an accepted payload since the start of this process.",
    ),
    Exported(
        key="voting_stake_rao",
        name="tessera_voting_stake_tao",
        kind="gauge",
        text="Stake that voted on the last decided window.",
        scale=1 / RAO_PER_TAO,
    ),
    Exported(
        key="outer_lr",
        name="tessera_outer_lr",
        kind="gauge",
        text="Outer learning rate alpha.",
    ),
    Exported(
        key="differs_from_majority",
        name="tessera_differs_from_majority",
        kind="gauge",
        text="1 while this node's parameters are not those of the stake majority.",
    ),
    Exported(
        key="healed",
        name="tessera_healed_total",
        kind="counter",
        text="Returns to the majority's parameters since the start of this process.",
    ),
    Exported(
        key="payloads",
        name="tessera_window_payloads",
        kind="gauge",
        text="Payloads committed in the last window that this validator scored.",
    ),
    Exported(
        key="named",
        name="tessera_window_named",
        kind="gauge",
        text="Payloads of that window that this validator found useful.",
    ),
    Exported(
        key="refused/",
        name="tessera_refused_total",
        kind="counter",
        text="Payloads that this validator did not name, by reason, since its process's start.",
        label="reason",
    ),
    Exported(
        key="gain_mean",
        name="tessera_gain_mean_nats",
        kind="gauge",
        text="Mean gain of the measured payloads of the last scored window, nats per token.",
    ),
    Exported(
        key="gain/",
        name="tessera_gain_nats",
        kind="gauge",
        text="Gain of a uid's payload in the last scored window, nats per token.",
        label="uid",
    ),
    Exported(
        key="score/",
        name="tessera_score",
        kind="gauge",
        text="Ordinal of a uid's rating after the last scored window.",
        label="uid",
    ),
    Exported(
        key="weight/",
        name="tessera_weight_ratio",
        kind="gauge",
        text="Weight of a uid in the weights that this validator set last.",
        label="uid",
    ),
    Exported(
        key="emission_alpha",
        name="tessera_emission_alpha",
        kind="gauge",
        text="Alpha that the last epoch paid to this hotkey.",
    ),
    Exported(
        key="incentive",
        name="tessera_incentive_ratio",
        kind="gauge",
        text="Incentive of this hotkey in the last epoch.",
    ),
    Exported(
        key="dividends",
        name="tessera_dividends_ratio",
        kind="gauge",
        text="Dividends of this hotkey in the last epoch.",
    ),
    Exported(
        key="stake_tao",
        name="tessera_stake_tao",
        kind="gauge",
        text="Stake of this hotkey.",
    ),
    Exported(
        key="least_version_key",
        name="tessera_least_version_key",
        kind="gauge",
        text="The least version key that the subnet's owner demands (weights_version).",
    ),
    Exported(
        key="newest_version_key",
        name="tessera_newest_version_key",
        kind="gauge",
        text="The key of the version that the subnet owner's signed notice names.",
    ),
)
"""Every metric but `tessera_neuron` (an info), `tessera_window` and `tessera_healthy`."""


class Health:
    """Whether the neuron's loop moves: it follows a window at least every few windows.

    `idle_s`: seconds from now until the run begins, when nothing can move yet. For any thread.
    """

    def __init__(
        self,
        window_s: float,
        *,
        idle_s: float = 0.0,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now_s = now_s
        self.limit_s = max(STILL_WINDOWS * window_s, MIN_STILL_S)
        self._moved_s = now_s() + max(0.0, idle_s) + window_s
        self._window: int | None = None

    def note(self, window: int) -> None:
        """The loop has followed `window`."""
        self._window, self._moved_s = window, self._now_s()

    @property
    def still_s(self) -> float:
        """Seconds since the loop moved; 0 before the run begins."""
        return max(0.0, self._now_s() - self._moved_s)

    @property
    def is_good(self) -> bool:
        return self.still_s <= self.limit_s

    def to_json(self) -> dict[str, Any]:
        """The body of /healthz: see docs/outputs_operating.md."""
        return {
            "healthy": self.is_good,
            "window": self._window,
            "still_s": round(self.still_s, 1),
            "limit_s": round(self.limit_s, 1),
        }


class PrometheusMetrics:
    """A sink of `template.metrics` with an HTTP server on a thread of its own.

    `labels`: of the info metric `tessera_neuron` (role, hotkey, run id, version: no secrets).
    """

    def __init__(self, config: MetricsConfig, health: Health, labels: Mapping[str, str]) -> None:
        """Open the port. Raises OSError or UnicodeError if the address cannot be had."""
        self._registry = CollectorRegistry()
        self._health, self._lock = health, threading.Lock()
        self._metrics = {each.key: self._make(each) for each in EXPORTED}
        self._window = Gauge(
            "tessera_window", "Window of the newest number.", registry=self._registry
        )
        healthy = Gauge(
            "tessera_healthy",
            "1 while the neuron's loop moves, as /healthz.",
            registry=self._registry,
        )
        healthy.set_function(lambda: float(health.is_good))
        Info("tessera_neuron", "This process.", registry=self._registry).info(dict(labels))
        self._server: MetricsServer = open_server(config.host, config.port, self._answer)
        self._server.start()

    @property
    def port(self) -> int:
        """The port in use: the system's choice for port 0."""
        return int(self._server.server_address[1])

    def log(self, window: int, values: Mapping[str, Value]) -> None:
        """As in `Metrics`."""
        with self._lock:
            self._window.set(window)
            for exported in EXPORTED:
                self._note(exported, values)
        if MOVES_WITH in values:
            self._health.note(window)

    def close(self) -> None:
        """Close the port and end every connection; may be called twice."""
        self._server.close()

    def _answer(self, path: str) -> Answer:
        if path == "/metrics":
            return Answer(status=200, kind=CONTENT_TYPE_LATEST, body=self._page())
        if path == "/healthz":
            body = json.dumps(self._health.to_json()).encode("ascii") + b"\n"
            status = 200 if self._health.is_good else 503
            return Answer(status=status, kind="application/json", body=body)
        return Answer(status=404, kind="text/plain", body=b"/metrics and /healthz\n")

    def _page(self) -> bytes:
        with self._lock:
            return generate_latest(self._registry)

    def _make(self, exported: Exported) -> Any:
        is_counter = exported.kind in ("counter", "events")
        labels = (exported.label,) if exported.label else ()
        make = Counter if is_counter else Gauge
        return make(exported.name, exported.text, labels, registry=self._registry)

    def _note(self, exported: Exported, values: Mapping[str, Value]) -> None:
        metric = self._metrics[exported.key]
        if not exported.label:
            if exported.key in values:
                _set(metric, exported, values[exported.key])
            return
        found = {k: v for k, v in values.items() if k.startswith(exported.key)}
        if found and exported.kind == "gauge":
            metric.clear()  # a row has all uids of its window: those of the last are gone
        for key, value in found.items():
            _set(metric.labels(key.removeprefix(exported.key)), exported, value)


def _set(metric: Any, exported: Exported, value: Value) -> None:
    if exported.kind == "events":
        metric.inc()
    elif exported.kind == "list":
        metric.set(len(str(value).split(",")) if value != "" else 0)
    elif isinstance(value, str):
        return  # a number without a JSON form is text in other sinks, and nothing here
    elif exported.kind == "counter":
        metric.inc(value * exported.scale)
    else:
        metric.set(value * exported.scale)


def open_prometheus(
    config: MetricsConfig, health: Health, labels: Mapping[str, str]
) -> PrometheusMetrics | None:
    """The sink, or None with an error in the log: no sink stops a neuron."""
    try:
        sink = PrometheusMetrics(config, health, labels)
    except (OSError, UnicodeError) as error:
        log.error(
            "--metrics.port %d on %s cannot be had (%s): the neuron goes on without the endpoint; "
            "%s",
            config.port,
            config.host,
            getattr(error, "strerror", None) or error,
            _remedy(error),
        )
        return None
    log.info("metrics: http://%s/metrics and /healthz", _shown(config.host, sink.port))
    return sink


def _remedy(error: Exception) -> str:
    # A name too long or empty in a part fails in the encoding of names (UnicodeError).
    is_host = isinstance(error, socket.gaierror | UnicodeError)
    if is_host or getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
        return "name with --metrics.host an address of this machine, as 127.0.0.1 (the default)"
    return "name a free port, or end the process that has this one"


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
