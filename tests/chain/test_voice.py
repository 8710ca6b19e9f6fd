"""The voice of waits: a long wait is told with block and time, rarely, and in one place."""

import ast
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest

from template.chain import Chain
from template.chain.voice import FIRST_LINE_S, MAX_GAP_S, SECOND_GAP_S
from template.chain.waiter import Waiter
from tests.support.clockwork import FINALITY_LAG, ClockworkChain, StoppingChain

PROJECT = Path(__file__).parents[2]
NOON_S = 43200.0
"""The machine's clock at the start; what is named is UTC."""


class Told:
    """A waiter on a clockwork chain, and the lines it has told with their times."""

    def __init__(self, chain: ClockworkChain) -> None:
        self.chain = chain
        self.lines: list[tuple[float, str]] = []
        self.waiter = Waiter(
            cast(Chain, chain),
            sleep=chain.sleep,
            now_s=lambda: chain.now,
            utc_s=lambda: NOON_S + chain.now,
            tell=lambda line: self.lines.append((chain.now, line)),
        )

    @property
    def texts(self) -> list[str]:
        return [line for _, line in self.lines]


def test_a_short_wait_is_silent() -> None:
    told = Told(ClockworkChain(0.25))
    told.waiter.until_finalized(int(FIRST_LINE_S / 0.25) - 2 * FINALITY_LAG, "a block")
    assert told.texts == []


def test_a_line_names_what_the_block_and_the_time() -> None:
    """100 blocks of 12 s from noon: 12:20, and the lag of finality later."""
    told = Told(ClockworkChain(12.0))
    told.waiter.until_finalized(100, "the votes on window 3")
    first, later = told.texts[0], told.texts[2]
    assert first.startswith("waiting for the votes on window 3: until block 100, ")
    # 190 s into the wait: 15 blocks, less those that are not final yet.
    assert "until block 100, 87 blocks from now, in about 17 min (12:20 UTC)" in later or (
        "until block 100, 86 blocks from now, in about 17 min (12:20 UTC)" in later
    )


def test_before_the_pace_is_known_no_time_is_made_up() -> None:
    told = Told(ClockworkChain(300.0))
    told.waiter.until_head(1, "window 0 to begin")
    assert told.texts[0] == (
        "waiting for window 0 to begin: until block 1, 1 block from now (10 s so far)"
    )


def test_the_chains_own_word_stands_in_until_blocks_were_observed() -> None:
    chain, asked = ClockworkChain(300.0), list[float]()

    def nominal_block_s() -> float:
        asked.append(chain.now)
        return 300.0

    waiter = Waiter(cast(Chain, chain), sleep=chain.sleep, nominal_block_s=nominal_block_s)
    assert waiter.recent_head() == 0
    assert waiter.when(3).startswith("block 3, 3 blocks from now, in about 15 min (")
    assert waiter.when(0) == "block 0, any moment now"
    assert asked == [0.0], "once, and never for a line"


def test_a_far_time_has_its_date() -> None:
    told = Told(ClockworkChain(12.0))
    told.chain.now = 7200.0
    told.waiter.recent_head()
    told.chain.now = 14400.0
    told.waiter.until_head(20_000, "window 0 to begin")
    assert "1970-01-04 06:40 UTC" in told.texts[0]
    assert "in about 3 days" in told.texts[0]


@pytest.mark.parametrize("wait_s", [600.0, 86400.0])
def test_the_lines_of_a_long_wait_are_few_and_end_with_it(wait_s: float) -> None:
    told = Told(ClockworkChain(12.0))
    told.waiter.until_head(int(wait_s / 12.0), "window 0 to begin")
    times = [at for at, _ in told.lines]
    assert 3 <= len(times) <= 6 + wait_s / MAX_GAP_S
    assert times[-1] <= told.chain.now
    gaps = [later - before for before, later in pairwise(times)]
    assert gaps[0] >= SECOND_GAP_S
    assert all(later >= before for before, later in pairwise(gaps) if later < 900)


def test_a_wait_begun_again_goes_on_where_it_was() -> None:
    """Before the run a miner waits window by window; a failing step begins its wait anew."""
    once, again = Told(ClockworkChain(12.0)), Told(ClockworkChain(12.0))
    once.waiter.until_head(3000, "window 0 to begin")
    for block in range(100, 3001, 100):
        again.waiter.until_head(block, "window 0 to begin", by_block=3000)
        again.waiter.until_head(block, "something else")
    assert len(again.texts) == len(once.texts)
    assert all("until block 3000" in line for line in again.texts)


def test_a_wait_without_a_block_is_told_with_its_progress() -> None:
    told = Told(ClockworkChain(12.0))
    told.waiter.until_head(2)
    told.lines.clear()
    for number in range(400):
        told.waiter.pause("votes", by_block=20) if number % 2 else told.waiter.tell(
            "a download", progress=f"{number} of 400 parts"
        )
    votes = [line for line in told.texts if line.startswith("waiting for votes")]
    downloads = [line for line in told.texts if "a download" in line]
    assert votes[0].startswith("waiting for votes: until block 20, ")
    assert downloads[0].startswith("waiting for a download (1")
    assert downloads[0].endswith(" of 400 parts)")
    assert "any moment now" in votes[-1]
    assert len(told.texts) <= 14


def test_an_endpoint_that_stands_still_is_told_alone() -> None:
    """A time of arrival would be wrong while no block comes."""
    chain = StoppingChain(1.0)
    chain.goes_on_at = 1500.0
    told = Told(chain)
    told.waiter.until_finalized(1510, "the votes on window 3")
    standing = [at for at, _ in told.lines if 30 + 60 < at < chain.goes_on_at]
    assert standing == []
    assert told.texts


WAITS = {"until_head": 2, "until_finalized": 2, "pause": 1, "tell": 1}


def test_every_wait_of_the_program_says_what_it_waits_for() -> None:
    """Calls of a waiter's methods, with the arguments that name the awaited."""
    silent = []
    for package in ("template", "localnet"):
        for path in sorted((PROJECT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                    continue
                if "waiter" in ast.unparse(node.func.value):
                    least = WAITS.get(node.func.attr, 0)
                    silent += [f"{path}:{node.lineno}"] * (len(node.args) < least)
    assert silent == []
