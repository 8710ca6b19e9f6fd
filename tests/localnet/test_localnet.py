"""Whole localnets through the command, in real processes. Slow: minutes in all.

Most tests look at one and the same run, told in `story`: each is one property of it.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.localnet import story as told
from tests.support.localnet.btcli import report_differences
from tests.support.localnet.leaks import encodings, kinds_in, search, secrets_of
from tests.support.localnet.running import LIMIT_S, TEXT, RunningLocalnet, is_running
from tests.support.localnet.story import HELD, KILLED, NODES, NUM_WINDOWS, PROCESSES, WRONG, Story
from tests.support.wandb_server import WandbServer, serve_wandb

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3 * LIMIT_S),
    pytest.mark.skipif(not TEXT.exists(), reason="the text is not there: run `make text`"),
]

WANDB_KEY = "5eca7e" * 6 + "5eca"


@pytest.fixture(scope="module")
def wandb_server() -> Iterator[WandbServer]:
    pytest.importorskip("wandb")
    with serve_wandb() as server:
        yield server


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, wandb_server: WandbServer) -> Story:
    env = {"WANDB_API_KEY": WANDB_KEY, "WANDB_BASE_URL": wandb_server.url}
    return told.tell(tmp_path_factory.mktemp("story"), env)


@pytest.fixture(scope="module")
def neurons(story: Story) -> dict[str, dict[str, Any]]:
    """Name -> its part of the report."""
    return {neuron["name"]: neuron for neuron in story.net.report["neurons"]}


def test_the_run_was_good(story: Story, neurons) -> None:
    assert story.status == 0, story.net.output
    assert "does not hold" not in story.net.output
    assert {neurons[name]["exit"] for name in NODES} == {0}
    assert (story.net.out / "localnet.png").stat().st_size > 10_000


def test_each_that_was_killed_was_started_again_once(story: Story) -> None:
    assert story.net.report["restarts"] == {name: int(name in KILLED) for name in PROCESSES}
    for name in KILLED:
        assert f"{name} was killed by signal 9; restart 1 of 5 in 1 s" in story.net.output


def test_all_end_on_the_same_parameters(story: Story, neurons) -> None:
    ends = {(neurons[n]["final_window"], neurons[n]["final_params_digest"]) for n in NODES}
    assert [window for window, _ in ends] == [NUM_WINDOWS + 1]
    assert not [window for window in story.net.report["windows"] if window["disagreeing"]]


def test_the_chain_kept_its_blocks(story: Story) -> None:
    assert len(story.hashes) > 100
    assert story.held.hashes == story.hashes


def test_the_bucket_server_kept_its_objects(story: Story) -> None:
    # Payloads and verdicts of a window by those who do their work. The lineage goes on.
    kept = {key: digest for key, digest in story.objects.items() if "/lineage/" not in key}
    assert len(kept) > len(told.HONEST)
    assert {key: story.held.objects.get(key) for key in kept} == kept
    assert story.objects.keys() <= story.held.objects.keys()
    assert len(story.held.objects) > len(story.objects)


def test_neurons_went_on_from_their_state(story: Story) -> None:
    assert story.kept is not None
    for group in ("feedback", "moments"):
        assert any(tensor.any() for tensor in story.kept.groups[group].values())
    assert f"continuing at theta_{story.kept.state.window} from" in story.net.log("miner-0")
    assert "continuing at theta_" in story.net.log("val-0")


def test_honest_work_is_paid_and_nothing_else(neurons) -> None:
    paid = {name for name, neuron in neurons.items() if neuron["role"] == "miner"}
    paid = {name for name in paid if neurons[name]["emission_rao"] > 0}
    # The one that was killed may have lost the windows that pay it on a busy machine.
    assert {"miner-1", "miner-2"} <= paid <= {"miner-0", "miner-1", "miner-2"}


def test_payloads_were_accepted_after_the_last_kill(story: Story, neurons) -> None:
    accepted = {w["window"]: set(w["accepted_uids"]) for w in story.net.report["windows"]}
    uids = {neurons[f"miner-{i}"]["uid"] for i in range(3)}
    later = [accepted[window] for window in range(story.last_kill_window + 1, NUM_WINDOWS)]
    assert set.union(*later) & uids


def test_what_was_refused_has_a_reason(story: Story, neurons) -> None:
    assert set(neurons["malformed-0"]["refusals"]) >= {"length", "magic"}
    # Noise may help by chance in a window, but not in most.
    assert neurons["garbage-0"]["refusals"]["no_gain"] > NUM_WINDOWS // 2
    assert neurons["malformed-0"]["payloads_accepted"] == 0
    assert "Verdicts against malformed-0: " in story.net.output


def test_btcli_shows_the_weights_of_the_report(story: Story) -> None:
    report, graph = story.net.report, story.held.graph
    assert len(story.held.weights) == 2
    found = report_differences(report, story.held.weights, graph)
    # Incentives follow the row with the most stake, and that may change with every epoch.
    assert [text for text in found if ": incentive is" not in text] == []
    shown = {uid for uid, incentive in enumerate(graph["incentives"]) if incentive}
    assert shown == {n["uid"] for n in report["neurons"] if n["incentive"]}
    assert len(shown) == 3


def test_the_address_of_the_chain_is_told_while_it_runs(story: Story) -> None:
    chain = story.net.log("chain").split()[1]
    query = f"btcli query metagraph --netuid 1 -n {chain}\n"
    first, last = (story.net.output.index(words) for words in ("the chain is up", HELD))
    assert story.net.output.index(query) == story.net.output.index(query, first)
    assert query in story.net.output[last:]
    assert first < story.net.output.index("registering")
    assert not (story.net.out / "endpoint").exists()


def test_chain_and_bucket_server_stay_until_they_are_told(story: Story) -> None:
    assert story.held.running == {"chain", "buckets"}
    assert not [pid for pid in story.held.pids.values() if is_running(pid)]
    assert "interrupted" not in story.net.output
    assert processes_with(story.net) == ""


@pytest.mark.parametrize(("name", "variable"), WRONG.items())
def test_wrong_credentials_end_a_neuron(story: Story, name: str, variable: str) -> None:
    assert story.statuses[name] == 2, story.beside.output(name)
    assert variable in story.beside.output(name)


def test_weights_and_biases_gets_all(story: Story, wandb_server: WandbServer) -> None:
    """Online from the neurons of the localnet; offline nothing is lost."""
    shown = [run["displayName"] for run in wandb_server.runs if run["displayName"]]
    assert {name.partition("-")[0] for name in shown} == {"miner", "misbehaving", "validator"}
    sent = {row["held_out_loss"] for row in wandb_server.history if "held_out_loss" in row}
    assert sent >= {r["held_out_loss"] for r in story.net.rows("val-1") if "held_out_loss" in r}
    (folder,) = (story.net.out / "nodes" / "traced" / "wandb").glob("offline-run-*")
    assert any(b"committed" in path.read_bytes() for path in folder.glob("*.wandb"))


def test_no_secret_leaves_its_place(story: Story) -> None:
    """In no file, no output and no command line, whatever was killed or refused meanwhile."""
    assert story.statuses["traced"] == 0, story.beside.output("traced")
    out = story.net.out
    secrets = secrets_of(out)
    assert all(secrets.values())
    secrets["wandb"] = encodings(WANDB_KEY) | encodings(f"api:{WANDB_KEY}")
    assert b"template.cli\0miner" in story.command_lines
    assert kinds_in(story.command_lines, secrets) == set()
    found = search(out.parent, out, secrets)
    assert found.leaked == {}
    assert found.open_files == []
    assert found.held == {"hotkey", "coldkey", "write", "read", "admin", "chain"}
    assert len(list(out.parent.glob("*.output"))) == 2 + len(WRONG)
    assert (out / "traced" / "miner.log").stat().st_size > 10_000
    with (out / "chain.journal").open("rb") as journal:
        assert kinds_in(journal.readline(), secrets) == {"chain"}
        assert kinds_in(journal.read(), secrets) == {"read"}


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., RunningLocalnet]]:
    """Starts a localnet of the test's own."""
    started: list[RunningLocalnet] = []

    def run(*flags: str) -> RunningLocalnet:
        started.append(RunningLocalnet(tmp_path / "out", *flags))
        return started[-1]

    yield run
    for net in started:
        net.kill_leftovers()


