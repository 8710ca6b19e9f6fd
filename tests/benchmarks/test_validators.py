"""The benchmark of validators' dividends: what copying costs, and what it cannot cost."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.validators import report, suite, weak
from benchmarks.validators.chain import YUMA, run_epochs
from benchmarks.validators.crowd import (
    MAX_SHARE,
    Crowd,
    Rule,
    duelled,
    guessed_weights,
    last_window,
    modelled_crowd,
    weights,
)
from benchmarks.validators.played import PlayedCrowd, facts_of, shipped_rules
from benchmarks.validators.roles import ROLES, Scene, honest_rows
from evaluation.history import Entry
from evaluation.weights import chain_weights

EPOCHS, FIRST = 40, 20
NOISE = 0.3


def crowd_of(noise: float = NOISE, *, is_equal: bool = True, seed: int = 1) -> Crowd:
    return modelled_crowd(8, is_equal=is_equal, noise=noise, num_windows=4 * EPOCHS, seed=seed)


def dividends(
    role: str, crowd: Crowd, rule: Rule, *, yuma: str = "yuma 3", stake: float = 0.25
) -> float:
    rows = [honest_rows(crowd.measured_by(v), rule) for v in (1, 2, 3)]
    scene = Scene(crowd=crowd, rule=rule, honest=rows[0])
    honest = list(map(list, zip(*rows, strict=True)))
    course = run_epochs(honest, ROLES[role](scene), stake, YUMA[yuma])
    return course.relative_dividends(FIRST)


@pytest.mark.parametrize("yuma", YUMA)
@pytest.mark.parametrize("rule", suite.RULES.values(), ids=suite.RULES)
@pytest.mark.parametrize("role", ["honest", "chain, in the clear", "log at once"])
def test_who_knows_the_weights_of_the_epoch_earns_as_an_honest_validator(role, rule, yuma):
    assert dividends(role, crowd_of(), rule, yuma=yuma) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("yuma", YUMA)
@pytest.mark.parametrize("role", sorted(set(ROLES)))
def test_with_constant_weights_nothing_costs(role, yuma):
    crowd = crowd_of(noise=0.0)
    assert dividends(role, crowd, Rule(account=4), yuma=yuma) == pytest.approx(1.0, abs=1e-3)


def test_a_constant_row_costs_where_work_is_unequal():
    crowd = crowd_of(noise=0.0, is_equal=False)
    assert dividends("constant row", crowd, Rule(account=4)) < 0.9
    assert dividends("chain, 2 epochs late", crowd, Rule(account=4)) > 0.995


def test_a_late_copy_loses_the_distance_of_neighbouring_rows():
    """Clipping takes what exceeds the consensus: half of the absolute difference of two rows."""
    crowd, rule = crowd_of(), Rule(account=4)
    rows_EM = np.array(honest_rows(crowd, rule))
    distance = np.abs(rows_EM[FIRST:] - rows_EM[FIRST - 1 : -1]).sum(axis=1).mean() / 2
    earned = dividends("chain, 1 epoch late", crowd, rule, stake=0.05)
    assert distance > 0.05
    assert earned == pytest.approx(1 - distance, abs=0.015)


def test_short_accounts_and_noise_cost_a_copier_more():
    def earned(account: int, noise: float) -> float:
        return dividends("chain, 1 epoch late", crowd_of(noise), Rule(account=account))

    assert earned(16, 0.3) > earned(4, 0.3) > earned(1, 0.3)
    assert earned(4, 0.05) > earned(4, 0.3) > earned(4, 0.6)


def test_an_account_shorter_than_an_epoch_need_not_be_earned_in_full():
    role = "a quarter of the windows"
    assert dividends(role, crowd_of(), Rule(account=1)) == pytest.approx(1.0, abs=2e-3)
    assert dividends(role, crowd_of(), Rule(account=4)) < 0.95


@pytest.mark.parametrize("yuma", YUMA)
@pytest.mark.parametrize("stake", [0.05, 0.4])
def test_duels_cost_a_copier_whatever_the_noise(yuma, stake):
    rule = Rule(account=16, duel=0.5)
    for role in ("mean of the chain, 1 epoch late", "log at the next epoch", "constant row"):
        earned = dividends(role, crowd_of(noise=0.05), rule, yuma=yuma, stake=stake)
        assert 0.65 < earned < 0.85, role
    assert dividends("a quarter of the windows", crowd_of(), rule, yuma=yuma, stake=stake) < 0.9


def test_an_honest_validator_out_of_step_loses_by_duels():
    rule = Rule(account=16, duel=0.5)
    assert dividends("honest, 3 windows early", crowd_of(), rule) < 0.9
    assert dividends("honest, 1 window early", crowd_of(), rule) < 0.95


def test_a_duel_moves_a_part_of_the_smaller_share():
    shares_M, order_M = np.array([0.3, 0.2, 0.4, 0.1]), np.array([0, 1, 2, 3])
    after_M = duelled(shares_M, np.array([1.0, -1.0, -1.0, 1.0]), order_M, 0.5, 0.01)
    assert after_M == pytest.approx([0.4, 0.1, 0.35, 0.15])
    back_M = duelled(shares_M, np.array([-1.0, 1.0, 1.0, -1.0]), order_M, 0.5, 0.01)
    assert (after_M + back_M) / 2 == pytest.approx(shares_M)


def test_a_duel_of_equal_tilts_moves_nothing():
    shares_M = np.array([0.3, 0.3, 0.4])
    order_M = np.array([2, 1, 0])
    assert duelled(shares_M, np.zeros(3), order_M, 1.0, 0.01) == pytest.approx(shares_M)
    half_M = duelled(shares_M, np.array([0.0, 0.0, 0.005]), order_M, 1.0, 0.01)
    room = MAX_SHARE - 0.4
    assert half_M == pytest.approx([0.3, 0.3 - room / 2, 0.4 + room / 2])


def test_duels_leave_shares_within_their_bounds():
    rng = np.random.default_rng(1)
    for _ in range(200):
        shares_M = rng.dirichlet(np.full(5, 0.5))
        shares_M = np.minimum(shares_M, MAX_SHARE)
        after_M = duelled(shares_M, rng.standard_normal(5), rng.permutation(5), 1.0, 0.01)
        assert after_M.sum() == pytest.approx(shares_M.sum())
        assert after_M.min() >= -1e-12
        assert after_M.max() <= MAX_SHARE + 1e-12


def test_duels_are_fair_on_average():
    crowd = modelled_crowd(8, is_equal=False, noise=0.0, num_windows=8000, seed=3)
    rule = Rule(account=1, duel=1.0)
    known_W = np.ones(crowd.num_windows, dtype=np.bool_)
    rows_EM = np.array(
        [weights(crowd, rule, last_window(e), known_W) for e in range(crowd.num_epochs)]
    )
    error_M = rows_EM.std(axis=0) / np.sqrt(len(rows_EM))
    assert error_M.min() > 0
    assert (np.abs(rows_EM.mean(axis=0) - crowd.shares_WM[0]) < 4 * error_M).all()


def test_a_guess_fills_unknown_windows_with_the_mean_of_known_ones():
    shares_WM = np.array([[0.2, 0.8], [0.4, 0.6], [0.9, 0.1], [0.5, 0.5]])
    crowd = Crowd(shares_WM=shares_WM, tilts_WM=np.zeros((4, 2)), seed=1)
    known_W = np.array([True, True, False, False])
    assert guessed_weights(crowd, Rule(account=3), 3, known_W) == pytest.approx([1 / 3, 2 / 3])
    assert weights(crowd, Rule(account=3), 3, known_W) == pytest.approx([0.4, 0.6])
    assert weights(crowd, Rule(account=1), 3, known_W) == pytest.approx([0.3, 0.7])
    nothing_W = np.zeros(4, dtype=np.bool_)
    assert weights(crowd, Rule(account=1), 3, nothing_W) == pytest.approx([0.5, 0.5])
    assert guessed_weights(crowd, Rule(account=1), 3, nothing_W) == pytest.approx([0.5, 0.5])


def test_a_rule_has_an_account_and_a_part():
    for wrong in ({"account": 0}, {"account": 1, "duel": 1.5}, {"account": 1, "duel": -0.1}):
        with pytest.raises(ValueError, match="account of 1 window"):
            Rule(**wrong)


def played(windows: int = 48) -> PlayedCrowd:
    """Drops like those of a swarm: eight miners, one with half of the gain."""
    rng = np.random.default_rng(5)
    usual_M = np.array([0.5, *[1.0] * 7])
    gains_WM = 1e-3 * (usual_M + 0.3 * rng.standard_normal((windows, 8)))
    drops_WMS = gains_WM[:, :, None] + 4e-3 * rng.standard_normal((windows, 8, 64))
    return PlayedCrowd.of(drops_WMS, shipped_rules(), 5)


def test_a_played_account_is_the_pay_of_a_validator():
    crowd = played()
    known_W = np.ones(crowd.num_windows, dtype=np.bool_)
    histories = {
        uid: {w: Entry(relative_gain=float(crowd.shares_WM[w, uid]), pages=1) for w in range(40)}
        for uid in range(8)
    }
    shares = chain_weights(histories, range(8), 39, shipped_rules(), None)
    account_M = crowd.account(16, 39, known_W)
    total = sum(shares.values())
    assert account_M == pytest.approx([shares.get(uid, 0.0) / total for uid in range(8)])
    assert account_M[0] < account_M[1:].mean() / 2
    assert crowd.account(16, 1, known_W) == pytest.approx(np.full(8, 1 / 8)), "nobody is paid yet"
    assert crowd.guessed_account(16, 47, np.arange(48) < 40) == pytest.approx(account_M)


def test_honest_validators_of_a_played_crowd_agree():
    crowd = played()
    one, two = crowd.measured_by(1), crowd.measured_by(2)
    assert not np.array_equal(one.drops_WMS, two.drops_WMS)
    for duel in (0.0, 0.5):
        rule = Rule(account=16, duel=duel)
        first_EM, second_EM = np.array(honest_rows(one, rule)), np.array(honest_rows(two, rule))
        assert np.abs(first_EM - second_EM).sum(axis=1).mean() / 2 < 0.01


def test_facts_of_a_played_crowd():
    facts = facts_of(played())
    assert facts["gain"] == pytest.approx([15 / 16 * 1e-3] * 3, rel=0.1)
    assert all(0.3 < noise < 1.2 for noise in facts["noise"])
    assert abs(facts["tilt_correlation"]) < 0.2
    assert np.mean(facts["tilt_above_0"]) == pytest.approx(0.5, abs=0.1)


def test_pay_counts_errors_and_days():
    pay_EM = np.tile([[0.2, 0.8], [0.4, 0.6]], (20, 1))
    pay = suite.pay_of(pay_EM, np.array([0.3, 0.7]))
    assert pay["error"] == pytest.approx(0.0, abs=1e-12)
    assert pay["per_day"] == pytest.approx(0.0, abs=1e-12)
    assert pay["per_epoch"] > 0.2
    assert "per_day" not in suite.pay_of(pay_EM[:20], np.array([0.3, 0.7]))


def test_the_suite_and_its_table():
    cases = list(suite.cases(quick=False))
    assert len(set(cases)) == len(cases)
    assert set(suite.cases(quick=True)) < set(cases)
    short = replace(cases[0], rule="4 windows")
    row = suite.measure(short, seeds=(1,))
    text = report.text_of([row], [], [])
    assert all(role in text for role in ROLES)
    assert f"{row['dividends']['constant row']['mean']:.3f}" in text
    assert row["dividends"]["honest"]["mean"] == pytest.approx(1.0, abs=2e-3)


def test_half_of_the_gain_is_paid_less_and_duels_leave_it_so(monkeypatch):
    monkeypatch.setattr(weak, "SEEDS", (1, 2, 3))
    monkeypatch.setattr(weak, "PAGE_NOISES", (12.0,))
    rows = {row["rule"]: row for row in weak.measure_weak()}
    assert rows["16 windows"]["more"] == 0
    assert all(0 < row["pay"] < 0.75 for row in rows.values())
    assert rows["16 windows"]["epochs_with_unpaid"] < rows["4 windows"]["epochs_with_unpaid"]
    assert abs(rows["16 windows, duels of 1/2"]["more"]) < 0.05
    assert report.text_of([], [], list(rows.values())).count("\n") == 3 + len(rows)
