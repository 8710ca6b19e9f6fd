"""The Prometheus endpoint: what is shown, when it is healthy, and what strangers can do to it."""

import json
import logging
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from template.metrics_http import CLOSE_LIMIT_S, CONNECTION_LIMIT_S, MAX_CONNECTIONS
from template.metrics_prometheus import (
    EXPORTED,
    MIN_STILL_S,
    Health,
    PrometheusMetrics,
    open_prometheus,
)
from template.settings import MetricsConfig
from tests.support.waiting import wait_until

DASHBOARD = Path(__file__).parent.parent / "contrib" / "grafana" / "tessera.json"
LABELS = {"role": "miner", "hotkey": "5Hot", "run_id": "ab12", "version": "0.1.0"}
LOOPBACK = MetricsConfig(host="127.0.0.1", port=0)


class Clock:
    def __init__(self) -> None:
        self.time_s = 100.0

    def __call__(self) -> float:
        return self.time_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sink(clock: Clock) -> Iterator[PrometheusMetrics]:
    found = PrometheusMetrics(LOOPBACK, Health(60.0, now_s=clock), LABELS)
    yield found
    found.close()


def get(sink: PrometheusMetrics, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{host}:{sink.port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(sink: PrometheusMetrics) -> dict[str, float]:
    """Metric with its labels -> value, as a server of Prometheus reads the page."""
    status, text = get(sink, "/metrics")
    assert status == 200
    rows = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in rows}


def test_numbers_are_shown_with_their_units_and_labels(sink: PrometheusMetrics) -> None:
    sink.log(4, {"inner_loss": 2.5, "inner_tokens": 1000, "inner_tokens_per_s": 50.0})
    sink.log(5, {"inner_tokens": 500, "voting_stake_rao": 3 * 10**9, "accepted_uids": "1,2,7"})
    sink.log(5, {"committed": "ab", "payload_bytes": 30, "own_accepted": 1})
    sink.log(5, {"refused/no_gain": 2, "refused/no_work": 1, "named": 4, "payloads": 7})
    sink.log(6, {"refused/no_gain": 3, "accepted_uids": "", "no_op": "no votes"})
    found = samples(sink)
    assert found["tessera_window"] == 6
    assert found["tessera_inner_loss_nats"] == 2.5
    assert found["tessera_tokens_total"] == 1500
    assert found["tessera_tokens_per_second"] == 50
    assert found["tessera_voting_stake_tao"] == pytest.approx(3.0)
    assert found["tessera_accepted_payloads"] == 0
    assert found["tessera_empty_windows_total"] == 1
    assert (found["tessera_commits_total"], found["tessera_own_accepted_total"]) == (1, 1)
    assert found["tessera_payload_bytes_total"] == 30
    assert found['tessera_refused_total{reason="no_gain"}'] == 5
    assert found['tessera_refused_total{reason="no_work"}'] == 1
    assert (found["tessera_window_named"], found["tessera_window_payloads"]) == (4, 7)
    info = next(name for name in found if name.startswith("tessera_neuron_info"))
    assert all(f'{key}="{value}"' in info for key, value in LABELS.items())


def test_uids_of_an_older_row_are_gone(sink: PrometheusMetrics) -> None:
    sink.log(4, {"gain/1": 0.5, "gain/2": 0.25, "weight/1": 1.0, "score/1": 20.0})
    sink.log(5, {"gain/2": 0.125})
    found = samples(sink)
    assert found['tessera_gain_nats{uid="2"}'] == 0.125
    assert 'tessera_gain_nats{uid="1"}' not in found
    assert found['tessera_weight_ratio{uid="1"}'] == 1.0, "another row's uids stay"
    assert found['tessera_score{uid="1"}'] == 20.0


def test_a_value_that_is_no_number_is_left_out(sink: PrometheusMetrics) -> None:
    sink.log(4, {"inner_loss": 2.0})
    sink.log(5, {"inner_loss": "nan", "unknown": 3})
    assert samples(sink)["tessera_inner_loss_nats"] == 2.0


def test_health_follows_the_loop(sink: PrometheusMetrics, clock: Clock) -> None:
    limit_s = 180.0
    clock.time_s += 60.0 + limit_s  # the first window may take a window
    assert get(sink, "/healthz")[0] == 200
    clock.time_s += 1.0
    status, body = get(sink, "/healthz")
    assert status == 503
    assert json.loads(body) == {
        "healthy": False, "window": None, "still_s": 181.0, "limit_s": 180.0,
    }  # fmt: skip
    assert samples(sink)["tessera_healthy"] == 0
    sink.log(3, {"inner_loss": 2.0})
    assert get(sink, "/healthz")[0] == 503, "training alone is no step of the loop"
    sink.log(3, {"state_window": 4})
    status, body = get(sink, "/healthz")
    assert (status, json.loads(body)["window"]) == (200, 3)
    assert samples(sink)["tessera_healthy"] == 1


def test_a_run_that_has_not_begun_is_healthy(clock: Clock) -> None:
    health = Health(1.0, idle_s=3600.0, now_s=clock)
    assert health.limit_s == MIN_STILL_S
    clock.time_s += 3601.0 + MIN_STILL_S
    assert health.is_good
    clock.time_s += 1.0
    assert not health.is_good
    assert Health(1.0, idle_s=-1e9, now_s=clock).is_good, "a run that began long ago"


def test_other_paths_and_nonsense_change_nothing(
    sink: PrometheusMetrics, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    assert get(sink, "/etc/passwd")[0] == 404
    for request in (b"\x00\xff nonsense\r\n\r\n", b"POST /metrics HTTP/1.0\r\n\r\n", b""):
        with socket.create_connection(("127.0.0.1", sink.port), timeout=10) as client:
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            while client.recv(4096):
                pass
    assert get(sink, "/healthz")[0] == 200
    assert caplog.text == ""
    assert capfd.readouterr().err == ""


def test_a_client_that_drips_holds_nobody(sink: PrometheusMetrics) -> None:
    """A byte now and then never lets a socket's own timeout pass."""
    with drip(sink) as ended:
        begun_s = time.monotonic()
        assert get(sink, "/healthz")[0] == 200
        assert time.monotonic() - begun_s < CONNECTION_LIMIT_S, "the healthy client has not waited"
        assert not ended.is_set()
        assert ended.wait(10 * CONNECTION_LIMIT_S), "the dripping client has a deadline"
    assert get(sink, "/metrics")[0] == 200


def test_a_client_that_drips_does_not_hold_the_end(clock: Clock) -> None:
    sink = PrometheusMetrics(LOOPBACK, Health(60.0, now_s=clock), LABELS)
    with drip(sink) as ended:
        begun_s = time.monotonic()
        sink.close()
        assert time.monotonic() - begun_s < 2 * CLOSE_LIMIT_S
        assert ended.wait(CONNECTION_LIMIT_S), "its connection is closed at once"
    sink.close()


def test_connections_beyond_the_cap_are_closed_at_once(sink: PrometheusMetrics) -> None:
    with ExitStack() as clients:
        for _ in range(MAX_CONNECTIONS):
            clients.enter_context(socket.create_connection(("127.0.0.1", sink.port), timeout=10))
        more = clients.enter_context(
            socket.create_connection(("127.0.0.1", sink.port), timeout=CONNECTION_LIMIT_S / 2)
        )
        assert more.recv(1) == b""
    wait_until(lambda: is_answered(sink))


def is_answered(sink: PrometheusMetrics) -> bool:
    try:
        return get(sink, "/healthz")[0] == 200
    except OSError:
        return False


@contextmanager
def drip(sink: PrometheusMetrics) -> Iterator[threading.Event]:
    """A client that sends a byte every tenth of a second; the event: its connection ended."""
    ended, over = threading.Event(), threading.Event()
    with socket.create_connection(("127.0.0.1", sink.port), timeout=10) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\nx: ")

        def send() -> None:
            try:
                while not over.wait(0.1):
                    client.sendall(b"x")
            except OSError:
                ended.set()

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield ended
        finally:
            over.set()
            thread.join()


def test_ipv6(clock: Clock) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no IPv6")
    sink = PrometheusMetrics(MetricsConfig(host="::1", port=0), Health(60.0), LABELS)
    try:
        assert get(sink, "/healthz", "[::1]")[0] == 200
    finally:
        sink.close()


def test_a_port_in_use_is_an_error_in_the_log_and_no_end(
    sink: PrometheusMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    taken = MetricsConfig(host="127.0.0.1", port=sink.port)
    with caplog.at_level(logging.ERROR):
        assert open_prometheus(taken, Health(60.0), LABELS) is None
    assert f"--metrics.port {sink.port} on 127.0.0.1" in caplog.text


@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "192.0.2.1"])
def test_a_host_that_is_not_this_machine_s_is_named(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        assert open_prometheus(MetricsConfig(host=host, port=0), Health(60.0), LABELS) is None
    assert "--metrics.host" in caplog.text
    assert "free port" not in caplog.text


def test_every_metric_of_the_dashboard_is_exported(sink: PrometheusMetrics) -> None:
    """And every exported metric is on the dashboard."""
    board = json.loads(DASHBOARD.read_text(encoding="ascii"))
    targets = [t for panel in board["panels"] for t in panel.get("targets", ())]
    queries = [target["expr"] for target in targets]
    queries += [v["query"] for v in board["templating"]["list"] if v["type"] == "query"]
    used = {name for query in queries for name in re.findall(r"tessera_\w+", query)}
    own = {"tessera_window", "tessera_healthy", "tessera_neuron_info"}
    assert used == {each.name for each in EXPORTED} | own
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    assert len(targets) > 30


def test_every_exported_metric_is_logged_somewhere() -> None:
    """A key that no source logs would stay empty for ever."""
    template = Path(__file__).parent.parent / "template"
    skipped = {"metrics_prometheus.py"}
    files = [path for path in template.rglob("*.py") if path.name not in skipped]
    text = "\n".join(path.read_text(encoding="ascii") for path in files)
    for exported in EXPORTED:
        assert re.search(rf'["\']{re.escape(exported.key)}', text), exported.key
