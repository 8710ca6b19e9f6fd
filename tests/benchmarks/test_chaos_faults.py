"""Every fault on real processes and real proxies, and that one which hit nothing says so."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.chaos.faults import CLOCK_OFF_S, LIES, plant
from benchmarks.chaos.ground import Planted, Post
from benchmarks.chaos.plan import Fault
from benchmarks.chaos.shim import Clock, build, environment
from localnet.adversaries.validators import FALSE_ROOT, FALSE_SAMPLE, LIES_FILE
from localnet.keeper import NEURON_FINAL_STATUSES, Keeper, Service
from localnet.processes import Children, Command
from localnet.proxy import LOOPBACK, HttpProxy, Trouble, WireProxy
from simulation.faults import ProcessFault
from template.errors import ConfigError
from template.protocol.record import ROOT_BYTES, SAMPLE_DIGEST_BYTES, Vote
from tests.support.waiting import HANG_S, wait_until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="faults are planted by Linux's means"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
]

NEURON = """
import json, os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
folder = sys.argv[1]
while True:
    with open(f"{folder}/metrics.jsonl", "a") as file:
        file.write(json.dumps({"window": 0, "time_s": time.time()}) + "\\n")
    try:
        with open(f"{folder}/node.safetensors", "wb") as file:
            file.write(bytes(100_000))
    except OSError as error:
        print(f"the state cannot be written ({error.strerror})", flush=True)
        sys.exit(1)
    time.sleep(0.02)
"""
"""Does what faults look at: writes rows with the time, and a state as large as it may."""
NAMES = ("val-0", "val-1", "miner-0", "miner-1")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("shim"))


class Field:
    """A ground of small processes that are kept alive."""

    def __init__(self, folder: Path, library: Path, stack: ExitStack) -> None:
        self.keeper = Keeper(lambda _: None, folder / "pids.json")
        self.posts: dict[str, Post] = {}
        self.ballots: dict[int, dict[str, Vote]] = {}
        children = stack.enter_context(Children())
        for name in NAMES:
            post = self._post(folder, name, stack)
            self.posts[name] = post
            post.state_dir.mkdir(parents=True)
            command = Command(
                name=name,
                argv=[sys.executable, "-S", "-E", "-c", NEURON, str(post.state_dir)],
                env={"PATH": os.defpath, **environment(library, post.clock, {})},
                log_path=post.log_path,
            )
            self.keeper.keep(children.start(command), final_statuses=NEURON_FINAL_STATUSES)
        until(lambda: all(self.rows(name) for name in NAMES))

    def _post(self, folder: Path, name: str, stack: ExitStack) -> Post:
        return Post(
            chain=stack.enter_context(WireProxy(1)),
            buckets=stack.enter_context(HttpProxy(1)),
            clock=Clock(folder / f"{name}.clock"),
            state_dir=folder / name,
            log_path=folder / f"{name}.log",
            bucket_path=f"/bucket-of-{name}/",
        )

    def service(self, name: str) -> Service:
        return self.keeper.service(name)

    def revive(self, name: str) -> None:
        self.keeper.revive(name)

    def votes(self, window: int) -> Mapping[str, Vote]:
        return self.ballots.get(window, {})

    def rows(self, name: str) -> list[dict[str, float]]:
        path = self.posts[name].state_dir / "metrics.jsonl"
        whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
        return [json.loads(line) for line in whole.splitlines()]

    def ask(self, name: str, path: str) -> None:
        """A request of this neuron's through its bucket proxy; whatever comes of it."""
        with suppress(OSError), self._wire(self.posts[name].buckets.port) as wire:
            wire.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode("ascii"))
            wire.recv(100)

    def dial(self, name: str) -> None:
        with suppress(OSError), self._wire(self.posts[name].chain.port) as wire:
            wire.recv(1)

    def _wire(self, port: int) -> socket.socket:
        return socket.create_connection((LOOPBACK, port), timeout=HANG_S)


@pytest.fixture
def field(tmp_path: Path, library: Path) -> Iterator[Field]:
    with ExitStack() as stack:
        yield Field(tmp_path, library, stack)


def until(condition: Callable[[], bool]) -> None:
    wait_until(condition, every_s=0.01)


def begun(field: Field, kind: ProcessFault, *targets: str) -> Planted:
    fault = plant(Fault(kind=kind, window=4, at=0.5, targets=targets), field)
    assert not fault.took_effect
    fault.begin()
    return fault


def lasting(field: Field, fault: Planted, looks: int = 10) -> None:
    for _ in range(looks):
        fault.look()
        field.keeper.tick()
        time.sleep(0.02)


