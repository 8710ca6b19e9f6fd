"""The benchmark of unequal machines: virtual time, tokens, and the learning benchmark's own run."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from benchmarks.learning.contenders import OURS, SYNCHRONOUS, load_rates, tuned
from benchmarks.learning.strategies.ours import Ours
from benchmarks.learning.trial import Trial
from benchmarks.learning.workers import Workers
from benchmarks.pace import report, suite
from benchmarks.pace.machines import Machine, Race
from benchmarks.pace.parts import names_of
from benchmarks.pace.race import Course, Round
from template.errors import ConfigError

SMALL = {"model": "tiny", "inner_steps": 3, "batch_pages": 1, "warmup_steps": 2}


def small(name: str = OURS, miners: int = 3, windows: int = 4) -> Trial:
    trial = tuned(name, load_rates(), miners=miners, **SMALL)
    return replace(trial, rounds=windows, warm_steps=2)


def run(machines: Sequence[Machine], windows: int = 4, **changes: object) -> Course:
    trial = small(miners=len(machines), windows=windows)
    course = Course(Race(trial=trial, machines=tuple(machines), **changes))  # type: ignore[arg-type]
    params_N = course.workers.theta0()
    for number in range(windows):
        params_N = course.window(number, params_N)
    course.finish(params_N)
    return course


@pytest.mark.parametrize("name", [OURS, SYNCHRONOUS])
def test_equal_machines_are_the_learning_benchmarks_contender(name):
    trial = small(name)
    workers, course = Workers(trial), Course(Race(trial=trial, machines=(Machine(),) * 3))
    rule = Ours(workers)
    theirs_N, ours_N = workers.theta0(), course.workers.theta0()
    for number in range(trial.rounds):
        theirs_N = rule.round(number, theirs_N)
        ours_N = course.window(number, ours_N)
        assert torch.equal(theirs_N, ours_N)
    assert torch.equal(rule.finish(theirs_N), course.finish(ours_N))


def test_a_slow_machine_sends_a_whole_payload_every_so_many_windows():
    slow = Machine(speed=0.25, windows=4, first=1)
    course = run([Machine(), slow], windows=9)
    assert [account.payloads for account in course.accounts] == [9, 2]  # in windows 4 and 8
    assert [account.sent for account in course.accounts] == [27, 6]
    assert math.isclose(course.accounts[1].busy, 8.0)


def test_a_part_of_the_steps_adds_up_to_the_machines_speed():
    course = run([Machine(), Machine(speed=0.25, share=0.25)], windows=8)
    assert [account.payloads for account in course.accounts] == [8, 8]
    assert [account.sent for account in course.accounts] == [24, 6]


def test_a_wide_machine_trains_more_pages_in_the_same_windows():
    course = run([Machine(speed=4, width=4), Machine()])
    assert [account.sent for account in course.accounts] == [48, 12]
    assert [round(account.busy, 9) for account in course.accounts] == [4, 4]


def test_a_machine_that_is_away_sends_nothing():
    course = run([Machine(absent_every=3), Machine()], windows=6)
    assert [account.payloads for account in course.accounts] == [4, 6]


def test_a_round_is_due_by_the_clock():
    place_N = torch.zeros(1)
    one = Round(start_N=place_N, place_N=place_N, base=2, since=2, duration=4.0, steps=15)
    assert [one.due(time) for time in (2, 2 + 1 / 3, 3, 6, 9)] == [0, 1, 3, 15, 15]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="windows"):
        Machine(speed=0.25)
    with pytest.raises(ConfigError, match="machines"):
        Race(trial=small(), machines=(Machine(),))


def test_weights_are_shares_of_the_sum():
    wide = run([Machine(speed=4, width=4), Machine()], weighting="pages")
    assert wide.rule.shares == [1.6, 0.4]
    liar = run([Machine(claims=4), Machine()], weighting="root")
    assert liar.rule.shares == pytest.approx([4 / 3, 2 / 3])
    assert [account.sent for account in liar.accounts] == [12, 12]


def test_a_stale_payload_weighs_less_unless_its_base_is_the_window():
    slow = Machine(speed=0.5, windows=2)
    shares = run([Machine(), slow], staleness_decay=0.5).rule.shares
    assert shares == [1.0, 0.5]


def test_a_machine_that_never_moves_ends_elsewhere():
    ends = [
        run([Machine(), Machine(speed=0.5, windows=2, moves=moves)]).rule.residual_RN
        for moves in (True, False)
    ]
    assert torch.equal(ends[0][0], ends[1][0]) is False
    assert not torch.equal(ends[0][1], ends[1][1])


def test_parts_cover_the_model_once_and_a_part_leaves_the_rest_alone():
    shapes = Workers(replace(small(), model="deep")).space.shapes
    parts = [names_of(shapes, (part, 4)) for part in range(4)]
    assert all(parts)
    assert sorted(name for part in parts for name in part) == sorted(shapes)
    trial = replace(small(miners=2), model="deep")
    course = Course(Race(trial=trial, machines=(Machine(parts=4),) * 2))
    before_N = course.workers.theta0()
    course.window(0, before_N)
    after_N = course.finish(before_N)
    held = {name for one in course.sent_last for name in one.message.tensors}
    before, after = course.workers.space.views(before_N), course.workers.space.views(after_N)
    for name in shapes:
        assert torch.equal(before[name], after[name]) is (name not in held)


def test_pay_changes_nothing_else():
    machines = [Machine(speed=2, width=2), Machine(), Machine()]
    free, paid = run(machines, windows=6), run(machines, windows=6, pays=True)
    assert torch.equal(free.rule.residual_RN, paid.rule.residual_RN)
    assert not free.paid()
    assert len(paid.paid()["pay"]) == 3


def test_a_later_field_leaves_old_keys_alone():
    one = Race(trial=small(), machines=(Machine(),) * 3)
    assert one.key == replace(one, staleness_decay=1.0).key
    assert one.key != replace(one, staleness_decay=0.5).key
    assert one.key != replace(one, machines=(Machine(), Machine(), Machine(claims=2))).key


def test_the_modes_of_a_case_train_as_many_batches():
    for case in suite.SPEEDS:
        batches = []
        for group in suite.pace_case(case, 1):
            (race,) = group.races
            windows = race.trial.rounds
            payloads = sum(
                machine.width
                * machine.share
                * (1 - (1 / machine.absent_every if machine.absent_every else 0))
                * windows
                / machine.windows
                for machine in race.machines
            )
            batches.append(payloads)
        assert max(batches) / min(batches) < 1.02, (case, batches)


def test_time_to_a_loss_is_read_between_points():
    curve = [(0, 3.0), (2, 2.0), (4, 1.0)]
    assert report.time_to(curve, 1.5) == 3
    assert report.time_to(curve, 3.0) == 0
    assert report.time_to(curve, 0.5) == math.inf


def test_every_group_compares_with_one_that_exists():
    groups = suite.everything(1)
    for group in groups:
        assert report.find(groups, group.section, group.case, group.over), group.label


def test_a_machine_that_waits_or_is_left_out_is_not_at_work():
    outcome = {"busy": [1.0] * 5}
    by_label = {group.label: group for group in suite.pace_case(suite.SPREAD, 1)}
    waits = report.utilisation(by_label[suite.BARRIER], {1: outcome})
    left_out = report.utilisation(by_label[suite.DROP], {1: outcome})
    assert waits == [1.0, 0.5, 0.2, 0.1, 0.1, 0.05, 0.02, 0.01]
    assert left_out == [0.0, 0.0, 0.0, 1.0, 1.0, 0.5, 0.2, 0.1]
