"""The faults that an operator must have one clear answer to, by name.

A row of a table names those that it shows with `fault=`, a test of the running subnet with
`@shows`. `test_catalogue.py` holds both against this list: a fault without a row fails it.
"""

from collections.abc import Callable
from typing import TypeVar

from simulation.faults import OperatorFault

Test = TypeVar("Test", bound=Callable[..., None])

SHOWS = "shows_fault"


def shows(fault: OperatorFault) -> Callable[[Test], Test]:
    """Says which fault a test is about."""

    def mark(test: Test) -> Test:
        setattr(test, SHOWS, fault)
        return test

    return mark
