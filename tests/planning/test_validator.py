"""A validator's window: its budget in blocks, what fits into it, and what comes after the votes."""

import pytest

from template.planning import validator
from template.planning.hardware import Line
from template.planning.validator import forward_s, pool_pages, validator_window
from template.protocol.holders import HOLDERS

WIDE = Line(up_mbps=100_000.0, down_mbps=100_000.0)


def _named(window):
    return {phase.name: phase for phase in window.phases}


def test_the_budget_is_the_schedules(case_of) -> None:
    window = validator_window(case_of("72b"))
    assert window.budget_s == (115 - 20 - 20 - 2) * 12
    assert window.after_s == (20 + 20) * 12


def test_the_pool_is_the_spec_s(case_of) -> None:
    assert pool_pages(case_of("150m")) == 64 + 20 * 128
    assert pool_pages(case_of("72b")) == 16 + 16 * 16
    assert pool_pages(case_of("150m", peers=1)) == 64 + 128


def test_a_forward_pass_takes_a_third_of_a_training_step_in_float32(case_of) -> None:
    case = case_of("8b")
    active = case.parameters - 128256 * 4096
    flops = (2 * active + 4 * 32 * 4096 * 2048) * 2048 * 10
    assert forward_s(case, 10) == pytest.approx(flops / (8 * 75e12 * 0.65))


def test_with_time_for_all_every_payload_is_scored_and_named_before_the_vote(case_of) -> None:
    case = case_of("150m", "h100", 1, line=WIDE)
    window = validator_window(case)
    assert (case.drawn, window.num_scored, window.num_named) == (20, 20, 20)
    before = (validator.FETCH, validator.OVERLAP, validator.LOAD, validator.SCORE,
              validator.UPLOAD, validator.VOTE)  # fmt: skip
    assert sum(_named(window)[name].blocking_s for name in before) < window.budget_s
    assert _named(window)[validator.UPLOAD].up_bytes == 8 * case.payload_bytes
    assert _named(window)[validator.LOOK].down_bytes == 12 * case.payload_bytes
    assert window.is_published
    assert window.follows_in_time


def test_more_miners_than_are_drawn_are_read_a_window_later(case_of) -> None:
    case = case_of("150m", "h100", 1, peers=40, line=WIDE)
    assert case.drawn == 32
    assert _named(validator_window(case))[validator.FETCH].down_bytes == 40 * case.payload_bytes


def test_a_narrow_line_limits_what_is_fetched_and_what_is_named(case_of) -> None:
    narrow_down = validator_window(case_of("72b", line=Line(up_mbps=1e5, down_mbps=100.0)))
    one_s = 1_438_608_332 * 8 / 100e6
    fetched_s = _named(narrow_down)[validator.FETCH].seconds
    assert fetched_s <= 0.5 * narrow_down.budget_s
    assert fetched_s / one_s == pytest.approx(round(fetched_s / one_s))
    narrow_up = validator_window(case_of("72b", line=Line(up_mbps=12.0, down_mbps=1e5)))
    assert narrow_up.num_named == 0 < narrow_up.num_scored
    alone = validator_window(
        case_of("72b", line=Line(up_mbps=110.0, down_mbps=500.0), validators=3)
    )
    shared = validator_window(case_of("72b", line=Line(up_mbps=110.0, down_mbps=500.0)))
    assert alone.num_named < alone.num_scored
    assert shared.num_named == shared.num_scored > alone.num_named
    assert _named(narrow_up)[validator.UPLOAD].seconds == 0


def test_a_checkpoint_is_shared_by_three_holders(case_of) -> None:
    few, many = (
        _named(validator_window(case_of("8b", validators=number)))[validator.PUBLISH].up_bytes
        for number in (1, 32)
    )
    case = case_of("8b")
    assert few == case.checkpoint_bytes / 16
    assert many == pytest.approx(few * HOLDERS / 32)


def test_the_checkpoint_has_the_line_when_no_named_payload_has(case_of) -> None:
    case = case_of("72b", line=Line(up_mbps=110.0, down_mbps=500.0))
    window = validator_window(case)
    busy_s = _named(window)[validator.UPLOAD].seconds + _named(window)[validator.VOTE].seconds
    assert window.checkpoint_room_s == pytest.approx(16 * (case.window_s - busy_s))
    assert _named(window)[validator.PUBLISH].blocking_s == 0
    assert window.is_published


def test_a_share_that_is_not_out_before_the_next_checkpoint_shows(case_of) -> None:
    slow = validator_window(case_of("8b", line=Line(up_mbps=1.0, down_mbps=500.0)))
    assert not slow.is_published
    assert slow.checkpoint_s > slow.checkpoint_room_s


def test_all_but_the_last_payload_are_measured_while_payloads_come(case_of) -> None:
    case = case_of("150m", "h100", 1, line=Line(up_mbps=1000.0, down_mbps=10.0))
    score = _named(validator_window(case))[validator.SCORE]
    fetch = _named(validator_window(case))[validator.FETCH]
    assert score.hidden_s == pytest.approx(min(fetch.seconds, score.seconds))
    slower = case_of("150m", "h100", 1, line=Line(up_mbps=1000.0, down_mbps=4.0))
    fetched = _named(validator_window(slower))
    assert fetched[validator.SCORE].hidden_s < fetched[validator.SCORE].seconds
    at_once = _named(validator_window(case_of("150m", "h100", 1, line=WIDE)))
    assert at_once[validator.SCORE].hidden_s == at_once[validator.FETCH].seconds


def test_theta_is_saved_once_a_window(case_of) -> None:
    case = case_of("72b")
    saved = _named(validator_window(case))[validator.SAVE].seconds
    assert saved == case.write_s(validator.ROLE, case.params_bytes)
