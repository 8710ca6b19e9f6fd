"""A payslip under duels: what the duel moved, from whom, and that shares still follow."""

from pathlib import Path

import pytest

from simulation.swarm import uid_of
from template.public.statements import Payslip
from tests.support.public import HONEST_MINERS, play

WINDOW = 5
"""The last one, whose logs are public at the run's end as all others are."""


def _words(slip: Payslip) -> str:
    statement = slip.statement("share")
    return "" if statement is None else statement.words


def _number(slip: Payslip, name: str) -> float:
    value = slip.figure(name)
    assert isinstance(value, float | int)
    return float(value)


def test_the_payslip_names_the_rival_and_what_the_duel_moved(tmp_path: Path) -> None:
    played = play((), tmp_path, weights__duel_share=0.5, weights__min_windows=2)
    facts = played.gatherer().read(0)
    slips = {name: played.slips(facts, name)[WINDOW] for name in HONEST_MINERS}
    uids = {uid_of(played.world, name): name for name in HONEST_MINERS}
    duellists = [name for name, slip in slips.items() if "in a duel" in _words(slip)]
    assert len(duellists) == 2, "of three miners one has no duel"
    for name in duellists:
        slip = slips[name]
        rival = slips[uids[int(_number(slip, "duel_rival"))]]
        moved = _number(slip, "duel_moved")
        assert moved == pytest.approx(-_number(rival, "duel_moved"))
        assert abs(moved) > 0
        before = _number(slip, "share_before_duel")
        assert _number(slip, "share") == pytest.approx(before + moved)
        assert ("duel_lost" in slip.causes) == (moved < 0)
        assert slip.figure("follows")
    assert sum(_number(slip, "share") for slip in slips.values()) == pytest.approx(1.0)
