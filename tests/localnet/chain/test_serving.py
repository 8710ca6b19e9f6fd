"""Axons, certificates and prometheus endpoints: what may be published, how often, until when."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.localnet.signing import S, by_hotkey, events, register, set_admin

PUBLIC_IP = 0x01020304
ENDPOINT = {"version": 1, "ip": PUBLIC_IP, "port": 8091, "ip_type": 4}
AXON = {**ENDPOINT, "protocol": 4, "placeholder1": 1, "placeholder2": 2}


def serve(ledger: Any, name: str = "alice", **changes: Any) -> str:
    return by_hotkey(ledger, name, "serve_axon", **{"netuid": 1, **AXON, **changes})


def serve_tls(ledger: Any, certificate: bytes, name: str = "alice", **changes: Any) -> str:
    args = {"netuid": 1, **AXON, "certificate": certificate, **changes}
    return by_hotkey(ledger, name, "serve_axon_tls", **args)


def serve_prometheus(ledger: Any, name: str = "alice", **changes: Any) -> str:
    return by_hotkey(ledger, name, "serve_prometheus", **{"netuid": 1, **ENDPOINT, **changes})


def test_an_axon_is_published_with_its_block(subnet: Any) -> None:
    alice = subnet.wallets["alice"]
    assert serve(subnet) == "ok"
    assert subnet.get("Axons", 1, alice.hot) == {"block": subnet.height, **AXON}
    assert events(subnet, S) == [("AxonServed", (1, alice.hot))]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"netuid": 9}, "SubnetNotExists"),
        ({"ip_type": 5}, "InvalidIpType"),
        ({"ip": 0x7F000001}, "InvalidIpAddress"),
        ({"ip": 2**32 - 1}, "InvalidIpAddress"),
        ({"ip": 2**32}, "InvalidIpAddress"),
        ({"ip": 2**32 - 2}, "ok"),
        ({"ip": 0x0A000001}, "ok"),
        ({"ip": 1, "ip_type": 6}, "InvalidIpAddress"),
        ({"ip": 2**128 - 1, "ip_type": 6}, "InvalidIpAddress"),
        ({"ip": 2**128 - 2, "ip_type": 6}, "ok"),
        ({"port": 0}, "InvalidPort"),
        ({"port": 65_535}, "ok"),
    ],
)
def test_an_endpoint_must_be_one_that_others_can_reach(
    subnet: Any, changes: dict[str, Any], wanted: str
) -> None:
    assert serve(subnet, **changes) == serve_prometheus(subnet, **changes) == wanted
    hotkey = subnet.wallets["alice"].hot
    for item in ("Axons", "Prometheus"):
        assert (subnet.get(item, 1, hotkey) is None) == (wanted != "ok")


def test_only_a_registered_hotkey_serves(subnet: Any) -> None:
    assert serve(subnet, "dave") == "HotKeyNotRegisteredInNetwork"
    assert serve_prometheus(subnet, "dave") == "HotKeyNotRegisteredInNetwork"
    assert serve(subnet, "dave", ip_type=5) == "HotKeyNotRegisteredInNetwork", "checked first"
    assert serve_prometheus(subnet, "dave", ip_type=5) == "InvalidIpType", "checked first"


def test_an_axon_is_reset_with_ip_0_and_prometheus_is_not(subnet: Any) -> None:
    assert serve(subnet, ip=0, port=1, version=0) == "ok"
    assert subnet.get("Axons", 1, subnet.wallets["alice"].hot)["ip"] == 0
    assert serve_prometheus(subnet, ip=0) == "InvalidIpAddress"


def test_the_rate_limit_is_50_blocks_for_each_kind_and_hotkey(subnet: Any) -> None:
    assert serve(subnet) == "ok"
    served_at = subnet.height
    assert serve(subnet, port=1) == "ServingRateLimitExceeded"
    assert serve(subnet, "bob") == "ok"
    assert serve_prometheus(subnet) == "ok"
    assert serve_prometheus(subnet) == "ServingRateLimitExceeded"
    subnet.seal(served_at + 48 - subnet.height)
    assert serve(subnet, port=0) == "ServingRateLimitExceeded", "49 blocks; the port comes last"
    assert serve(subnet, port=2) == "ok"
    assert subnet.get("Axons", 1, subnet.wallets["alice"].hot)["port"] == 2


def test_an_owner_may_lift_the_rate_limit(subnet: Any) -> None:
    while subnet.height != subnet.get("LastEpochBlock", 1):
        subnet.seal()
    assert set_admin(subnet, "serving_rate_limit", serving_rate_limit=0) == "ok"
    assert serve(subnet) == serve(subnet) == "ok"


@pytest.mark.parametrize(
    ("certificate", "stored"),
    [
        (b"\x01" + b"\xff" * 64, {"algorithm": 1, "public_key": "0x" + "ff" * 64}),
        (b"\x07ab", {"algorithm": 7, "public_key": "ab"}),
        (b"\x07", {"algorithm": 7, "public_key": ""}),
        (b"\x01" + b"\xff" * 65, None),
        (b"", None),
    ],
)
def test_a_certificate_is_kept_if_it_is_one(subnet: Any, certificate: bytes, stored: Any) -> None:
    alice = subnet.wallets["alice"]
    assert serve_tls(subnet, certificate, "dave") == "HotKeyNotRegisteredInNetwork"
    assert serve_tls(subnet, certificate) == "ok"
    assert subnet.get("NeuronCertificates", 1, alice.hot) == stored
    assert subnet.get("Axons", 1, alice.hot)["port"] == 8091


def test_what_a_pruned_uid_published_goes_with_it(
    make_ledger: Callable[..., Any], populated: Callable[..., Any]
) -> None:
    ledger = populated(make_ledger(max_uids=4))
    alice = ledger.wallets["alice"]
    assert serve_tls(ledger, b"\x01" + b"\xff" * 32) == serve_prometheus(ledger) == "ok"
    items = ("Axons", "NeuronCertificates", "Prometheus")
    assert all(ledger.get(item, 1, alice.hot) for item in items)
    assert register(ledger, "dave") == "ok"
    assert ledger.get("Uids", 1, alice.hot) is None
    assert [ledger.get(item, 1, alice.hot) for item in items] == [None] * 3
