"""A run of real processes that changes twice, by proposals made and supported by command.

At one window the outer rate and top_k change, at a later one the dataset, with a decay to the run's
end. One validator is killed across each switch; one miner runs older code; one proposal has too
little stake. Minutes.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from simulation.swarm import small_plan, synthetic_corpus
from template import version_key, version_words
from template.commands.plan import RunChoices, prepare_run, upload
from template.protocol.quorum import LEAD_WINDOWS
from template.protocol.root import tensors_digest
from template.protocol.spec import RunSpec, load_spec
from template.sync.own_checkpoint import LOCAL_FILE
from template.training.checkpoint import load_local
from tests.support.faults.changing import chain_flags, draft, reach, support, tessera
from tests.support.faults.process import NodeProcess, warm_nursery
from tests.support.faults.subnet import OWNER, ROOT, NodeStart, Subnet
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

VALIDATORS = {"val-a": 600, "val-b": 500, "val-c": 400}
MINERS = ("m0", "m1")
OLD, OLD_VERSION = "old", "0.0.9"
FLAGS = ("--block-time", "0.4", "--tempo", "31", "--weights-rate-limit", "100000")
START_BLOCKS = 90
SUPPORTED = re.compile(r"supported by ([0-9.]+) %")
WINDOWS, FIRST, SECOND = 29, 14, 25
"""Length of the run, and the first windows under the two new specs."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """The nodes by name as they ended, the run's specs, and what the commands printed."""

    nodes: dict[str, NodeProcess]
    specs: list[RunSpec]
    printed: dict[str, str]
    folder: Path

    def series(self, name: str, key: str) -> dict[int, object]:
        return {row["window"]: row[key] for row in self.nodes[name].rows() if key in row}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("succession")
    nodes: dict[str, NodeProcess] = {}
    names = (*VALIDATORS, *MINERS, OLD)
    try:
        with Subnet(folder, names, *FLAGS) as subnet:
            yield tell(subnet, names, nodes)
    finally:
        for process in nodes.values():
            process.stop()


def tell(subnet: Subnet, names: tuple[str, ...], nodes: dict[str, NodeProcess]) -> Story:
    warm_nursery()
    subnet.register(*names)
    for name, tao in VALIDATORS.items():
        subnet.stake(name, tao)
    subnet.create_buckets(OWNER, *names)
    spec = subnet.publish_run(in_blocks=START_BLOCKS, schedule__num_windows=WINDOWS)
    other = other_dataset(subnet)
    for name in names:
        folder = subnet.folder / name
        folder.mkdir()
        node = subnet.node("validator" if name in VALIDATORS else "miner", name, folder)
        if name != OLD:
            nodes[name] = NodeProcess(node, subnet.folder / f"{name}.output")
        else:
            old = OldNode(node, old_code(subnet.folder / "old-code"), subnet.folder / "old.output")
    printed: dict[str, str] = {}
    try:
        reach(subnet, spec, 1, 12)
        rate = spec.outer.outer_lr / 2
        changes = ("--set", f"outer.outer_lr={rate}", "--set", "compression.top_k=32")
        first = draft(subnet, FIRST, *changes, "--least-version", "0.1.0")
        for name in ("val-a", "val-b"):
            support(nodes[name].node, first)
        reach(subnet, spec, FIRST - LEAD_WINDOWS + 2, 2)
        printed["first"] = show(subnet)
        anneal = ("--set", f'data.manifest_digest="{other}"', "--set", "training.decay_share=1.0")
        second = draft(subnet, SECOND, *anneal)
        for name in ("val-a", "val-c"):
            support(nodes[name].node, second)
        lone = draft(subnet, SECOND + 1, "--set", "outer.outer_lr=9.0")
        support(nodes["val-b"].node, lone)
        kill_across(subnet, spec, "val-c", FIRST, nodes)
        reach(subnet, spec, SECOND - LEAD_WINDOWS, 14)
        printed["second"] = show(subnet)
        kill_across(subnet, spec, "val-c", SECOND, nodes)
        for process in nodes.values():
            process.end()
        printed["old"] = old.end()
        printed["replay"] = tessera(
            "replay", "--run", str(subnet.folder / "run.toml"), *chain_flags(subnet)
        )
    finally:
        old.stop()
    return Story(
        nodes=nodes,
        specs=[spec, load_spec(first), load_spec(second)],
        printed=printed,
        folder=subnet.folder,
    )


class OldNode:
    """A miner that runs from a copy of the code with an older version."""

    def __init__(self, node: NodeStart, code: Path, output: Path) -> None:
        self._output = output.open("wb")
        self._path = output
        command = [sys.executable, str(code / "neurons" / "miner.py"), *node.argv]
        environment = node.environment() | {"PYTHONPATH": str(code)}
        self._process = subprocess.Popen(
            command, cwd=code, env=environment, stdout=self._output, stderr=subprocess.STDOUT
        )

    def end(self) -> str:
        """The exit status, and all that was printed."""
        status = self._process.wait(300)
        return f"status {status}\n{self._path.read_text(errors='replace')}"

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._output.close()


