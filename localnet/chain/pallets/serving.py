"""The published endpoints of a neuron: axons with certificates, and prometheus endpoints.

Source: subtensor, subnets/serving.rs. The chain publishes a hotkey's record without checking
that the endpoint answers.
"""

from typing import Any

from localnet.chain.metadata import bytes_of
from localnet.chain.pallets import neurons
from localnet.chain.state import State

MAX_CERTIFICATE_BYTES = 65
"""One byte for the algorithm, up to 64 for the public key."""
_PALLET = "SubtensorModule"
_IPV4, _IPV6 = 4, 6
_LOCALHOST = {_IPV4: 0x7F000001, _IPV6: 1}
_BROADCAST = {_IPV4: 2**32 - 1, _IPV6: 2**128 - 1}


def serve_axon(state: State, origin: str, *, netuid: int, **endpoint: int) -> None:
    """SubtensorModule.serve_axon: ip 0 is allowed and resets an axon."""
    if not state.subtensor.get("NetworksAdded", netuid):
        raise state.fail(_PALLET, "SubnetNotExists")
    _check_registered(state, netuid, origin)
    _check_ip(state, endpoint["ip_type"], endpoint["ip"])
    _check_pace_and_port(state, "Axons", netuid, origin, endpoint["port"])
    record = {"block": state.block_number, **endpoint}
    state.subtensor.put("Axons", netuid, origin, value=record)
    state.emit(_PALLET, "AxonServed", (netuid, origin))


def serve_axon_tls(
    state: State, origin: str, *, netuid: int, certificate: str, **endpoint: int
) -> None:
    """SubtensorModule.serve_axon_tls: a certificate of another form is left out in silence."""
    serve_axon(state, origin, netuid=netuid, **endpoint)
    raw = bytes_of(certificate)
    if 0 < len(raw) <= MAX_CERTIFICATE_BYTES:
        record = {"algorithm": raw[0], "public_key": raw[1:]}
        state.subtensor.put("NeuronCertificates", netuid, origin, value=record)


def serve_prometheus(state: State, origin: str, *, netuid: int, **endpoint: int) -> None:
    """SubtensorModule.serve_prometheus: ip 0 is refused, and the ip is checked first."""
    if not state.subtensor.get("NetworksAdded", netuid):
        raise state.fail(_PALLET, "SubnetNotExists")
    _check_ip(state, endpoint["ip_type"], endpoint["ip"])
    if endpoint["ip"] == 0:
        raise state.fail(_PALLET, "InvalidIpAddress")
    _check_registered(state, netuid, origin)
    _check_pace_and_port(state, "Prometheus", netuid, origin, endpoint["port"])
    record: dict[str, Any] = {"block": state.block_number, **endpoint}
    state.subtensor.put("Prometheus", netuid, origin, value=record)
    state.emit(_PALLET, "PrometheusServed", (netuid, origin))


def _check_registered(state: State, netuid: int, hotkey: str) -> None:
    if neurons.uid_of(state, netuid, hotkey) is None:
        raise state.fail(_PALLET, "HotKeyNotRegisteredInNetwork")


def _check_ip(state: State, ip_type: int, ip: int) -> None:
    """Private ranges pass, localhost and broadcast do not."""
    if ip_type not in _LOCALHOST:
        raise state.fail(_PALLET, "InvalidIpType")
    if ip == _LOCALHOST[ip_type] or ip >= _BROADCAST[ip_type]:
        raise state.fail(_PALLET, "InvalidIpAddress")


def _check_pace_and_port(state: State, item: str, netuid: int, hotkey: str, port: int) -> None:
    limit_blocks = state.subtensor.get("ServingRateLimit", netuid)
    last = state.subtensor.get(item, netuid, hotkey)
    if last is not None and state.block_number - last["block"] < limit_blocks:
        raise state.fail(_PALLET, "ServingRateLimitExceeded")
    if port == 0:
        raise state.fail(_PALLET, "InvalidPort")
