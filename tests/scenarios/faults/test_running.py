"""Faults in mid-run: one short run of a real subnet, in which one thing after another goes wrong.

Every neuron is a process and has its own fault: `val` has weights refused, `poor` has no
permit, `away` loses the chain for a while, `slow` has seconds of delay on its wire to the chain,
`dropped` has that wire cut again and again, `leaving` loses its uid, `other` has another run
spec, and the disk of `full` fills up. All of them meet a first mirror whose shards are wrong.
The rows below read what each of them left.
"""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from simulation.faults import OperatorFault
from template.data.pages import LIST_SUFFIX, THREADS
from template.protocol.keys import shard_key
from template.protocol.record import Record, encode_record
from template.protocol.spec import RunSpec
from template.sync.own_checkpoint import LOCAL_FILE
from template.training.checkpoint import load_local
from tests.support.faults.catalogue import shows
from tests.support.faults.process import NodeProcess, assert_discreet, warm_nursery
from tests.support.faults.subnet import NodeStart, Subnet
from tests.support.relay import Relay
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

# In the order of uids from 1 on: who leaves is who has the oldest uid that earned nothing.
NAMES = ("leaving", "val", "poor", "away", "slow", "dropped", "other", "full")
RELAYED = ("away", "slow", "dropped")
FLAGS = ["--block-time", "0.3", "--tempo", "31", "--weights-rate-limit", "100000"]
FLAGS += ["--max-uids", str(len(NAMES) + 1), "--immunity-period", "1", "--min-non-immune-uids", "0"]
START_BLOCKS = 60
NUM_WINDOWS = 5
BLOCKS_AWAY = 12
# Twice this is above what a healthy endpoint takes: template.chain.health.SLOW_READ_S.
DELAY_S = 2.6
# No write lives that long, and then most do.
CUT_EVERY_S = (0.2, 1.2)
BROKEN_WRITE = "broke during a write, which may be on chain all the same"
DISK_BYTES = 4_000_000


class SmallDisk:
    """A file system of a few megabytes that can be filled to the last byte."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._libc = ctypes.CDLL(None, use_errno=True)
        options = f"size={DISK_BYTES}".encode()
        self.is_mounted = (
            self._libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", ctypes.c_ulong(0), options) == 0
        )

    def fill(self) -> None:
        with (self.path / "ballast").open("wb", buffering=0) as ballast:
            try:
                while ballast.write(bytes(4096)):
                    pass
            except OSError:
                return

    def free(self) -> None:
        (self.path / "ballast").unlink()

    def close(self) -> None:
        if self.is_mounted:
            self._libc.umount2(os.fsencode(self.path), 2)


@dataclass(frozen=True, kw_only=True)
class Story:
    """What the run left behind. `saved`: windows of the state on the full disk, and after;
    `committed_before`: windows, until its trouble began; `spoiled`: shards of the bad mirror.
    """

    spec: RunSpec
    nodes: dict[str, NodeProcess]
    disk: SmallDisk
    saved: list[int]
    committed_before: dict[str, int]
    num_cuts: int
    spoiled: set[str]
    bad_mirror: str

    def state_roots(self, name: str) -> dict[int, str]:
        return {r["window"]: r["state_root"] for r in self.nodes[name].rows() if "state_root" in r}

    def accepted(self, name: str) -> set[int]:
        """Windows in which a miner's payload was accepted."""
        uid = str(1 + NAMES.index(name))
        rows = [row for row in self.nodes["val"].rows() if "accepted_uids" in row]
        return {row["window"] for row in rows if uid in row["accepted_uids"].split(",")}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("run")
    disk = SmallDisk(folder / "disk")
    nodes: dict[str, NodeProcess] = {}
    try:
        with Subnet(folder, (*NAMES, "newcomer"), *FLAGS) as subnet:
            yield tell(subnet, disk, nodes)
    finally:
        for process in nodes.values():
            process.stop()
        disk.close()


def tell(subnet: Subnet, disk: SmallDisk, nodes: dict[str, NodeProcess]) -> Story:
    warm_nursery()
    subnet.register(*NAMES)
    subnet.stake("val", 1000)
    subnet.create_buckets("owner", *NAMES)
    subnet.publish_run(in_blocks=START_BLOCKS, schedule__num_windows=NUM_WINDOWS)
    spoiled = put_a_bad_mirror_first(subnet, "poor")
    relays = {name: Relay(int(subnet.url.rpartition(":")[2])) for name in RELAYED}
    for name in NAMES:
        node = prepare(subnet, name, relays.get(name), disk)
        nodes[name] = NodeProcess(node, subnet.folder / f"{name}.output")
    for name in RELAYED:
        wait_for_window(nodes[name], 0)
    before = {name: len(nodes[name].windows_with("committed")) for name in RELAYED}
    relays["slow"].delay_s = DELAY_S
    with relays["dropped"].cut_every(CUT_EVERY_S[0]):
        be_away_for_a_while(subnet, relays["away"], nodes["away"], disk)
        nodes["dropped"].wait_for("WARNING", BROKEN_WRITE)
    with relays["dropped"].cut_every(CUT_EVERY_S[1]):
        nodes["slow"].wait_for("WARNING", "is slow")
        relays["slow"].delay_s = 0.0
        nodes["full"].end()
        full = nodes["full"].node
        saved = [saved_window(full, subnet.run.spec)]
        disk.free()
        nodes["full again"] = NodeProcess(full, subnet.folder / "again.output")
        for process in nodes.values():
            process.end()
    saved.append(saved_window(full, subnet.run.spec))
    for relay in relays.values():
        relay.refuse()
    return Story(
        spec=subnet.run.spec,
        nodes=nodes,
        disk=disk,
        saved=saved,
        committed_before=before,
        num_cuts=relays["dropped"].num_cuts,
        spoiled=spoiled,
        bad_mirror=subnet.hotkeys["poor"],
    )