def old_code(folder: Path) -> Path:
    for name in ("template", "compression", "evaluation", "neurons"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "template" / "__init__.py"
    text, count = re.subn(
        r'^__version__ = ".*"$', f'__version__ = "{OLD_VERSION}"', path.read_text(), flags=re.M
    )
    assert count == 1
    path.write_text(text)
    return folder


def other_dataset(subnet: Subnet) -> str:
    """The digest of another dataset, which lies in the owner's bucket."""
    choices = RunChoices(owner_hotkey=subnet.hotkeys[OWNER], start_block=100)
    run = prepare_run(small_plan(), synthetic_corpus(90_000), choices)
    with closing(subnet.writer(OWNER)) as bucket:
        upload(run, bucket)
    return run.spec.data.manifest_digest


def kill_across(
    subnet: Subnet, spec: RunSpec, name: str, switch: int, nodes: dict[str, NodeProcess]
) -> None:
    """Kill a node in the window before a switch, and start it again in the first one after."""
    reach(subnet, spec, switch - 1, 2)
    process = nodes[name]
    process.signal(signal.SIGKILL)
    wait_until(lambda: process.status is not None)
    reach(subnet, spec, switch, 2)
    nodes[name] = NodeProcess(process.node, subnet.folder / f"{name}-{switch}.output")


def show(subnet: Subnet) -> str:
    return tessera(
        "succession", "show", "--run", str(subnet.folder / "run.toml"), *chain_flags(subnet)
    )


def test_nobody_stopped_and_all_stand_at_the_same_parameters(story: Story) -> None:
    roots = set()
    for name, process in story.nodes.items():
        assert process.end() == 0, process.output
        saved = load_local(process.node.state_dir / LOCAL_FILE, story.specs[0])
        assert saved is not None
        assert saved.state.window == WINDOWS + 1, name
        roots.add(saved.state.root)
    assert len(roots) == 1


def test_each_switch_came_at_its_window(story: Story) -> None:
    first, second = story.specs[1:]
    for name in (*MINERS, "val-a"):
        output = story.nodes[name].output
        for spec, window in ((first, FIRST), (second, SECOND)):
            words = f"window {window} on: the stake majority has adopted run spec "
            assert f"{words}{spec.spec_id.hex()}" in output, output
    rates = story.series("val-a", "outer_lr")
    # A row has the alpha after its window, which the next window's payloads are applied with.
    before, after = rates[FIRST - 2], rates[FIRST - 1]
    assert isinstance(before, float)
    assert isinstance(after, float)
    assert after / before == pytest.approx(0.5, rel=0.2), "by the votes a step more or less"
    sizes = story.series("m0", "payload_bytes")
    early = {str(size) for window, size in sizes.items() if window < FIRST}
    late = {str(size) for window, size in sizes.items() if window >= FIRST}
    assert len(early) == len(late) == 1, sizes
    assert int(early.pop()) > int(late.pop())


def test_what_was_proposed_is_shown_with_its_stake(story: Story) -> None:
    first = story.printed["first"]
    assert f"window {FIRST} on: {story.specs[1].spec_id.hex()}" in first
    assert "compression.top_k: 64 -> 32" in first
    second = story.printed["second"]
    spec_id, shares = story.specs[2].spec_id.hex(), SUPPORTED.findall(second)
    if f"proposed for window {SECOND} on: {spec_id}" in second:
        assert float(shares.pop(0)) > 50
    else:  # a slow command found it adopted
        assert f"window {SECOND} on: {spec_id}" in second
    assert all(0 < float(share) < 50 for share in shares), "what has little stake comes last"
    assert f"{OLD_VERSION}: 1" in first or OLD_VERSION not in first


def test_a_proposal_without_enough_stake_changes_nothing(story: Story) -> None:
    """The proposal's supporter says in its log that the spec is not supported."""
    rates = story.series("val-a", "outer_lr")
    assert all(rate != 9.0 for rate in rates.values())
    assert "this spec is not supported" in story.nodes["val-b"].output


def test_the_old_code_stopped_early_and_said_why(story: Story) -> None:
    text = story.printed["old"]
    assert text.startswith("status 2\n"), text
    assert "this node could not follow" in text
    assert f"demands version 0.1.0 or newer from window {FIRST} on, this is {OLD_VERSION}" in text
    assert re.search(r"this node stops in \d+ windows", text)
    assert version_words(version_key(OLD_VERSION)) == OLD_VERSION


def test_a_replay_from_the_first_spec_ends_where_the_votes_do(story: Story) -> None:
    found = json.loads(story.printed["replay"].splitlines()[-1])
    saved = load_local(story.nodes["val-a"].node.state_dir / LOCAL_FILE, story.specs[0])
    assert saved is not None
    assert (found["window"], found["root"]) == (WINDOWS + 1, saved.state.root.hex())
    assert found["params_digest"] == tensors_digest(saved.state.params).hex()
    assert found["wrong"] == {}
