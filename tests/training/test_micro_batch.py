"""The search for the fewest passes of a batch, against a device that bears so many pages."""

import json

import pytest

from template.training.micro_batch import MicroBatch


def _settle(micro: MicroBatch, bears: int, steps: int = 40) -> int:
    """Take steps as the trainer does; the number of passes that did not fit."""
    refusals = 0
    for _ in range(steps):
        while micro.pages > bears:
            assert micro.note_refusal()
            refusals += 1
        micro.note_fit()
    return refusals


@pytest.mark.parametrize("batch_pages", [1, 2, 3, 7, 8, 30, 192])
def test_it_ends_at_the_fewest_passes_that_fit(batch_pages: int) -> None:
    for bears in range(1, batch_pages + 2):
        micro = MicroBatch(batch_pages)
        refusals = _settle(micro, bears)
        fewest = min(n for n in range(1, batch_pages + 1) if -(-batch_pages // n) <= bears)
        assert (micro.passes, micro.pages) == (fewest, -(-batch_pages // fewest))
        assert refusals <= 2 * batch_pages.bit_length(), "a few steps are lost, once"


def test_what_was_found_is_not_searched_again() -> None:
    for bears in range(1, 31):
        micro, again = MicroBatch(30), MicroBatch(30)
        _settle(micro, bears)
        again.recall(json.loads(json.dumps(micro.notes())))
        assert again.passes == micro.passes
        assert _settle(again, bears) == 0


def test_notes_from_before_the_first_step_change_nothing() -> None:
    micro = MicroBatch(8)
    micro.recall(MicroBatch(8).notes())
    assert micro.passes == 1


def test_a_device_with_less_left_than_before_is_searched_anew() -> None:
    micro = MicroBatch(32)
    _settle(micro, 16)
    assert micro.passes == 2
    _settle(micro, 5)
    assert micro.passes == 7


@pytest.mark.parametrize(("pages", "passes"), [(1, 8), (3, 3), (4, 2), (8, 1), (100, 1)])
def test_a_fixed_size_stays(pages: int, passes: int) -> None:
    micro = MicroBatch(8, pages)
    micro.note_fit()
    micro.recall({"refused": 4, "fitting": 8})
    assert (micro.passes, micro.note_refusal(), micro.passes) == (passes, False, passes)


def test_below_one_page_there_is_nothing() -> None:
    micro = MicroBatch(4)
    assert [micro.note_refusal() for _ in range(3)] == [True, True, False]
    assert micro.pages == 1
