"""The rules that ours is compared with, beside loops over coordinates; the tables' arithmetic."""

import json
import math
import statistics
from dataclasses import asdict, replace

import pytest
import torch

from benchmarks.attacks import rules
from benchmarks.attacks.actor import Actor
from benchmarks.attacks.aggregation import (
    RULES,
    OursWith,
    geometric_median,
    median_of_all,
    median_of_senders,
    trimmed_of_all,
)
from benchmarks.attacks.suite import CLEAN
from benchmarks.attacks.swarm import Swarm
from benchmarks.learning.messages import SparseCodec
from benchmarks.learning.strategies.mean import Mean
from benchmarks.learning.trial import Trial
from benchmarks.learning.workers import Workers

R, N = 7, 400
SMALL = Trial(strategy="ours", lag=0, model="tiny", miners=R, rounds=2, min_divisor=4)


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Payloads with a value in three of ten places, a zero among the values sent."""
    generator = torch.Generator().manual_seed(5)
    sent_RN = torch.rand(R, N, generator=generator) < 0.3
    rows_RN = torch.randn(R, N, generator=generator) * sent_RN
    rows_RN[0, sent_RN[0].nonzero()[0]] = 0.0
    return rows_RN, sent_RN


def _trimmed(values: list[float], cut: int) -> float:
    return statistics.fmean(sorted(values)[cut : len(values) - cut])


def _columns(rows_RN, sent_RN):
    for n in range(N):
        everyone = rows_RN[:, n].tolist()
        yield everyone, [v for v, s in zip(everyone, sent_RN[:, n].tolist(), strict=True) if s]


def test_medians_and_trimmed_means_are_those_of_each_coordinate(rows) -> None:
    columns = list(_columns(*rows))
    naive = {
        median_of_all: [statistics.median(v) for v, _ in columns],
        median_of_senders: [statistics.median(s) if s else 0.0 for _, s in columns],
        trimmed_of_all: [_trimmed(v, 2) for v, _ in columns],
    }
    assert {len(s) for _, s in columns} >= {0, 1, 2, 3, 4, 5}
    for combine, expected in naive.items():
        assert torch.allclose(combine(*rows), torch.tensor(expected), atol=1e-6), combine
    zeros = [float((median(*rows) == 0).float().mean()) for median in naive]
    assert zeros[0] > 0.8 > 0.2 > zeros[1], "of all R nearly nothing is left"


def test_the_geometric_median_is_near_the_least_sum_of_distances(rows) -> None:
    rows_RN, sent_RN = rows
    rows_RN = torch.cat([rows_RN, 1e4 * torch.ones(1, N)])
    found_N = geometric_median(rows_RN, sent_RN)

    def distances(centre_N) -> float:
        return float((rows_RN.double() - centre_N.double()).norm(dim=1).sum())

    least = distances(found_N)
    assert least < distances(rows_RN.mean(dim=0)) - 1e3
    assert float(found_N.norm()) < 2 * float(rows_RN[:-1].norm(dim=1).max())
    for row in rows_RN:
        assert least < distances(found_N + 0.05 * (row - found_N)) + 1e-2 * least


@pytest.mark.slow
def test_every_rule_moves_the_parameters_and_a_huge_payload_moves_ours_little() -> None:
    workers = Workers(SMALL)
    codec = SparseCodec(workers.space, SMALL.top_k, 0.0)
    generator = torch.Generator().manual_seed(1)
    theta = workers.theta0()

    def payload(scale: float):
        delta_N = torch.randn(theta.shape, generator=generator) * scale
        return codec.send(delta_N, torch.zeros_like(theta), 1)

    honest = [payload(1e-4) for _ in range(R - 1)]
    attacked = [*honest, payload(10.0)]
    moved = {}
    for name, rule in RULES.items():
        steps = [rule.make(workers).merge(theta, sent, 1.0) - theta for sent in (honest, attacked)]
        assert float(steps[0].norm()) > 0 or name in ("median", "trimmed mean"), name
        moved[name] = float(steps[1].norm()) / max(1e-12, float(steps[0].norm()))
    assert moved["ours"] < 2.0
    assert min(moved["mean"], moved["mean over senders"]) > 1e3


def test_attackers_of_one_coldkey_share_its_part() -> None:
    workers = Workers(SMALL)
    codec = SparseCodec(workers.space, SMALL.top_k, 0.0)
    generator = torch.Generator().manual_seed(1)
    theta = workers.theta0()
    sent = [
        codec.send(torch.randn(theta.shape, generator=generator), torch.zeros_like(theta), 1)
        for _ in range(R)
    ]

    def length_of_last(together: int) -> float:
        after = OursWith(workers, share=0.15, together=together).merge(theta, sent, 1.0)
        where = sent[-1].dense != 0
        for message in sent[:-1]:
            where &= message.dense == 0
        return float((after - theta)[where].norm())

    apart, together = length_of_last(0), length_of_last(4)
    assert together == pytest.approx(apart * math.sqrt(3 / 4), rel=0.03)


def test_the_tables_are_over_our_clean_run_at_the_best_rates() -> None:
    best = {name: rule.alphas[-1] for name, rule in RULES.items()}
    rows = {}
    for seed in (1, 2):
        for case in rules.tuning_cases([seed]):
            loss = 2.0 if case.alpha == best[case.rule] else 2.5
            rows[case.key] = {"held_out_loss": loss + 0.1 * seed}
        for case in rules.attack_cases(best, [seed]):
            loss = 4.6 if case.rule == "mean" else 2.3
            rows[case.key] = {"held_out_loss": loss}
    assert rules.best_alphas(rows, (1, 2)) == best
    content = rules.results(rows, (1, 2))
    assert content["clean_loss"] == pytest.approx(2.15)
    assert content["rules"]["no attack"]["ours"] == pytest.approx(1.0)
    assert content["rules"]["sign flip"]["mean"] == pytest.approx(4.6 / 2.15)
    assert content["caps"]["magnitude 10"]["cap 0.25"] == pytest.approx(2.3 / 2.15)
    assert content["evaluated"]["magnitude 1000"]["ours"] == pytest.approx(2.3 / 2.15)
    json.dumps(content)
    text = rules.markdown(content)
    assert "| sign flip | 1.070 |" in text
    assert "nan" not in text


def test_every_case_has_a_key_of_its_own() -> None:
    best = {name: rule.alphas[0] for name, rule in RULES.items()}
    cases = [*rules.tuning_cases([1]), *rules.attack_cases(best, [1])]
    assert len({case.key for case in cases}) == len(cases)
    assert {case.attack for case in cases} >= {CLEAN, *rules.SHOWN, rules.UNEQUAL}
    case = next(c for c in cases if c.evaluated)
    assert case.key != replace(case, evaluated=False).key
    assert asdict(case)["rule"] == "ours"


@pytest.mark.slow
def test_scores_know_the_norms_that_the_step_knows() -> None:
    trial = replace(SMALL, rounds=1, inner_steps=1, miners=2)
    make = rules.CAPS["cap 0.4"].make
    swarm = Swarm(trial, [Actor(), Actor()], rule=make)
    assert swarm._rule is swarm.panel._ours
    swarm.play()
    assert swarm.panel._ours._state.accepted_norms
    other = Swarm(trial, [Actor(), Actor()], rule=RULES["median"].make)
    assert other._rule is not other.panel._ours
    assert type(Swarm(trial, [Actor()], defended=False)._rule) is Mean
