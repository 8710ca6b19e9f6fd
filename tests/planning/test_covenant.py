"""Covenant-72B's published figures come out of its own parameters; ours at the same line."""

import pytest

from template.planning import covenant
from template.planning.hardware import Line
from template.planning.phases import serial_utilisation


def test_its_payload_has_the_published_length() -> None:
    assert covenant.payload_bytes() == 72_747_327_488 * 14 * 64 / 4096 / 8
    assert round(covenant.payload_bytes() / 1e9, 2) == 1.99


def test_its_stated_seconds_make_its_published_utilisation() -> None:
    assert round(covenant.stated_utilisation(), 3) == 0.945


def test_its_literal_line_makes_two_thirds() -> None:
    assert round(covenant.literal_utilisation(covenant.payload_bytes()), 3) == 0.665
    down_s = 19 * covenant.payload_bytes() * 8 / 500e6
    assert covenant.literal_utilisation(covenant.payload_bytes()) == 1200 / (1200 + down_s)


def test_ours_on_the_same_line_is_better_and_short_of_the_goal_unless_it_is_hidden(case_of) -> None:
    case = case_of("72b")
    assert case.parameters == covenant.PARAMETERS
    down_s = 19 * case.payload_bytes * 8 / 500e6
    assert covenant.ours(case) == pytest.approx(1200 / (1200 + down_s))
    assert covenant.literal_utilisation(covenant.payload_bytes()) < covenant.ours(case) < 0.95


def test_both_directions_run_side_by_side() -> None:
    assert serial_utilisation(60.0, 20.0, 40.0) == serial_utilisation(60.0, 40.0, 0.0) == 0.6
    assert serial_utilisation(60.0, 0.0, 0.0) == 1.0


def test_a_single_peer_waits_for_its_own_upload_alone() -> None:
    line = Line(up_mbps=8.0, down_mbps=8.0)
    assert covenant.literal_utilisation(300e6, line, peers=1) == 1200 / 1500