def be_away_for_a_while(subnet: Subnet, relay: Relay, away: NodeProcess, disk: SmallDisk) -> None:
    """The chain, for one node; meanwhile a newcomer takes a uid, and the disk fills up."""
    relay.refuse()
    away.wait_for("WARNING", "does not answer")
    since = subnet.chain.head()
    subnet.register("newcomer")
    disk.fill()
    wait_until(lambda: subnet.chain.head() >= since + BLOCKS_AWAY)
    relay.accept_again()


def put_a_bad_mirror_first(subnet: Subnet, name: str) -> set[str]:
    """The run's first mirror has other bytes as each shard, and nothing else.

    Returns these digests.
    """
    shards = subnet.run.shards
    with closing(subnet.writer(name)) as bucket:
        for shard in shards:
            data = subnet.run.dataset.shard_data(shard)
            bucket.put(shard_key(bytes.fromhex(shard.sha256)), data[::-1])
    subnet.open_chain(name).publish(encode_record(Record(access=subnet.access(name))))
    mirrors = (subnet.hotkeys[name], *subnet.run.spec.data.mirrors)
    spec = replace(subnet.run.spec, data=replace(subnet.run.spec.data, mirrors=mirrors))
    subnet.run = replace(subnet.run, spec=spec)
    subnet.write_run(spec, subnet.folder / "run.toml")
    return {shard.sha256 for shard in shards}


def prepare(subnet: Subnet, name: str, relay: Relay | None, disk: SmallDisk) -> NodeStart:
    folder = subnet.folder / name
    folder.mkdir()
    role = "validator" if name in ("val", "poor") else "miner"
    node = subnet.node(role, name, folder)
    if relay is not None:
        node.flags["--subtensor.network"] = f"ws://127.0.0.1:{relay.port}"
    if name == "other":
        training = replace(subnet.run.spec.training, inner_lr=1e-4)
        spec = replace(subnet.run.spec, training=training)
        node.flags["--run"] = str(subnet.write_run(spec, folder / "other.toml"))
    if name == "full":
        node.flags["--neuron.state_dir"] = str(disk.path / "state")
    return node


def wait_for_window(process: NodeProcess, window: int) -> None:
    """Until a miner has committed for a window."""

    def has_committed() -> bool:
        assert process.status is None, process.output
        return any(w >= window for w in process.windows_with("committed"))

    wait_until(has_committed, describe=lambda: process.output)


def saved_window(node: NodeStart, spec: RunSpec) -> int:
    """Where the state on disk stands: it can be read whole."""
    saved = load_local(node.state_dir / LOCAL_FILE, spec)
    assert saved is not None
    return saved.state.window


def assert_nothing_is_lost(story: Story, name: str) -> None:
    """It ended well, followed every window, and lost no work: what it made was accepted, or went
    half of it back into error feedback. It took part again after its trouble.
    """
    process = story.nodes[name]
    assert process.end() == 0, process.output
    assert story.state_roots(name) == story.state_roots("val")
    assert len(story.state_roots(name)) == NUM_WINDOWS
    accepted = story.accepted(name)
    # The payload of a page list is for a later window than the list's on a slow machine.
    for window in [row["payload_window"] for row in process.rows() if "inner_loss" in row]:
        kept = process.lines(
            f"window {window}: payload not applied; half of it back into error feedback"
        )
        assert len(kept) == (window not in accepted), process.output
    took_part = accepted | set(process.windows_with("committed"))
    assert len(took_part) > story.committed_before[name], process.output


@shows(OperatorFault.CHAIN_DOWN_IN_MID_RUN)
def test_nothing_is_lost_while_the_chain_is_away(story: Story) -> None:
    away = story.nodes["away"]
    assert_nothing_is_lost(story, "away")
    told = away.lines("WARNING", "the chain endpoint ws://127.0.0.1:")
    assert ["does not answer" in line for line in told] == [True, False], away.output
    assert "waiting for up to 30 min" in told[0]
    assert "--subtensor.network" in told[0]
    assert "answers again after" in told[1]


