"""A run as a chain of specs: which spec holds in a window, and the deadlines across successions."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from template.errors import ConfigError
from template.protocol.run import Run
from template.protocol.schedule import Schedule
from template.protocol.spec import RunSpec, parse_spec, spec_to_toml
from template.protocol.spec.timing import MAX_WINDOWS
from template.protocol.succession import FIXED, changes, check_successor
from template.training.published import published_limit_bytes
from template.training.rates import inner_lr
from tests.support.successions import successor

NAMES = ("first_block", "assignment_block", "commit_block", "held_out_block", "vote_block")


def test_a_run_of_one_spec_is_that_spec(spec: RunSpec) -> None:
    run = Run(spec)
    assert run.run_id == spec.run_id == spec.spec_id
    assert [run.at(w) for w in (-5, 0, 1, 10**6)] == [spec] * 4
    assert run.successor(0) is None
    for window in (-2, 0, 1, 7):
        for name in NAMES:
            schedule = spec.schedule.schedule()
            assert getattr(run.schedule, name)(window) == getattr(schedule, name)(window)


def test_a_spec_holds_from_its_first_window_on(spec: RunSpec) -> None:
    second = successor(spec, 8, training__inner_lr=0.5)
    third = successor(second, 16, training__inner_lr=0.25)
    run = Run(spec, second, third)
    rates = [run.at(w).training.inner_lr for w in (-1, 0, 7, 8, 15, 16, 1000)]
    first = spec.training.inner_lr
    assert rates == [first, first, first, 0.5, 0.5, 0.25, 0.25]
    assert run.successor(8) is second
    assert (run.successor(7), run.successor(9), run.successor(0)) == (None, None, None)
    assert {each.run_id for each in run} == {spec.run_id}
    assert len({each.spec_id for each in run}) == 3


def test_a_spec_that_continues_survives_its_file(spec: RunSpec) -> None:
    after = successor(spec, 8, outer__outer_lr=0.5, continues__least_version="0.2.0")
    again = parse_spec(spec_to_toml(after))
    assert again == after
    assert again.spec_id == after.spec_id
    assert again.run_id == spec.run_id
    assert parse_spec(spec_to_toml(spec)).continues is None


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"model__hidden_size": 128}, "model.hidden_size"),
        ({"data__page_tokens": 99}, "data.page_tokens"),
        ({"schedule__start_block": 1234}, "schedule.start_block"),
        ({"schedule__network": "public"}, "schedule.network"),
        ({"checkpoint__theta0_digest": "12" * 32}, "checkpoint.theta0_digest"),
        ({"checkpoint__part_bytes": 1000}, "checkpoint.part_bytes"),
    ],
)
def test_what_cannot_change_is_named(spec: RunSpec, fields, key: str) -> None:
    after = successor(spec, 8, **fields)
    with pytest.raises(ConfigError, match=f"{key}: a succession cannot change it"):
        Run(spec, after)
    assert key in FIXED or f"{key.partition('.')[0]}.*" in FIXED


@pytest.mark.parametrize(
    "fields",
    [
        {"training__inner_lr": 0.5},
        {"training__inner_steps": 3},
        {"training__batch_pages": 2},
        {"compression__top_k": 8},
        {"outer__outer_lr": 0.25},
        {"evaluation__held_out_pages": 17},
        {"weights__max_share": 0.375},
        {"schedule__blocks_per_window": 100},
        {"schedule__num_windows": 50},
        {"data__manifest_digest": "34" * 32},
        {"data__tokenizer": "another"},
        {"checkpoint__every_windows": 3},
        {"continues__least_version": "9.0.0"},
    ],
)
def test_what_may_change_changes(spec: RunSpec, fields) -> None:
    after = successor(spec, 8, **fields)
    run = Run(spec, after)
    assert run.at(8) is after
    expected = [] if "continues__least_version" in fields else [next(iter(fields))]
    found = changes(spec, after)
    assert [change.key.replace(".", "__") for change in found] == expected
    for change in found:
        assert str(change).startswith(f"{change.key}: ")
        assert " -> " in str(change)


def test_a_spec_of_another_place_in_the_chain_is_refused(spec: RunSpec) -> None:
    second, other = successor(spec, 8), successor(spec, 9)
    with pytest.raises(ConfigError, match=r"continues\.spec: is"):
        Run(spec, second, other)
    with pytest.raises(ConfigError, match="continues no run"):
        check_successor(spec, replace(spec, name="another"))
    with pytest.raises(ConfigError, match=r"continues\.run_id: is"):
        Run(replace(spec, name="another"), second)
    for window in (7, 8):
        with pytest.raises(ConfigError, match=r"continues\.window: is"):
            Run(spec, second, successor(second, window))
    with pytest.raises(ConfigError, match="which is missing"):
        Run(second)


def test_a_succession_after_the_end_is_refused(spec: RunSpec) -> None:
    end = spec.schedule.num_windows
    with pytest.raises(ConfigError, match=r"schedule\.num_windows: is"):
        successor(spec, end)
    assert Run(spec, successor(spec, end - 1)).num_windows == end
    # One that moves the end follows the last window at once: no window between has a spec.
    assert Run(spec, successor(spec, end, schedule__num_windows=end + 9)).num_windows == end + 9
    late = successor(spec, end + 1, schedule__num_windows=end + 9)
    message = rf"continues\.window: is {end + 1}, .* schedule\.num_windows .* is {end};"
    with pytest.raises(ConfigError, match=message):
        Run(spec, late)
    endless = replace(spec, schedule=replace(spec.schedule, num_windows=MAX_WINDOWS))
    assert Run(endless, successor(endless, end + 1)).num_windows == MAX_WINDOWS


def test_checkpoints_follow_the_cadence_of_their_window(spec: RunSpec) -> None:
    first = replace(spec, checkpoint=replace(spec.checkpoint, every_windows=4))
    run = Run(first, successor(first, 7, checkpoint__every_windows=3))
    found = [w for w in range(20) if run.is_checkpoint(w)]
    assert found == [4, 8, 9, 12, 15, 18]
    for window in range(20):
        assert run.checkpoint_before(window) == max([0, *(w for w in found if w <= window)])


lengths = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(0, 9))


@settings(deadline=None)
@given(
    st.integers(20, 10**6),
    st.lists(st.tuples(st.integers(1, 7), lengths), min_size=1, max_size=4),
    lengths,
)
def test_blocks_and_windows_agree_across_lengths(start, eras, first) -> None:
    """Against the windows laid one after another."""
    upload, scoring, margin, slack = first
    schedule = Schedule(
        start_block=start,
        blocks_per_window=upload + scoring + margin + slack,
        upload_blocks=upload,
        vote_margin_blocks=margin,
    )
    window = 0
    for length, (upload, scoring, margin, slack) in eras:
        window += length
        schedule = schedule.with_era(
            window,
            blocks_per_window=upload + scoring + margin + slack,
            upload_blocks=upload,
            vote_margin_blocks=margin,
        )
    first_block, num_windows = start, window + 3
    for window in range(num_windows):
        length = schedule.blocks_of(window)
        assert schedule.first_block(window) == first_block
        for block in (first_block, first_block + length - 1):
            assert schedule.window_of(block) == window
        era = schedule.era(window)
        assert schedule.held_out_block(window - 1) == first_block + era.upload_blocks
        vote_block = first_block + length - era.vote_margin_blocks
        assert schedule.vote_block(window - 1) == vote_block
        assert schedule.assignment_block(window + 1) == vote_block
        assert schedule.last_counted(vote_block) == window - 1
        assert schedule.last_counted(vote_block - 1) == window - 2
        assert schedule.apply_block(window - 2) == first_block
        first_block += length
    with pytest.raises(ValueError, match="not after"):
        schedule.with_era(
            schedule.later[-1].first_window,
            blocks_per_window=9,
            upload_blocks=1,
            vote_margin_blocks=1,
        )


def test_a_run_without_num_windows_has_no_planned_end(spec: RunSpec, spec_text: str) -> None:
    """Warm-up and stable phase, whatever the window; a decay is a succession that names an end."""
    line = f"num_windows = {spec.schedule.num_windows}\n"
    assert spec_text.count(line) == 1
    endless = parse_spec(spec_text.replace(line, ""))
    assert (spec.schedule.has_end, endless.schedule.has_end) == (True, False)
    assert "num_windows" not in spec_to_toml(endless)
    assert parse_spec(spec_to_toml(endless)) == endless
    training = replace(endless.training, warmup_windows=2.0, decay_share=0.2, final_lr_share=0.0)
    endless = replace(endless, training=training)
    rates = [inner_lr(endless, window, 0) for window in (0, 1, 2, 10, 10_000)]
    assert rates[0] < rates[1] < training.inner_lr
    assert rates[2:] == [training.inner_lr] * 3
    after = successor(
        endless, 10_000, schedule__num_windows=10_010, training__decay_share=1.0,
        training__warmup_windows=0.0,
    )  # fmt: skip
    rates = [inner_lr(after, window, 0) for window in (10_000, 10_005, 10_009)]
    assert rates[0] == training.inner_lr
    assert rates[1] == pytest.approx(training.inner_lr / 2)
    assert 0 < rates[2] < rates[1]


def test_limits_on_checkpoints_are_the_widest_of_the_run(spec: RunSpec) -> None:
    few = successor(spec, 8, outer__clip_windows=2, outer__peers_per_step=3)
    run = Run(spec, few)
    assert run.bounds.outer.clip_windows == spec.outer.clip_windows
    assert run.bounds.outer.peers_per_step == spec.outer.peers_per_step
    assert run.bounds.run_id == run.run_id
    assert Run(spec).bounds == spec
    assert published_limit_bytes(run.bounds) == published_limit_bytes(spec)
    assert published_limit_bytes(few) < published_limit_bytes(spec)
