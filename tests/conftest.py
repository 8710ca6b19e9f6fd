"""Shared by all tests: hypothesis draws the same examples in every run."""

import gc

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_collection_finish() -> None:
    """What is imported by now stays: to look through it again and again takes a tenth of all."""
    gc.freeze()