@shows(OperatorFault.SLOW_RPC)
def test_a_slow_endpoint_is_told_once_and_nothing_is_lost(story: Story) -> None:
    slow = story.nodes["slow"]
    assert_nothing_is_lost(story, "slow")
    (told,) = slow.lines("WARNING", "the chain endpoint ws://127.0.0.1:", "is slow: ")
    assert float(told.partition("is slow: ")[2].split()[0]) >= 2 * DELAY_S - 0.1
    assert "name a nearer endpoint with --subtensor.network" in told


@shows(OperatorFault.SOCKET_DROPPED)
def test_a_socket_dropped_again_and_again_loses_nothing(story: Story) -> None:
    dropped = story.nodes["dropped"]
    assert_nothing_is_lost(story, "dropped")
    told = dropped.lines("WARNING", "ws://127.0.0.1:", "--subtensor.network")
    broken = [line for line in told if BROKEN_WRITE in line]
    assert broken, dropped.output
    assert "name another endpoint with --subtensor.network; retrying" in broken[0]
    # One line for each kind of trouble until it is over, not for each cut.
    assert len(told) < story.num_cuts / 4, dropped.output
    assert dropped.lines("WARNING", "recovered after")


@shows(OperatorFault.WRONG_SHARD)
def test_a_shard_with_a_wrong_digest_comes_from_the_next_mirror(story: Story) -> None:
    for name in ("val", "poor", "away", "slow", "dropped"):
        process = story.nodes[name]
        words = ("WARNING", story.bad_mirror, "at http://127.0.0.1:", "tell its owner")
        told = process.lines(*words)
        assert told, process.output
        named = [{shard for shard in story.spoiled if shard in line} for line in told]
        assert all(len(shards) == 1 for shards in named), told
        # What several threads asked for at once is under way when the first learns of it.
        most = THREADS * len(set().union(*named))
        assert len(told) <= most, "once a shard and thread; then it is asked last"
        lists = list((process.node.state_dir / "segments").glob(f"*{LIST_SUFFIX}"))
        assert {path.stem for path in lists} & story.spoiled, "read from the next mirror"


@shows(OperatorFault.DEREGISTERED)
def test_a_hotkey_that_lost_its_uid_ends_the_node(story: Story) -> None:
    leaving = story.nodes["leaving"]
    assert leaving.end() == 2, leaving.output
    words = (
        "ERROR",
        "--wallet.hotkey",
        "is not registered on --netuid 1",
        "btcli subnets register",
    )
    assert len(leaving.lines(*words)) == 1, leaving.output
    assert saved_window(leaving.node, story.spec) >= 1


@shows(OperatorFault.SPEC_OTHER_DIGEST)
def test_another_spec_than_the_others_is_named(story: Story) -> None:
    """It is told so, and told less and less often; others' votes end no node."""
    other = story.nodes["other"]
    assert other.end() == 0, other.output
    words = ("ERROR", "validators vote in another one", "--run", "other.toml", "owner")
    assert 1 <= len(other.lines(*words)) < NUM_WINDOWS, other.output
    assert not other.lines("healed")


@shows(OperatorFault.NO_PERMIT)
def test_a_validator_without_permit_is_told_once_how_to_get_one(story: Story) -> None:
    poor = story.nodes["poor"]
    assert poor.end() == 0, poor.output
    words = ("WARNING", "no permit on --netuid 1", "do not count", "0.000 TAO", "`btcli stake add")
    assert len(poor.lines(*words)) == 1, poor.output
    assert not poor.lines("the chain refused the weights")
    val = story.nodes["val"]
    assert len(val.lines("no permit")) == len(val.lines("has a permit now"))


@shows(OperatorFault.WEIGHTS_TOO_SOON)
def test_weights_that_come_too_soon_are_tried_again(story: Story) -> None:
    val = story.nodes["val"]
    assert val.end() == 0, val.output
    words = ("the chain refused the weights", "the rate limit is 100000 blocks", "next window")
    refused = val.lines("WARNING", *words)
    assert 1 <= len(refused) <= NUM_WINDOWS, val.output


@shows(OperatorFault.DISK_FULL)
def test_a_full_disk_ends_the_node_and_a_restart_goes_on(story: Story) -> None:
    if not story.disk.is_mounted:
        pytest.skip("a file system of its own needs the right to mount one")
    full, again = story.nodes["full"], story.nodes["full again"]
    assert full.end() == 1, full.output
    words = ("ERROR", "--neuron.state_dir", "No space left", "free the disk and start again")
    assert len(full.lines(*words)) == 1, full.output
    assert again.end() == 0, again.output
    assert len(again.lines("continuing at theta_", str(story.saved[0]))) == 1, again.output
    assert story.saved[1] == NUM_WINDOWS + 1 > story.saved[0]
    assert story.state_roots("full") == story.state_roots("val")


def test_no_neuron_shows_a_traceback_or_a_secret(story: Story) -> None:
    for name, process in story.nodes.items():
        assert process.status != -signal.SIGKILL, name
        assert_discreet(process.output, process.node)