@pytest.mark.parametrize(
    "kind",
    [
        ProcessFault.KILL_MINER,
        ProcessFault.KILL_VALIDATOR,
        ProcessFault.KILL_TOP_VALIDATOR,
        ProcessFault.KILL_CHAIN,
    ],
)
def test_a_kill_is_seen_in_the_exit_status(field, kind) -> None:
    pid = field.service("val-0").pid
    fault = begun(field, kind, "val-0")
    assert fault.took_effect
    assert fault.evidence == {"val-0": {"pid": pid, "exit": -9}}
    assert field.service("val-1").exit is None


def test_a_kill_of_who_was_gone_took_no_effect(field) -> None:
    field.service("val-0").signal(15)
    until(lambda: field.service("val-0").exit is not None)
    assert not begun(field, ProcessFault.KILL_VALIDATOR, "val-0").took_effect


def test_a_pause_stops_and_goes_on(field) -> None:
    fault = begun(field, ProcessFault.PAUSE_ONE, "miner-0")
    before = len(field.rows("miner-0"))
    lasting(field, fault)
    assert len(field.rows("miner-0")) == before
    fault.end()
    assert fault.evidence == {"miner-0": {"states": ["T"], "cpu_ticks": 0}}
    assert fault.took_effect
    until(lambda: len(field.rows("miner-0")) > before)


def test_a_pause_that_somebody_ended_took_no_effect(field) -> None:
    fault = begun(field, ProcessFault.PAUSE_THREE, "miner-0")
    field.service("miner-0").signal(18)
    time.sleep(0.05)
    lasting(field, fault)
    fault.end()
    assert not fault.took_effect


HONEST_VOTE = Vote(
    window=3,
    root=bytes(ROOT_BYTES),
    sample_digest=bytes(SAMPLE_DIGEST_BYTES),
    uids=frozenset(),
)
FALSE_VOTES = {
    ProcessFault.LIE_ROOT: replace(HONEST_VOTE, root=FALSE_ROOT),
    ProcessFault.LIE_SAMPLE: replace(HONEST_VOTE, sample_digest=FALSE_SAMPLE),
}


@pytest.mark.parametrize("kind", FALSE_VOTES)
def test_a_liar_votes_alone_while_the_others_stand_still(field, kind) -> None:
    fault = begun(field, kind, "val-0", "val-1")
    planned = json.loads((field.posts["val-0"].state_dir / LIES_FILE).read_text())
    assert planned == {"3": LIES[kind]}
    before, of_liar = len(field.rows("val-1")), len(field.rows("val-0"))
    lasting(field, fault)
    assert len(field.rows("val-1")) == before
    until(lambda: len(field.rows("val-0")) > of_liar)
    field.ballots[3] = {"val-0": FALSE_VOTES[kind]}
    fault.end()
    assert fault.took_effect
    assert fault.evidence == {
        "val-0": {"voted": LIES[kind], "other_votes": 0},
        "val-1": {"states": ["T"], "cpu_ticks": 0},
    }
    until(lambda: len(field.rows("val-1")) > before)


@pytest.mark.parametrize(
    "votes",
    [
        {},
        {"val-0": HONEST_VOTE},
        {"val-0": FALSE_VOTES[ProcessFault.LIE_SAMPLE]},
        {"val-0": FALSE_VOTES[ProcessFault.LIE_ROOT], "val-1": HONEST_VOTE},
        {"val-1": FALSE_VOTES[ProcessFault.LIE_ROOT]},
    ],
)
def test_a_lie_that_nobody_told_or_told_beside_others_took_no_effect(field, votes) -> None:
    field.ballots = {2: {"val-0": FALSE_VOTES[ProcessFault.LIE_ROOT]}, 3: votes}
    fault = begun(field, ProcessFault.LIE_ROOT, "val-0", "val-1")
    lasting(field, fault, looks=2)
    fault.end()
    assert not fault.took_effect


def test_who_leaves_stays_away_and_comes_back(field) -> None:
    fault = begun(field, ProcessFault.LEAVE, "miner-0", "miner-1")
    until(lambda: field.service("miner-1").exit is not None)
    until(lambda: field.service("miner-0").exit is not None)
    lasting(field, fault)
    pids = [field.service(f"miner-{i}").pid for i in range(2)]
    fault.end()
    assert fault.took_effect
    assert fault.evidence["miner-0"]["exit"] == 130
    assert field.service("miner-0").exit is field.service("miner-1").exit is None
    assert {field.service(f"miner-{i}").pid for i in range(2)}.isdisjoint(pids)


def test_a_clock_jumps_while_the_process_runs_and_back(field) -> None:
    fault = begun(field, ProcessFault.CLOCK, "val-1")
    lasting(field, fault)
    fault.end()
    assert fault.took_effect
    assert fault.evidence == {"val-1": {"ahead_s": CLOCK_OFF_S}}
    until(lambda: abs(field.rows("val-1")[-1]["time_s"] - time.time()) < 5)
    assert all(abs(row["time_s"] - time.time()) < 60 for row in field.rows("val-0"))


