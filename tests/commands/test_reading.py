"""Reading a run without keys: where strangers' access records may send the reader."""

from dataclasses import replace
from pathlib import Path

import pytest

from simulation.swarm import small_plan
from simulation.world import hotkey_of
from template.commands.reading import read_only
from template.errors import RecordError
from template.protocol.record import Access, AccessKind
from template.protocol.spec.plan import RunChoices, draft_spec
from template.settings import ChainConfig

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
