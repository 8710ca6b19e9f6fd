"""Miners at paces of their own: slow ones send whole payloads rarely, fast ones wide payloads."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulation.swarm import (
    FOUR,
    STAKES_TAO,
    Drive,
    accepted,
    build_world,
    digests,
    honest,
    metrics,
    neurons_of,
    open_world,
    run,
    small_run,
    to_the_end,
)
from simulation.world import hotkey_of
from template.base.miner import Miner
from template.base.work import HonestWork
from template.context import NodeContext
from template.protocol.payload import decode_payload
from template.training.options import InnerOptions
from tests.support.beside import BesideWorld, count_lanes
from tests.support.paced import BATCH, BLOCKS, LONG, PATIENT, STEPS, paced

M0, M1 = 3, 4
"""Uids."""


def run_paced(
    drives: Mapping[str, Drive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **overrides: Any
) -> dict[str, Any]:
    """A run with these miners in lanes, the others honest; all end at one model."""
    prepared = small_run(STAKES_TAO, **{**LONG, **overrides})
    world = open_world(BesideWorld, neurons_of(STAKES_TAO), prepared)
    count_lanes(world, monkeypatch)
    nodes = run(world, {**honest(*FOUR), **drives}, tmp_path)
    assert len(digests(nodes)) == 1
    return nodes


def windows_of(node: Any, uid: int) -> set[int]:
    """The windows in which a payload of the uid was accepted."""
    return {window for window, uids in accepted(node).items() if uid in uids}


def test_a_slow_machine_sends_whole_payloads_every_third_window(tmp_path, monkeypatch) -> None:
    slow, drive = paced(12.0, PATIENT)  # 6 steps take 3 windows
    nodes = run_paced({"m0": drive}, tmp_path, monkeypatch)
    assert 3 <= len(slow.sent) <= 4
    assert {header.pages_consumed for header in slow.sent[:-1]} == {STEPS * BATCH}
    assert all(2 <= header.staleness <= 4 for header in slow.sent[:-1]), slow.sent
    bases = [header.base_window for header in slow.sent]
    assert bases == sorted(set(bases)), "no page list twice"
    assert {h.window for h in slow.sent if h.window < 9} <= windows_of(nodes["val-a"], M0)
    # It trains on through every window: no two steps lie a step and a block apart.
    gaps = np.diff(slow.steps_at)
    assert gaps.max() <= 12 + 2, slow.steps_at
    assert windows_of(nodes["val-a"], M1) >= set(range(1, 9)), "the fast one is never kept waiting"


@pytest.mark.parametrize(("staleness", "steps"), [(0, 2), (1, 4)])
def test_without_a_window_left_a_part_of_the_steps_goes_out(
    staleness: int, steps: int, tmp_path, monkeypatch
) -> None:
    """Two steps fit into a window, four into two; no step begins that cannot end in time."""
    slow, drive = paced(11.0, PATIENT)
    nodes = run_paced(
        {"m0": drive}, tmp_path, monkeypatch, outer__max_staleness=staleness,
        schedule__num_windows=6,
    )  # fmt: skip
    assert len(slow.sent) == 6 // (1 + staleness)
    assert {header.staleness for header in slow.sent} == {staleness}
    # Pages are claimed in whole blocks of a step, and a step under way is not begun twice.
    assert all(BATCH <= h.pages_consumed <= steps * BATCH for h in slow.sent), slow.sent
    # Of the first step nobody knows how long it takes.
    assert {h.window for h in slow.sent} - {0} <= windows_of(nodes["val-a"], M0)


def test_by_itself_a_slow_machine_sends_a_part_of_the_steps_in_every_window(
    tmp_path, monkeypatch
) -> None:
    slow, drive = paced(11.0)
    nodes = run_paced({"m0": drive}, tmp_path, monkeypatch, schedule__num_windows=6)
    assert [header.window for header in slow.sent] == list(range(6))
    assert all(header.staleness == 0 for header in slow.sent)
    assert {header.pages_consumed for header in slow.sent} <= {2 * BATCH, 3 * BATCH}
    assert windows_of(nodes["val-a"], M0) >= {1, 2, 3, 4, 5}


def test_a_window_with_time_for_one_step_is_enough_for_payloads(tmp_path, monkeypatch) -> None:
    slow, drive = paced(20.0)
    run_paced({"m0": drive}, tmp_path, monkeypatch)
    assert len(slow.sent) >= 2
    assert all(header.pages_consumed % BATCH == 0 < header.pages_consumed for header in slow.sent)
    assert min(header.pages_consumed for header in slow.sent) <= 3 * BATCH


def test_a_machine_a_little_too_slow_loses_no_block(tmp_path, monkeypatch) -> None:
    """An inner loop of 1.25 windows: a payload in four of five windows, each of them whole."""
    slow, drive = paced(5.0, PATIENT)
    nodes = run_paced({"m0": drive}, tmp_path, monkeypatch, schedule__num_windows=12)
    whole = [header for header in slow.sent if header.pages_consumed == STEPS * BATCH]
    assert len(whole) >= 7, slow.sent
    assert len({header.window for header in slow.sent}) == len(slow.sent)
    assert {h.window for h in slow.sent if h.window > 1} <= windows_of(nodes["val-a"], M0)
    # It starts ahead of theta by its last payload, though that is of its page list's own window.
    assert any(base in own for base, own in slow.under_way), slow.under_way


def test_one_late_step_delays_one_payload_and_no_more(tmp_path, monkeypatch) -> None:
    """In window 3 a step takes longer than the window has; later payloads are in time again."""
    late, _ = paced(1.0)

    class Once(late):  # type: ignore[misc, valid-type]
        def batches(self, base: int) -> Iterator[np.ndarray]:
            waiter = self.parts.context.waiter
            for step, batch in enumerate(super().batches(base)):
                yield batch
                if base == 3 and step == STEPS - 2:
                    end = waiter.recent_head() + BLOCKS
                    with self.parts.gate.apart():
                        while waiter.recent_head() < end:
                            waiter.pause()

    drive = to_the_end(lambda context: Miner(context, work=Once))
    nodes = run_paced({"m0": drive}, tmp_path, monkeypatch)
    by_base = {header.base_window: header for header in late.sent}
    assert by_base[3].window == 4
    assert len({4, 5} & set(by_base)) == 1, "one list is left out"
    assert all(by_base[base].staleness == 0 for base in (6, 7, 8))
    assert windows_of(nodes["val-a"], M0) >= {4, 5, 6, 7, 8}


def test_a_wide_payload_is_accepted_and_says_its_pages(tmp_path, monkeypatch) -> None:
    wide, drive = paced(1.0, InnerOptions(width=3))
    nodes = run_paced({"m0": drive}, tmp_path, monkeypatch, evaluation__claimed_pages=4)
    assert {(h.width, h.pages_consumed) for h in wide.sent} == {(3, 3 * STEPS * BATCH)}
    assert windows_of(nodes["val-a"], M0) >= {3, 4, 5, 6, 7, 8}


def test_a_fast_machine_widens_its_steps_until_they_fill_the_window(tmp_path, monkeypatch) -> None:
    fast, drive = paced(1.0, InnerOptions(width=0))
    nodes = run_paced({"m0": drive}, tmp_path, monkeypatch)
    widths = [header.width for header in fast.sent]
    assert widths[0] == 1
    assert set(widths[3:]) <= {2, 3}, widths  # 18 blocks of 24 at width 3
    assert windows_of(nodes["val-a"], M0) >= {3, 4, 5, 6, 7, 8}


def test_a_machine_that_has_become_slow_takes_narrow_steps_again(tmp_path, monkeypatch) -> None:
    """It ends no inner loop any more, so no whole loop tells it how wide its steps may be."""
    fast, _ = paced(1.0, InnerOptions(width=0))

    class Slowed(fast):  # type: ignore[misc, valid-type]
        def batches(self, base: int) -> Iterator[np.ndarray]:
            self.blocks_of_batch = 1.0 if base < 5 else 4.0
            yield from super().batches(base)

    def make(context: NodeContext) -> Miner:
        return Miner(replace(context, inner=InnerOptions(width=0)), work=Slowed)

    run_paced({"m0": to_the_end(make)}, tmp_path, monkeypatch, schedule__num_windows=12)
    widths = {header.base_window: header.width for header in fast.sent}
    assert max(widths.values()) >= 2, widths
    late = [width for base, width in widths.items() if base >= 8]
    assert late
    assert set(late) == {1}, widths


def test_machines_of_a_tenth_to_ten_times_the_speed_share_a_run(tmp_path, monkeypatch) -> None:
    slow, drive = paced(40.0, PATIENT)  # ten windows for a page list
    fast, quick = paced(0.4, InnerOptions(width=0))
    nodes = run_paced(
        {"m0": drive, "m1": quick}, tmp_path, monkeypatch,
        outer__max_staleness=12, schedule__num_windows=24,
    )  # fmt: skip
    assert [h.pages_consumed for h in slow.sent][:2] == [STEPS * BATCH] * 2
    assert max(h.width for h in fast.sent) == 4, "the bound of the run"
    assert windows_of(nodes["val-a"], M1) >= set(range(3, 22))
    pages = {who: sum(h.pages_consumed for h in made.sent) for who, made in
             (("slow", slow), ("fast", fast))}  # fmt: skip
    assert pages["fast"] > 25 * pages["slow"]


def test_a_restart_goes_on_after_the_last_page_list(tmp_path, monkeypatch) -> None:
    slow, drive = paced(12.0, PATIENT)
    nodes = run_paced({"m0": drive}, tmp_path, monkeypatch, schedule__num_windows=8)
    node = nodes["m0"]
    node.save()
    again = Miner(node.context, work=slow).work
    assert isinstance(again, HonestWork)
    assert again.turns.values() == node.work.turns.values()
    assert again.next_window == node.work.next_window == slow.sent[-1].base_window + 1


def test_headers_are_what_the_frames_say(tmp_path, monkeypatch) -> None:
    slow, drive = paced(12.0, PATIENT)
    nodes = run_paced({"m0": drive}, tmp_path, monkeypatch, schedule__num_windows=6)
    form, bucket = nodes["m0"].context.form_at(0), nodes["m0"].context.bucket
    keys = [key for key in bucket.list("") if "payload" in key]
    frames = [bucket.get(key, max_bytes=form.num_bytes) for key in keys]
    found = [decode_payload(frame, form).header for frame in frames]
    assert found
    assert all(header in slow.sent for header in found)
    assert all(h.public_key == found[0].public_key for h in found)
    assert metrics(nodes["m0"]).series("payload_bytes")
    assert hotkey_of("m0") == nodes["m0"].context.hotkey


class Cut(HonestWork):
    """Its pages come for three inner steps of six."""

    def batches(self, base: int) -> Iterator[np.ndarray]:
        yield from islice(super().batches(base), 3)


@pytest.mark.parametrize(("before", "now"), [(1, 2), (2, 1), (2, 2)])
def test_of_pages_in_an_order_of_their_own_whole_blocks_are_claimed(
    before: int, now: int, tmp_path
) -> None:
    """Of the width under way: three of the steps that are shuffled in twos end one block."""
    world = build_world(STAKES_TAO, training__max_width=2)
    work = Miner(world.context(hotkey_of("m0"), tmp_path), work=Cut).work
    assert isinstance(work, HonestWork)
    world.time.block = world.spec.schedule.schedule().first_block(0)
    work.recent_steps, work.width, work.stride.width = [8, 8], before, now
    made = work.make_payload(0)
    assert made is not None
    header = decode_payload(made.payload.frame, work.parts.context.form_at(0)).header
    assert header.pages_consumed == 2 * now * BATCH
    assert header.width == 1, "by the pages that are claimed"
