"""Faults in mid-run: one short run of a real subnet, in which one thing after another goes wrong.

Every neuron is a process and has its own fault: `val` has weights refused, `poor` has no
permit, `away` loses the chain for a while, `leaving` loses its uid, `other` has another run
spec, and the disk of `full` fills up. The rows below read what each of them left.
"""

import ctypes
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from template.base.joining import LOCAL_FILE
from template.protocol.spec import RunSpec
from template.training.checkpoint import load_local
from tests.faults.process import NodeProcess, assert_discreet, until, warm_nursery
from tests.faults.subnet import NodeStart, Subnet
from tests.relay import Relay

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

# In the order of uids from 1 on: who leaves is who has the oldest uid that earned nothing.
NAMES = ("leaving", "val", "poor", "away", "other", "full")
FLAGS = ["--block-time", "0.3", "--tempo", "31", "--weights-rate-limit", "100000"]
FLAGS += ["--max-uids", str(len(NAMES) + 1), "--immunity-period", "1", "--min-non-immune-uids", "0"]
START_BLOCKS = 60
NUM_WINDOWS = 5
BLOCKS_AWAY = 12
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
    """What the run left behind. `saved`: windows of the state on the full disk, and after."""

    spec: RunSpec
    nodes: dict[str, NodeProcess]
    disk: SmallDisk
    saved: list[int]
    committed_before_outage: int

    def state_roots(self, name: str) -> dict[int, str]:
        return {r["window"]: r["state_root"] for r in self.nodes[name].rows() if "state_root" in r}


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
    spec = subnet.publish_run(in_blocks=START_BLOCKS, schedule__num_windows=NUM_WINDOWS)
    relay = Relay(int(subnet.url.rpartition(":")[2]))
    for name in NAMES:
        nodes[name] = NodeProcess(
            prepare(subnet, name, relay, disk), subnet.folder / f"{name}.output"
        )
    wait_for_window(nodes["away"], 0)
    before = len(nodes["away"].windows_with("committed"))
    relay.refuse()
    nodes["away"].wait_for("WARNING", "does not answer")
    away_since = subnet.chain.head()
    subnet.register("newcomer")
    disk.fill()
    until(lambda: subnet.chain.head() >= away_since + BLOCKS_AWAY, lambda: "no blocks")
    relay.accept_again()
    nodes["full"].end()
    saved = [saved_window(nodes["full"].node, spec)]
    disk.free()
    first = nodes["full"]
    nodes["full again"] = NodeProcess(first.node, subnet.folder / "again.output")
    for process in nodes.values():
        process.end()
    saved.append(saved_window(first.node, spec))
    relay.refuse()
    return Story(spec=spec, nodes=nodes, disk=disk, saved=saved, committed_before_outage=before)


def prepare(subnet: Subnet, name: str, relay: Relay, disk: SmallDisk) -> NodeStart:
    folder = subnet.folder / name
    folder.mkdir()
    role = "validator" if name in ("val", "poor") else "miner"
    node = subnet.node(role, name, folder)
    if name == "away":
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

    until(has_committed, lambda: process.output)


def saved_window(node: NodeStart, spec: RunSpec) -> int:
    """Where the state on disk stands: it can be read whole."""
    saved = load_local(node.state_dir / LOCAL_FILE, spec)
    assert saved is not None
    return saved.state.window


def test_nothing_is_lost_while_the_chain_is_away(story: Story) -> None:
    away = story.nodes["away"]
    assert away.end() == 0, away.output
    told = away.lines("WARNING", "the chain endpoint ws://127.0.0.1:")
    assert ["does not answer" in line for line in told] == [True, False], away.output
    assert "waiting for it, up to 30 min" in told[0]
    assert "--subtensor.network" in told[0]
    assert "answers again after" in told[1]
    assert story.state_roots("away") == story.state_roots("val")
    assert len(story.state_roots("away")) == NUM_WINDOWS
    assert len(away.windows_with("committed")) > story.committed_before_outage


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


def test_another_spec_than_the_others_is_named(story: Story) -> None:
    other = story.nodes["other"]
    assert other.end() == 1, other.output
    words = ("ERROR", "the stake majority votes root", "--run", "other.toml", "owner")
    assert len(other.lines(*words)) == 1, other.output


def test_a_validator_without_permit_is_told_once_how_to_get_one(story: Story) -> None:
    poor = story.nodes["poor"]
    assert poor.end() == 0, poor.output
    words = ("WARNING", "no permit on --netuid 1", "do not count", "0.000 TAO", "`btcli stake add")
    assert len(poor.lines(*words)) == 1, poor.output
    assert not poor.lines("the chain did not take the weights")
    val = story.nodes["val"]
    assert len(val.lines("no permit")) == len(val.lines("has a permit now"))


def test_weights_that_come_too_soon_are_tried_again(story: Story) -> None:
    val = story.nodes["val"]
    assert val.end() == 0, val.output
    words = ("the chain did not take the weights", "the rate limit is 100000 blocks", "next window")
    refused = val.lines("WARNING", *words)
    assert 1 <= len(refused) <= NUM_WINDOWS, val.output


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
