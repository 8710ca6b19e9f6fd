"""The service manager of a localnet, with real processes and a clock that the test moves."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from localnet.keeper import (
    FIRST_PAUSE_S,
    MAX_PAUSE_S,
    MAX_RESTARTS,
    NEURON_FINAL_STATUSES,
    Keeper,
)
from localnet.processes import Child, Children, Command
from tests.support.waiting import wait_until

FOREVER = "sleep 60"


class Bench:
    """A keeper, its processes and its clock."""

    def __init__(self, folder: Path, max_restarts: int) -> None:
        self.folder = folder
        self.now_s = 0.0
        self.told: list[str] = []
        self.children = Children()
        self.keeper = Keeper(
            self.told.append,
            folder / "pids.json",
            max_restarts=max_restarts,
            now_s=lambda: self.now_s,
        )

    def start(self, name: str, script: str) -> Child:
        command = Command(
            name=name,
            argv=["sh", "-c", script],
            env={"PATH": os.defpath},
            log_path=self.folder / f"{name}.log",
        )
        child = self.children.start(command)
        self.keeper.keep(child, NEURON_FINAL_STATUSES)
        return child

    def wait_for_end(self, child: Child) -> None:
        child.wait(10.0)
        assert child.exit is not None

    def after(self, seconds: float) -> None:
        """Let the clock run and the keeper look."""
        self.now_s += seconds
        self.keeper.tick()

    @property
    def pids(self) -> dict[str, int]:
        return json.loads((self.folder / "pids.json").read_text())


@pytest.fixture
def make_bench(tmp_path) -> Iterator:
    benches: list[Bench] = []

    def make(max_restarts: int = MAX_RESTARTS) -> Bench:
        benches.append(Bench(tmp_path, max_restarts))
        return benches[-1]

    yield make
    for bench in benches:
        bench.children.stop()


def test_who_is_killed_is_started_again_after_the_pause(make_bench):
    bench = make_bench()
    child, other = bench.start("node", f"echo hello; exec {FOREVER}"), bench.start("b", FOREVER)
    first = child.pid
    assert bench.pids == {"node": first, "b": other.pid}
    bench.after(0.0)
    assert (bench.told, bench.keeper.restarts) == ([], {"node": 0, "b": 0})
    os.kill(first, signal.SIGKILL)
    bench.wait_for_end(child)
    bench.after(0.0)
    assert bench.told == [f"node was killed by signal 9; restart 1 of {MAX_RESTARTS} in 1 s"]
    assert bench.keeper.exit_of("node") is None
    bench.after(FIRST_PAUSE_S * 0.9)
    assert child.pid == first
    bench.after(FIRST_PAUSE_S * 0.2)
    assert child.exit is None
    assert child.pid not in (first, other.pid)
    assert bench.pids == {"node": child.pid, "b": other.pid}
    assert bench.keeper.restarts == {"node": 1, "b": 0}
    wait_until(lambda: child.log_tail() == "hello\nhello\n", every_s=0.01)


@pytest.mark.parametrize(
    ("script", "status", "comes_back"),
    [
        ("exit 0", 0, False),
        ("exit 1", 1, True),
        ("exit 2", 2, False),
        ("exit 130", 130, False),
        ("exit 3", 3, True),
        ("kill -KILL $$", -signal.SIGKILL, True),
        ("kill -SEGV $$", -signal.SIGSEGV, True),
        ("kill -TERM $$", -signal.SIGTERM, False),
        pytest.param(
            "kill -INT $$",
            -signal.SIGINT,
            False,
            marks=pytest.mark.skipif(
                signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
                reason="started in the background of a shell: SIGINT is ignored, in children too",
            ),
        ),
    ],
)
def test_how_it_ended_decides(make_bench, script, status, comes_back):
    bench = make_bench()
    bench.wait_for_end(bench.start("node", script))
    bench.after(0.0)
    assert len(bench.told) == comes_back
    assert bench.keeper.exit_of("node") == (None if comes_back else status)
    bench.after(FIRST_PAUSE_S)
    assert bench.keeper.restarts == {"node": int(comes_back)}


def test_the_pause_grows_and_there_is_an_end(make_bench):
    bench = make_bench()
    child = bench.start("node", "exit 1")
    for restart in range(MAX_RESTARTS):
        bench.wait_for_end(child)
        bench.after(0.0)
        pause_s = 2.0**restart
        bench.after(pause_s - 0.01)
        assert bench.keeper.restarts["node"] == restart
        bench.after(0.02)
        assert bench.keeper.restarts["node"] == restart + 1
        assert bench.keeper.last_restart_s == bench.now_s
    bench.wait_for_end(child)
    bench.after(0.0)
    bench.after(1000.0)
    assert bench.keeper.restarts["node"] == MAX_RESTARTS
    assert bench.keeper.exit_of("node") == 1
    assert (
        bench.told[-1] == f"node ended with status 1 after {MAX_RESTARTS} restarts: node stays down"
    )
    assert len(bench.told) == MAX_RESTARTS + 1


def test_without_restarts_the_dead_stay_dead(make_bench):
    bench = make_bench(max_restarts=0)
    bench.wait_for_end(bench.start("node", "kill -KILL $$"))
    for _ in range(3):
        bench.after(10.0)
    assert bench.keeper.exit_of("node") == -signal.SIGKILL
    assert bench.told == ["node was killed by signal 9; --no-restart: node stays down"]


def test_what_runs_cannot_be_started_twice(make_bench):
    child = make_bench().start("node", FOREVER)
    with pytest.raises(ValueError, match="still runs"):
        child.start_again()


def test_a_command_does_not_show_its_environment():
    command = Command(name="node", argv=["x"], env={"KEY": "s3cr3t"}, log_path=Path("/x"))
    assert "s3cr3t" not in f"{command} {command!r}"


def test_who_was_asked_to_end_can_be_called_back(make_bench):
    bench = make_bench()
    child = bench.start("node", FOREVER)
    first = child.pid
    with pytest.raises(ValueError, match="node has not ended for good"):
        bench.keeper.revive("node")
    child.signal(signal.SIGTERM)
    bench.wait_for_end(child)
    bench.after(60.0)
    assert bench.keeper.exit_of("node") == -signal.SIGTERM
    bench.keeper.revive("node")
    assert bench.keeper.service("node") is child
    assert child.exit is None
    assert bench.keeper.exit_of("node") is None
    assert bench.pids == {"node": child.pid} != {"node": first}
    assert bench.keeper.last_restart_s == bench.now_s
    assert bench.keeper.restarts == {"node": 0}


def test_who_dies_after_it_was_called_back_is_started_again(make_bench):
    bench = make_bench()
    child = bench.start("node", FOREVER)
    child.signal(signal.SIGTERM)
    bench.wait_for_end(child)
    bench.after(0.0)
    bench.keeper.revive("node")
    child.signal(signal.SIGKILL)
    bench.wait_for_end(child)
    bench.after(0.0)
    bench.after(FIRST_PAUSE_S)
    assert bench.keeper.restarts == {"node": 1}


def test_a_pause_has_a_longest(make_bench):
    bench = make_bench(max_restarts=8)
    child = bench.start("node", "exit 1")
    for _ in range(8):
        bench.wait_for_end(child)
        bench.after(0.0)
        bench.after(100.0)
    pauses = [float(line.split(" in ")[1].split()[0]) for line in bench.told]
    assert pauses == [1, 2, 4, 8, 16, 16, 16, 16] == [min(2.0**i, MAX_PAUSE_S) for i in range(8)]