def test_a_clock_that_nobody_read_took_no_effect(field) -> None:
    field.service("val-1").signal(19)
    fault = begun(field, ProcessFault.CLOCK, "val-1")
    fault.look()
    lasting(field, fault)
    fault.end()
    field.service("val-1").signal(18)
    assert not fault.took_effect


def test_a_full_disk_ends_the_process_that_follows_too(field) -> None:
    until(lambda: (field.posts["val-0"].state_dir / "node.safetensors").stat().st_size == 100_000)
    fault = begun(field, ProcessFault.FULL_DISK, "val-0")
    until(lambda: field.service("val-0").exit == 1)
    field.keeper.tick()
    fault.end()
    assert fault.took_effect
    assert fault.evidence["val-0"]["told"] == 1
    assert 0 < fault.evidence["val-0"]["limit_bytes"] < 100_000


def test_a_disk_that_nobody_filled_took_no_effect(field) -> None:
    field.service("val-0").signal(19)
    fault = begun(field, ProcessFault.FULL_DISK, "val-0")
    fault.end()
    field.service("val-0").signal(18)
    assert not fault.took_effect


@pytest.mark.parametrize("kind", [ProcessFault.SLOW, ProcessFault.TRUNCATED, ProcessFault.STORM])
def test_trouble_that_nobody_met_took_no_effect(field, kind) -> None:
    fault = begun(field, kind, *NAMES)
    assert all(post.buckets.trouble is not None for post in field.posts.values())
    fault.end()
    assert all(post.buckets.trouble is None for post in field.posts.values())
    assert not fault.took_effect


def test_a_storm_must_be_met_by_all(field) -> None:
    fault = begun(field, ProcessFault.STORM, *NAMES)
    for name in NAMES[:3]:
        field.ask(name, "/any/thing")
    fault.end()
    assert not fault.took_effect
    fault = begun(field, ProcessFault.STORM, *NAMES)
    for name in NAMES:
        field.ask(name, "/any/thing")
        field.ask(name, "/any/thing")
    fault.end()
    assert fault.took_effect


def test_cut_off_from_the_chain(field) -> None:
    fault = begun(field, ProcessFault.CUT_CHAIN, "val-1")
    field.dial("val-1")
    assert field.posts["val-0"].chain.trouble is None
    fault.end()
    assert fault.evidence == {"val-1": {"refuse": 1}}
    assert fault.took_effect
    fault = begun(field, ProcessFault.CUT_CHAIN, "val-1")
    fault.end()
    assert not fault.took_effect


def test_a_split_parts_validators_and_the_miners_buckets(field) -> None:
    fault = begun(field, ProcessFault.SPLIT_BUCKETS, "val-1")
    refused = {name: field.posts[name].buckets.trouble.paths for name in ("val-0", "val-1")}
    assert refused == {
        "val-0": ("/bucket-of-val-1/", "/bucket-of-miner-0/"),
        "val-1": ("/bucket-of-val-0/", "/bucket-of-miner-1/"),
    }
    assert field.posts["miner-0"].buckets.trouble is None
    field.ask("val-1", "/bucket-of-val-0/x")
    fault.end()
    assert fault.evidence == {"val-0": {"refuse": 0}, "val-1": {"refuse": 1}}
    assert fault.took_effect


@pytest.mark.parametrize("kind", list(ProcessFault))
def test_every_kind_can_be_planted(field, kind) -> None:
    fault = plant(Fault(kind=kind, window=4, at=0.5, targets=("val-0",)), field)
    assert fault.evidence == {}
    assert not fault.took_effect


CONNECT = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=300) as wire:
    print(wire.recv(10).decode())
"""


def test_the_library_sends_connections_to_the_proxy(library, tmp_path) -> None:
    with socket.create_server((LOOPBACK, 0)) as server, socket.create_server((LOOPBACK, 0)) as door:
        there, here = server.getsockname()[1], door.getsockname()[1]
        env = environment(library, Clock(tmp_path / "clock"), {1: 2, there: here})
        command = [sys.executable, "-c", CONNECT, str(there)]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
            door.settimeout(HANG_S)
            wire, _ = door.accept()
            wire.sendall(b"by proxy")
            wire.close()
            assert process.stdout is not None
            assert process.stdout.read() == "by proxy\n"


def test_without_a_compiler_the_remedy_is_said(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(ConfigError, match="install a C compiler"):
        build(tmp_path)


def test_trouble_of_a_wire_is_refused(field) -> None:
    with pytest.raises(ValueError, match="can only refuse"):
        field.posts["val-0"].chain.begin(Trouble(kind="slow"))
