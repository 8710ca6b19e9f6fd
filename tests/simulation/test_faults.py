"""One catalogue of faults: each place plays every fault that the catalogue gives it."""

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.chaos.faults import LIES, SIMPLE
from benchmarks.chaos.troubles import TROUBLES
from simulation.faults import (
    FAULTS,
    PROCESS_WINDOWS,
    SWARM_DRAWS,
    Claim,
    OperatorFault,
    ProcessFault,
)
from tests.support import sabotage
from tests.support.schedules import TARGETS

ROOT = Path(__file__).resolve().parents[2]


def test_every_fault_of_a_place_has_one_entry() -> None:
    played = Counter(played for kind in FAULTS.values() for played in kind.processes or ())
    assert played == dict.fromkeys(ProcessFault, 1)
    answered = Counter(fault for kind in FAULTS.values() for fault in kind.operator)
    assert answered == dict.fromkeys(OperatorFault, 1)
    assert PROCESS_WINDOWS.keys() == set(ProcessFault)


def test_the_localnet_plants_every_fault_of_processes() -> None:
    planted = Counter([*SIMPLE, *TROUBLES, *LIES])
    assert planted == dict.fromkeys(ProcessFault, 1)


@pytest.mark.parametrize("name", SWARM_DRAWS)
def test_a_swarm_plants_every_fault_with_a_draw(name: str) -> None:
    """Each kind is handled by name, and enough nodes of the roster can be its target."""
    source = Path(sabotage.__file__).read_text(encoding="ascii")
    assert f'"{name}"' in source
    draw = SWARM_DRAWS[name]
    assert 1 <= draw.least <= draw.most <= len(TARGETS[FAULTS[name].target])


@pytest.mark.parametrize("name", FAULTS)
def test_every_entry_is_played_and_claims_something(name: str) -> None:
    kind = FAULTS[name]
    assert kind.draw or kind.processes or kind.operator
    assert kind.event
    assert (Claim.ONE_ANSWER in kind.claims) == bool(kind.operator)
    assert (Claim.ONE_MODEL in kind.claims) == bool(kind.draw or kind.processes)
