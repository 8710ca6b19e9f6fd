"""A localnet under attack, in real processes: four kinds of miners and a validator that lies.

Minutes: `make siege`. Every test looks at one and the same run.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from localnet.checks import LUCK
from tests.support.localnet.running import ROOT, TEXT, RunningLocalnet

NUM_WINDOWS = 14
LIMIT_S = 900
LIGHTER = {"inner_steps = 30": "inner_steps = 12", "curve_pages = 1600": "curve_pages = 400"}
"""Of the shipped plan: twelve neurons share the machine."""
HONEST = ("miner-0", "miner-1", "miner-2", "miner-3")
FREE = ("copier-0", "undelivered-0")
PARTIAL = ("overclaimer-0", "magnified-0")
FLAGS = (
    *("--miners", str(len(HONEST)), "--validators", "3", "--windows", str(NUM_WINDOWS)),
    *("--misbehave", "copier:1,overclaimer:1,magnified:1,undelivered:1,liar:1"),
    *("--block-time", "0.4"),
)

pytestmark = [
    pytest.mark.siege,
    pytest.mark.timeout(2 * LIMIT_S),
    pytest.mark.skipif(not TEXT.exists(), reason="the text is not there: run `make text`"),
]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLocalnet]:
    """The run, once it has ended."""
    folder = tmp_path_factory.mktemp("attacked")
    text = (ROOT / "runs" / "localnet.toml").read_text()
    for line, lighter in LIGHTER.items():
        assert line in text
        text = text.replace(line, lighter)
    plan = folder / "plan.toml"
    plan.write_text(text)
    running = RunningLocalnet(folder / "out", *FLAGS, "--plan", str(plan))
    try:
        running.process.wait(LIMIT_S)
        yield running
    finally:
        running.kill_leftovers()


@pytest.fixture(scope="module")
def neurons(net: RunningLocalnet) -> dict[str, dict[str, Any]]:
    """Name -> its part of the report."""
    return {neuron["name"]: neuron for neuron in net.report["neurons"]}


def test_the_run_was_good(net) -> None:
    assert net.process.returncode == 0, net.output
    losses = net.report["held_out_loss"]
    assert losses["last"] < losses["first"]


def test_free_attackers_earn_next_to_nothing(net, neurons) -> None:
    for name in FREE:
        found = neurons[name]["misbehaviour"]
        assert found["kind"] == "free"
        assert found["earned_vs_honest"] <= 0.1, net.output
    assert min(neurons[name]["emission_rao"] for name in HONEST) > 0


def test_who_works_in_part_earns_no_more_than_that(neurons) -> None:
    for name in PARTIAL:
        found = neurons[name]["misbehaviour"]
        assert found["kind"] == "partial"
        assert found["earned_vs_honest"] <= found["may_earn"] * (1 + LUCK)


def test_they_are_refused_for_what_they_do(neurons) -> None:
    assert neurons["copier-0"]["refusals"]["overlap"] >= NUM_WINDOWS // 2
    assert set(neurons["undelivered-0"]["refusals"]) <= {"not_delivered", "unavailable"}
    assert neurons["undelivered-0"]["payloads_committed"] >= NUM_WINDOWS // 2
    assert neurons["undelivered-0"]["payloads_accepted"] == 0


def test_the_liar_is_outvoted_and_named(net, neurons) -> None:
    liar = neurons["liar-0"]
    assert (liar["role"], liar["misbehaviour"]["kind"]) == ("validator", "validator")
    assert "liar-0 (validator) earned" in net.output
    accepted = [len(window["accepted_uids"]) for window in net.report["windows"]]
    assert sum(count >= len(HONEST) - 1 for count in accepted) >= NUM_WINDOWS - 3
