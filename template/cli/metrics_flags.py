"""Flags of a neuron's Prometheus endpoint, and the setting that follows."""

import argparse
import re
from importlib.util import find_spec
from typing import Final

from template.cli.parser import Parser
from template.errors import ConfigError
from template.settings import MetricsConfig

LOOPBACK: Final = "127.0.0.1"
MAX_PORT: Final = 65_535


def metrics_config(args: argparse.Namespace) -> MetricsConfig | None:
    """The Prometheus endpoint, None without a port; ConfigError without its library."""
    if args.metrics_port is None:
        return None
    if find_spec("prometheus_client") is None:
        raise ConfigError(
            "--metrics.port: prometheus-client is not installed: "
            "`pip install 'tessera-subnet[metrics]'`, or leave --metrics.port out"
        )
    return MetricsConfig(host=args.metrics_host, port=args.metrics_port)


def add_metrics_flags(parser: Parser) -> None:
    """Port and address: `metrics_port`, `metrics_host`."""
    group = parser.add_argument_group("Prometheus")
    group.add_argument(
        "--metrics.port",
        dest="metrics_port",
        metavar="PORT",
        type=_port,
        default=None,
        help="serve /metrics and /healthz on this port (default: off)",
    )
    group.add_argument(
        "--metrics.host",
        dest="metrics_host",
        metavar="ADDRESS",
        default=LOOPBACK,
        help="address to serve on, ::1 for one of IPv6; there is no password, so another address "
        f"than loopback belongs behind a firewall (default: {LOOPBACK})",
    )


def _port(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,5}", text) is None or int(text) > MAX_PORT:
        raise argparse.ArgumentTypeError(f"must be a port from 0 to {MAX_PORT}, 0 for a free one")
    return int(text)
