"""What nobody earned, on a real chain: to the uid of the subnet owner's hotkey, where it burns."""

from collections.abc import Iterator
from pathlib import Path

import bittensor as bt
import pytest

from localnet.onchain import NETUID
from simulation.swarm import small_plan
from template.base.memory import ValidatorMemory, registrations
from template.chain.types import Chain
from template.protocol.spec.plan import RunChoices, draft_spec
from template.scoring.rules import pay_rules
from tests.support.faults.subnet import OWNER, Subnet
from tests.support.waiting import wait_until

FLAGS = ("--block-time", "0.05", "--tempo", "10", "--weights-rate-limit", "0")


@pytest.fixture
def subnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Subnet]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(tmp_path / "runtime"))
    with Subnet(tmp_path, ("validator", "named"), *FLAGS, has_buckets=False) as running:
        running.register("validator", "named")
        running.stake("validator", 100)
        yield running


def paid_rao(chain: Chain, uid: int) -> int:
    """Alpha of the last epoch, without the owner's cut."""
    return chain.metagraph(chain.head()).neurons[uid].emission_rao


def test_the_hotkey_that_the_owner_names_takes_it_and_whoever_sits_on_uid_0_does_not(
    subnet: Subnet,
) -> None:
    chain = subnet.open_chain("validator")
    before = chain.metagraph(chain.head())
    assert (before.owner_hotkey, before.owner_uid) == (subnet.hotkeys[OWNER], 0)
    named = subnet.hotkeys["named"]
    call = bt.calls.AdminUtils.sudo_set_sn_owner_hotkey(netuid=NETUID, hotkey=named)
    subnet.sign(call, OWNER)
    graph = chain.metagraph(chain.head())
    assert (graph.owner_hotkey, graph.owner_uid) == (named, 2)
    assert chain.metagraph(before.block).owner_uid == 0, "an audit reads the block of the window"

    choices = RunChoices(owner_hotkey=subnet.hotkeys[OWNER], start_block=99)
    memory = ValidatorMemory(rules=pay_rules(draft_spec(small_plan(), choices)))
    shares = memory.shares(registrations(graph), window=0)
    assert shares == {2: 1.0}
    wait_until(lambda: chain.metagraph(chain.head()).neurons[1].validator_permit)
    chain.set_weights(shares)
    wait_until(lambda: chain.metagraph(chain.head()).neurons[2].incentive > 0.99)
    assert [paid_rao(chain, uid) for uid in (0, 2)] == [0, 0]
    assert paid_rao(chain, 1) > 0, "the validator's half alone is paid"
