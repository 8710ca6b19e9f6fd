"""Every named fault has a row that real neurons run through; none of them is run here."""

from collections import Counter

import pytest

from simulation.faults import OperatorFault
from tests.scenarios.faults import test_processes, test_running, test_start
from tests.support.faults.catalogue import SHOWS


def rows() -> list[tuple[OperatorFault | None, str]]:
    """(fault, test) of all tables, as pytest collects them."""
    at_start = [(row.fault, f"test_start[{row.name}]") for row in test_start.FAULTS]
    alone = [(row.fault, f"test_processes[{name}]") for name, row in test_processes.FAULTS.items()]
    running = [
        (getattr(test, SHOWS, None), f"test_running::{name}")
        for name, test in vars(test_running).items()
        if name.startswith("test_")
    ]
    return at_start + alone + running


@pytest.mark.parametrize("fault", OperatorFault)
def test_every_named_fault_has_a_row(fault: OperatorFault) -> None:
    assert [test for named, test in rows() if named is fault]


def test_rows_have_names_of_their_own() -> None:
    names = Counter(test for _, test in rows())
    assert max(names.values()) == 1
    assert len(names) >= 50
