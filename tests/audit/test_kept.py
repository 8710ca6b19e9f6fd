"""Audits of windows that are past, future or deleted: an end at once, or a line about the wait."""

from pathlib import Path

import pytest

from simulation.swarm import FOUR, STAKES_TAO, TINY, build_world, honest, run
from simulation.world import World, hotkey_of
from template.audit.kept import Kept, Range, Wanted, choose_range, kept_windows
from template.commands.audit import audit_validator
from template.context import ReadContext
from template.errors import ConfigError
from tests.support.audited import reader

NUM_WINDOWS = 14
VAL = hotkey_of("val-a")


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> World:
    """A run that has ended, in which buckets have deleted the first windows."""
    world = build_world(
        STAKES_TAO,
        **{
            **TINY,
            "schedule__num_windows": NUM_WINDOWS,
            "checkpoint__every_windows": 1,
            "weights__history_windows": 2,
            "weights__min_windows": 2,
        },
    )
    run(world, honest(*FOUR), tmp_path_factory.mktemp("run"))
    return world


@pytest.fixture
def context(ended: World, tmp_path: Path) -> ReadContext:
    return reader(ended, tmp_path)


def test_what_the_rule_says_is_kept_can_be_audited_and_no_more_is_promised(context) -> None:
    kept = kept_windows(context)
    assert 0 < kept.first < kept.last == NUM_WINDOWS - 1
    said: list[str] = []
    wanted = Wanted(first=kept.first, last=kept.first + 1)
    assert audit_validator(context, VAL, wanted, {}, said.append) == 0
    assert f"windows {kept.first} to {kept.first + 1}" in said[0]
    assert "2 windows" in said[-1]


@pytest.mark.parametrize("wanted", [Wanted(first=1, last=2), Wanted(last=2), Wanted(first=2)])
def test_windows_that_are_no_longer_kept_end_at_once(ended, context, wanted) -> None:
    block, kept = ended.time.block, kept_windows(context)
    with pytest.raises(ConfigError) as caught:
        audit_validator(context, VAL, wanted, {}, lambda _line: None)
    assert ended.time.block == block, "nothing was waited for"
    said = str(caught.value)
    assert said.startswith("--first " if wanted.first is not None else "--last ")
    assert f"windows {kept.first} to {kept.last} can be audited now" in said
    assert f"Name --first {kept.first}" in said


def test_an_audit_without_a_range_ends_with_the_run(ended, context) -> None:
    block, said = ended.time.block, list[str]()
    assert audit_validator(context, VAL, Wanted(), {}, said.append) == 0
    assert ended.time.block == block
    assert not any("following" in line for line in said)


def test_the_last_window_alone_is_found_without_a_first(context) -> None:
    """A start at the newest checkpoint would lie behind it: "no log was found"."""
    kept = kept_windows(context)
    said: list[str] = []
    assert audit_validator(context, VAL, Wanted(last=kept.first + 1), {}, said.append) == 0
    assert f"to {kept.first + 1}, from theta_" in said[0]


def test_following_is_said_with_the_last_window_and_its_block(context) -> None:
    said: list[str] = []
    kept = Kept(first=2, last=5)
    chosen = choose_range(context, Wanted(first=3), kept, said.append)
    assert chosen == Range(first=3, last=NUM_WINDOWS - 1)
    (line,) = said
    block = context.schedule.vote_block(NUM_WINDOWS - 1)
    assert f"following the run to window {NUM_WINDOWS - 1}" in line
    assert f"block {block}" in line
    assert choose_range(context, Wanted(first=3, last=5), kept, said.append).last == 5
    assert len(said) == 1


def test_a_window_that_lies_in_the_future_ends_at_once(context) -> None:
    kept = Kept(first=2, last=5)
    with pytest.raises(ConfigError, match="--first 7: window 7 has no votes before block") as error:
        choose_range(context, Wanted(first=7, last=9), kept, lambda _line: None)
    assert "--first 6 to follow" in str(error.value)
    assert choose_range(context, Wanted(first=6), kept, lambda _line: None).first == 6


def test_old_windows_of_files_are_left_out_and_named(context) -> None:
    kept, said = Kept(first=4, last=13), list[str]()
    chosen = choose_range(context, Wanted(logged=(1, 8)), kept, said.append)
    assert chosen == Range(first=4, last=8)
    assert said[0].startswith("left out: windows 1 to 3 of these logs")
    with pytest.raises(ConfigError, match="windows 1 to 3 of these logs needs"):
        choose_range(context, Wanted(logged=(1, 3)), kept, said.append)


def test_before_the_first_votes_the_audit_follows(context) -> None:
    kept, said = Kept(first=0, last=-2), list[str]()
    assert choose_range(context, Wanted(), kept, said.append) == Range(
        first=None, last=NUM_WINDOWS - 1
    )
    assert said[0].startswith("no window has final votes yet; following the run to window")
