"""What a run of the attack suite leaves on record, and on which model each class is played."""

import json
import tomllib
from dataclasses import replace

import pytest
import torch

from benchmarks.attacks import suite
from benchmarks.attacks.swarm import Swarm
from benchmarks.learning.workers import PLAN


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_row_keeps_what_pay_rests_on(tmp_path, monkeypatch) -> None:
    """Samples and claims of the record are those of the run, to the digits that it keeps."""
    monkeypatch.setattr(suite, "WINDOWS", 5)
    case = suite.Case(attack="half of the steps", miners=3, attackers=1, seed=1, defended=True)
    played: list[Swarm] = []
    make = suite.Case.swarm

    def kept(case: suite.Case) -> Swarm:
        played.append(make(case))
        return played[0]

    monkeypatch.setattr(suite.Case, "swarm", kept)
    row = json.loads(json.dumps(suite.play(case)))
    samples = suite.samples_of(row, range(3))
    for uid, career in enumerate(samples):
        entries = played[0].histories[str(uid)]
        assert len(career) == len(entries) == 5
        for sample, entry in zip(career, entries.values(), strict=True):
            assert entry.work is not None
            assert sample.effect == pytest.approx(entry.work.effect, rel=1e-7)
            assert sample.page_square == pytest.approx(entry.work.page_square, rel=1e-7)
    assert [v.pages_consumed for v in suite.verdicts_in(row)[2]] == [120, 120, 64]
    shares = suite.shares_in(case, row)
    paid = played[0].outcome.shares
    assert max(max(window) for window in shares) > 0.3, "somebody is paid by then"
    for mine, theirs in zip(shares, paid, strict=True):
        assert mine == pytest.approx([theirs.get(uid, 0.0) for uid in range(3)], abs=1e-4)


def test_the_class_of_an_attack_says_the_model_and_its_evidence() -> None:
    by_model = {case.model: case for case in suite.quick() if case.defended and case.attack}
    weak, strong = by_model[suite.WEAK], by_model[suite.STRONG]
    assert weak.key != replace(weak, model=suite.STRONG).key
    assert strong.undefended.model == suite.WEAK
    plan = strong.swarm().workers.spec
    assert plan.model.hidden_size == 64
    shown = suite.SETTINGS[suite.STRONG]
    localnet = tomllib.loads(PLAN.read_text())["evaluation"]
    assert (shown.claimed_pages, shown.work_effect) == (
        localnet["claimed_pages"], localnet["work_effect"],
    )  # fmt: skip
