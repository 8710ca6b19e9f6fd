"""Ctrl-C right after a commitment, on a real chain with a real bucket, and with a bucket away."""

import signal
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.support.faults.process import NodeProcess, assert_discreet
from tests.support.faults.subnet import Subnet
from tests.support.relay import Relay

pytestmark = pytest.mark.slow

NAMES = ("prompt", "cut")
UPLOADED = "window 0: the committed payload is uploaded"
LOST = "window 0: the committed payload is NOT uploaded"


@pytest.fixture(scope="module")
def stopped(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Subnet, dict[str, NodeProcess]]]:
    """Two miners, stopped as soon as each has committed; the bucket of `cut` is away by then."""
    folder = tmp_path_factory.mktemp("run")
    nodes: dict[str, NodeProcess] = {}
    with Subnet(folder, NAMES) as subnet:
        try:
            subnet.register(*NAMES)
            subnet.create_buckets("owner", *NAMES)
            subnet.publish_run(in_blocks=60)
            endpoint = subnet.access("cut").endpoint_url
            relay = Relay(int(endpoint.rpartition(":")[2]))
            for name in NAMES:
                place = folder / name
                place.mkdir()
                node = subnet.node("miner", name, place)
                if name == "cut":
                    node.env["TESSERA_BUCKET_ENDPOINT"] = f"http://127.0.0.1:{relay.port}"
                nodes[name] = NodeProcess(node, folder / f"{name}.output")
            for name in NAMES:
                nodes[name].wait_for("window 0: committed payload")
                if name == "cut":
                    relay.refuse()
                nodes[name].signal(signal.SIGINT)
            yield subnet, nodes
        finally:
            for process in nodes.values():
                process.stop()


@pytest.mark.parametrize("name", NAMES)
def test_a_stop_delivers_or_says_what_it_costs(stopped, name: str) -> None:
    subnet, nodes = stopped
    process = nodes[name]
    assert process.end() == 130, process.output
    told = UPLOADED if name == "prompt" else LOST
    assert len(process.lines(told)) == 1, process.output
    assert len(process.lines("windows from 1 on are missed", "until block")) == 1, process.output
    assert len(process.lines("interrupted; what was saved last is in")) == 1, process.output
    with closing(subnet.writer(name)) as bucket:
        keys = bucket.list(f"{subnet.run.spec.run_id.hex()}/payload/")
    assert len(keys) == (name == "prompt")
    assert_discreet(process.output, process.node)
    assert len(process.lines("waiting for")) <= 12, "told, and not often"
