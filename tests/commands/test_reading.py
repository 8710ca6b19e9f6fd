"""Reading a run without keys: where strangers' access records may send the reader."""

from dataclasses import replace
from pathlib import Path

import pytest

from simulation.swarm import small_plan
from simulation.world import hotkey_of
from template.commands.reading import check_window, read_only
from template.errors import ConfigError, RecordError
from template.protocol.record import Access, AccessKind
from template.protocol.run import Run
from template.protocol.spec.plan import RunChoices, draft_spec
from template.settings import ChainConfig
from tests.support.successions import successor

HERE = Access(
    kind=AccessKind.S3,
    account="http://127.0.0.1:22",
    access_key_id="id",
    secret_access_key="public",
)
OWN_NODES = ("ws://127.0.0.1:9944", "ws://localhost:9944", "finney")


@pytest.mark.parametrize("network", OWN_NODES)
def test_a_public_run_never_leads_to_a_port_of_this_machine(network: str) -> None:
    """An auditor's own node of a public chain answers on this machine, too."""
    local = draft_spec(small_plan(), RunChoices(owner_hotkey=hotkey_of("o"), start_block=99))
    public = replace(local, schedule=replace(local.schedule, network="public"))
    chain = ChainConfig(netuid=1, network=network)
    with (
        read_only(Path("run.toml"), chain, public) as context,
        pytest.raises(RecordError, match="Cloudflare R2"),
    ):
        context.open_bucket(hotkey_of("stranger"), HERE)
    with read_only(Path("run.toml"), chain, local) as context:
        context.open_bucket(hotkey_of("stranger"), HERE).close()


def test_windows_after_the_end_of_the_newest_spec_are_refused() -> None:
    spec = draft_spec(small_plan(), RunChoices(owner_hotkey=hotkey_of("o"), start_block=99))
    longer = successor(spec, 2, schedule__num_windows=spec.schedule.num_windows + 5)
    last = spec.schedule.num_windows - 1
    for window in (None, 0, last):
        check_window(Run(spec), "--window", window)
    with pytest.raises(ConfigError, match=f"--window: the run has windows 0 to {last}"):
        check_window(Run(spec), "--window", last + 1)
    check_window(Run(spec, longer), "--window", last + 5)
    with pytest.raises(ConfigError, match=f"--last: the run has windows 0 to {last + 5}"):
        check_window(Run(spec, longer), "--last", last + 6)
