"""A fast part of the attack suite: what bites undefended does not, and only work is paid."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.attacks import report, suite
from benchmarks.attacks.actor import Actor
from benchmarks.attacks.catalogue import ATTACKS, FREE, PARTIAL, Undelivered
from benchmarks.attacks.swarm import BURN_UID, Swarm
from evaluation.work import WorkRules

HONEST, WINDOWS = 4, 14
SMALL = replace(
    suite.Case(attack="", miners=5, attackers=1, seed=1, defended=True).trial,
    rounds=WINDOWS,
)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _play(name: str, *, defended: bool = True) -> Swarm:
    attackers = ATTACKS[name].group(1) if name else [Undelivered()]
    swarm = Swarm(SMALL, [*(Actor() for _ in range(HONEST)), *attackers], defended=defended)
    swarm.play()
    return swarm


@pytest.fixture(scope="module")
def clean() -> Swarm:
    return _play("")


def _paid(swarm: Swarm) -> list[float]:
    return [sum(s.get(uid, 0.0) for s in swarm.outcome.shares) for uid in range(HONEST + 1)]


def test_honest_miners_hold_the_gate_and_are_paid(clean) -> None:
    paid = _paid(clean)
    assert min(paid[:HONEST]) > 0
    assert paid[HONEST] == 0
    first = next(w for w, shares in enumerate(clean.outcome.shares) if set(shares) - {BURN_UID})
    assert first <= 8, "a newcomer's path to its first pay is short"
    assert all(count >= WINDOWS - 3 for uid, count in clean.outcome.named.items())
    for shares in clean.outcome.shares:
        assert sum(shares.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["gaussian", "delayed copy"])
def test_who_does_no_work_earns_nothing_and_costs_nothing(clean, name: str) -> None:
    swarm = _play(name)
    assert _paid(swarm)[HONEST] <= 0.1 * np.mean(_paid(swarm)[:HONEST])
    ratio = swarm.outcome.held_out_loss / clean.outcome.held_out_loss
    assert ratio <= 1.01


def test_an_attack_bites_where_nobody_defends(clean) -> None:
    """Until the model is lost, everybody is paid alike, whatever is sent."""
    swarm = _play("magnitude 1000", defended=False)
    assert swarm.outcome.held_out_loss > 1.02 * clean.outcome.held_out_loss
    assert len(set(np.round(_paid(swarm), 9))) == 1
    assert _paid(swarm)[HONEST] > 0


def test_every_attack_can_be_played_and_says_what_it_may_earn() -> None:
    for name, attack in ATTACKS.items():
        assert 0 <= attack.work <= 1, name
        assert (attack.work > 0) == (attack.kind != FREE), name
        swarm = Swarm(
            replace(SMALL, rounds=2, inner_steps=2, warm_steps=2), [Actor(), *attack.group(2)]
        )
        assert np.isfinite(swarm.play().held_out_loss), name
    assert sum(attack.kind == PARTIAL for attack in ATTACKS.values()) >= 2


def test_the_report_compares_with_the_run_without_attackers(tmp_path) -> None:
    def row(case: suite.Case) -> dict:
        attacked = bool(case.attack)
        return {
            "key": case.key, "held_out_loss": 2.2 if attacked and not case.defended else 2.0,
            "earned": 0.3 if attacked else 0.0, "honest_earned": 4.0, "honest_share": 0.97,
            "windows_to_detection": 3 if case.defended else None, "named": [],
            "samples": {
                "0": [[w, 0.6, 0.05] for w in range(20)], "6": [[w, -0.1, 0.05] for w in range(20)]
            },
        }  # fmt: skip

    cases = [c for c in suite.quick() if c.attack in ("", "gaussian", "half of the steps")]
    rows = {case.key: row(case) for case in cases}
    report.write(cases, rows, WorkRules(effect=0.25, error=0.01), tmp_path, {"commit": "x"})
    written = json.loads((tmp_path / "attacks.json").read_text())
    noise, half = written["attacks"]
    assert (noise["name"], half["class"]) == ("gaussian", "partial")
    assert noise["loss_ratio"]["mean"] == 1.0
    assert noise["undefended"]["loss_ratio"] == pytest.approx(1.1)
    assert noise["earned_vs_honest"] == pytest.approx(0.075)
    assert noise["holds"]
    assert half["limit"] == pytest.approx(0.55)
    assert written["tests"]["copier_false_pass"] == 0.0
    assert written["tests"]["honest_accept_20"] == 1.0
    assert "gaussian" in (tmp_path / "attacks.md").read_text()
    assert (tmp_path / "attacks.png").stat().st_size > 5000


def test_pay_is_counted_from_the_first_dishonest_window() -> None:
    mine = [1.0, 1.0, 1.0, 0.5, 0.0, 0.05, 0.0]
    assert suite._detected(mine, [1.0] * 7, 2) == 2
    assert suite._detected([0.0] * 7, [1.0] * 7, 0) == 0
    assert suite._detected([1.0] * 7, [1.0] * 7, 0) is None
