"""A miner's window: naive arithmetic at the plans' shapes, and what blocks as the code has it."""

from dataclasses import replace

import pytest

from template.base.deadline import COMMIT_MARGIN_BLOCKS
from template.planning import miner
from template.planning.hardware import Line
from template.planning.miner import changes, miner_window
from template.planning.phases import INNER_STEPS, Phase, blocking_s, hide
from template.scoring.window import FETCH_SHARE
from template.training.model import payload_bytes


def _named(window):
    return {phase.name: phase for phase in window.phases}


def test_bytes_and_seconds_over_the_line_are_the_plans_payload_at_the_lines_rate(case_of) -> None:
    case = case_of("72b")
    phases = _named(miner_window(case))
    length = payload_bytes(case.spec)
    assert phases[miner.UPLOAD].up_bytes == length == 1_438_608_338
    assert phases[miner.UPLOAD].seconds == length * 8 / 110e6
    assert case.accepted == 16, "evaluation.max_payloads are read, so no more are accepted"
    assert phases[miner.FETCH].down_bytes == 15 * length
    assert phases[miner.FETCH].seconds == 15 * length * 8 / 500e6


def test_the_inner_steps_take_their_operations_at_the_assumed_share_of_the_peak(case_of) -> None:
    case = case_of("72b")
    tokens = 30 * 192 * 2048
    active = case.parameters - 262144 * 8192  # the head multiplies, the embedding does not
    flops = tokens * (6 * active + 12 * 80 * 8192 * 2048)
    expected = flops / (8 * 2250e12 * 0.4)
    assert miner_window(case).steps_s == pytest.approx(expected)


def test_training_takes_what_blocking_phases_leave(case_of) -> None:
    window = miner_window(case_of("150m", "rtx4090", 1))
    others = [phase for phase in window.phases if phase.name != INNER_STEPS]
    assert window.room_s == window.window_s - sum(phase.blocking_s for phase in others)
    assert window.training_s == window.steps_s < window.room_s
    assert window.utilisation == window.steps_s / 1200
    assert window.utilisation < window.utilisation_limit < 1.0
    assert window.done_share == 1.0
    assert _named(window)[INNER_STEPS].seconds == window.training_s


def test_a_slow_machine_does_a_part_of_the_steps(case_of) -> None:
    window = miner_window(case_of("150m", "cpu", 1))
    assert window.training_s == window.room_s < window.steps_s
    assert window.done_share == window.room_s / window.steps_s
    assert window.utilisation == window.utilisation_limit


def test_what_the_thread_that_trains_does_blocks_and_the_other_lanes_pass_beside(case_of) -> None:
    phases = _named(miner_window(case_of("8b")))
    blocking = (
        miner.LOAD, miner.PREVIEW, miner.MOVE, miner.SUBTRACT, miner.COPY, miner.ENCODE,
    )  # fmt: skip
    beside = (
        miner.FINALITY, miner.UPLOAD, miner.FETCH, miner.OPEN, miner.STEP, miner.DIGEST,
        miner.ANCHOR, miner.SAVE_BEFORE, miner.COMMIT, miner.SAVE_AFTER, miner.PAGES,
    )  # fmt: skip
    assert all(phases[name].blocking_s == phases[name].seconds > 0 for name in blocking)
    assert all(phases[name].is_hidden and phases[name].seconds > 0 for name in beside)
    assert set(phases) == {*blocking, *beside, miner.WAIT, INNER_STEPS}


def test_on_a_cpu_training_rests_while_a_theta_is_made_or_the_moments_are_written(case_of) -> None:
    phases = _named(miner_window(case_of("150m", "cpu", 1)))
    for name in (miner.STEP, miner.SAVE_BEFORE, miner.SAVE_AFTER):
        assert phases[name].blocking_s == phases[name].seconds > 0
    assert phases[miner.UPLOAD].is_hidden
    assert phases[miner.COPY].seconds == 0.0


def test_training_waits_for_the_draw_where_it_ends_early(case_of) -> None:
    """Pages and votes of the next window are final 15 blocks before it at 72 B: 180 s."""
    for plan in ("150m", "8b", "72b"):
        case = case_of(plan)
        window = miner_window(case)
        schedule = case.spec.schedule
        phases = _named(window)
        work_s = sum(phases[n].seconds for n in (miner.SUBTRACT, miner.COPY, miner.ENCODE))
        early_s = window.margin_s + miner.COMMIT_BLOCKS * 12
        drawn_s = (schedule.vote_margin_blocks - schedule.finality_lag_blocks) * 12
        assert phases[miner.WAIT].seconds == max(0.0, early_s - work_s - drawn_s)


def test_an_upload_or_a_lane_that_takes_too_long_is_told(case_of) -> None:
    """20 + 35 blocks less the finality lag for the upload, at 72 B."""
    slow = case_of("72b", line=Line(up_mbps=10.0, down_mbps=500.0))
    assert miner_window(slow).upload_room_s == (20 + FETCH_SHARE * 70 - 5) * 12
    assert not miner_window(slow).is_up_in_time
    assert miner_window(case_of("72b")).is_up_in_time
    dry = case_of("72b", line=Line(up_mbps=110.0, down_mbps=50.0))
    assert not miner_window(dry).keeps_up
    assert miner_window(case_of("72b")).keeps_up


def test_work_before_the_commitment_must_fit_the_margin(case_of) -> None:
    small, large = miner_window(case_of("150m")), miner_window(case_of("72b"))
    assert small.is_in_time
    assert small.margin_s == (COMMIT_MARGIN_BLOCKS - 1) * 12
    # Training ends earlier where encoding and saving take longer; a window's half at most.
    assert large.margin_s > large.before_commit_s > 12
    assert large.is_in_time
    needed = sum(_named(small)[name].seconds for name in miner.BEFORE_COMMIT)
    assert small.before_commit_s == needed
    late = replace(small, before_commit_s=small.margin_s + 1)
    assert not late.is_in_time


def test_alone_a_miner_fetches_nothing(case_of) -> None:
    case = case_of("150m", peers=1)
    fetch = _named(miner_window(case))[miner.FETCH]
    assert (case.accepted, fetch.seconds, fetch.down_bytes) == (1, 0.0, 0)
    assert miner_window(case).utilisation > 0


def test_at_72b_training_has_the_share_that_is_the_goal(case_of) -> None:
    """The goal: 95 % at 110/500 Mb/s with 20 peers, by what is in the code."""
    case = case_of("72b")
    shares = [miner_window(case).utilisation_limit] + [c.utilisation_limit for c in changes(case)]
    assert shares == sorted(shares)
    assert 0.95 <= shares[0] < shares[-1] < 1.0


def test_a_cpu_has_no_shards_on_devices(case_of) -> None:
    of_cpu = [c.name for c in changes(case_of("150m", "cpu", 1))]
    assert of_cpu
    assert len(of_cpu) == len(changes(case_of("150m"))) - 1
    assert not any("devices" in name for name in of_cpu)


def test_hidden_seconds_beyond_the_phase_give_nothing_back() -> None:
    phases = [Phase(name="a", seconds=3.0, hidden_s=5.0), Phase(name="b", seconds=4.0)]
    assert blocking_s(phases) == 4.0
    assert blocking_s(hide(phases, ["b"])) == 0.0
    assert blocking_s([*phases, Phase(name=INNER_STEPS, seconds=100.0)]) == 4.0
