"""Every block of a run has one phase, and each role its next deadline."""

import pytest

from template.protocol.schedule import Schedule
from template.status.phase import phase_at

SCHEDULE = Schedule(start_block=100, blocks_per_window=16, upload_blocks=3, vote_margin_blocks=4)
WINDOWS = 3
"""Window 0 is blocks 100 to 115; the votes on window 0 are counted at 128, with window 1 over."""


@pytest.mark.parametrize(
    ("block", "window", "name"),
    [
        (99, -1, "before the run"),
        (100, 0, "upload"),
        (103, 0, "scoring"),
        (111, 0, "scoring"),
        (112, 0, "counted"),
        (115, 0, "counted"),
        (116, 1, "upload"),
        (119, 1, "scoring"),
        (128, 1, "counted"),
        (148, 3, "upload"),
        (163, 3, "counted"),
        (164, 4, "after the run"),
    ],
)
def test_phase(block: int, window: int, name: str) -> None:
    found = phase_at(SCHEDULE, WINDOWS, block, "miner")
    assert (found.window, found.name) == (window, name)


@pytest.mark.parametrize(
    ("role", "block", "deadlines"),
    [
        ("miner", 50, [(100, 0)]),
        ("miner", 100, [(115, 0)]),
        ("miner", 116, [(119, 0), (131, 1)]),
        ("miner", 119, [(119, 0), (131, 1)]),
        ("miner", 120, [(131, 1)]),
        ("miner", 148, [(151, 2)]),
        ("miner", 152, []),
        ("validator", 100, [(128, 0)]),
        ("validator", 116, [(128, 0), (144, 1)]),
        ("validator", 129, [(144, 1)]),
        ("validator", 148, [(160, 2)]),
        ("owner", 120, [(132, 2)]),
        ("miner", 500, []),
    ],
)
def test_deadlines(role: str, block: int, deadlines: list[tuple[int, int]]) -> None:
    found = phase_at(SCHEDULE, WINDOWS, block, role).deadlines
    assert [(each.block, each.window) for each in found] == deadlines
    assert all(f"window {each.window}" in each.what for each in found)
