"""Shared by all tests: hypothesis draws the same examples in every run; no test leaves traces."""

import gc
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.process_state import changes, process_state

gc.disable()  # Imports leave no garbage worth looking for; see the end of the collection.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("repeatable")


def pytest_collection_finish() -> None:
    """Modules imported by now stay; scanning them again and again takes a tenth of the run."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _unchanged_process() -> Iterator[None]:
    """Fail a test that leaves process state changed: tests run in any order on any worker."""
    before = process_state()
    yield
    assert changes(before, process_state()) == {}


@pytest.fixture(autouse=True, scope="module")
def _unchanged_process_after_module() -> Iterator[None]:
    """The same for fixtures that live as long as a module."""
    before = process_state()
    yield
    assert changes(before, process_state()) == {}