def processes_with(net: RunningLocalnet) -> str:
    """Pids of all processes that have the localnet's folder in their command line."""
    command = ["pgrep", "-f", str(net.out)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_a_run_of_garbage_alone_fails(start) -> None:
    flags = ["--miners", "0", "--validators", "1", "--misbehave", "garbage:1", "--windows", "2"]
    net = start(*flags, "--block-time", "0.1")
    assert net.end() == 1, net.output
    assert "the run has no honest miner" in net.output
    owner, _, garbage = net.report["neurons"]
    assert (garbage["payloads_committed"] > 0, garbage["emission_rao"]) == (True, 0)
    # Nobody earned anything: that goes to the owner, in the epoch after the last weights too.
    assert (owner["weight"], owner["incentive"]) == (1.0, 1.0)
    assert processes_with(net) == ""


def test_an_interrupt_ends_every_process(start) -> None:
    net = start("--miners", "1", "--validators", "1", "--windows", "3")
    net.wait_until((net.out / "nodes" / "miner-0").exists)
    pids = net.pids
    assert set(pids) == {"chain", "buckets", "val-0", "miner-0"}
    assert all(map(is_running, pids.values()))
    net.process.send_signal(signal.SIGINT)
    assert net.end() == 130, net.output
    assert "interrupted; every process was ended" in net.output
    assert not [pid for pid in pids.values() if is_running(pid)]
    assert processes_with(net) == ""


def test_what_dies_stays_dead_if_asked_and_without_a_chain_the_run_ends(start) -> None:
    net = start("--miners", "1", "--validators", "1", "--windows", "3", "--no-restart")
    net.wait_until(lambda: "waiting for block" in net.output)
    pids = net.pids
    os.kill(pids["miner-0"], signal.SIGKILL)
    net.wait_until(
        lambda: "miner-0 was killed by signal 9; --no-restart: miner-0 stays down" in net.output
    )
    os.kill(pids["chain"], signal.SIGKILL)
    assert net.end() == 1, net.output
    assert "chain ended with status -9: the run cannot go on" in net.output
    assert net.pids == pids
    assert not [pid for pid in pids.values() if is_running(pid)]
