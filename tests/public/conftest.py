"""One run with misbehaving miners and validators, played once for all tests of this room."""

import pytest

from template.public.facts import RunFacts
from tests.support.public import Played, play

PLAYED = (
    "copier", "undelivered", "malformed", "oversized", "idle",
    "liar", "silent", "false-root", "false-sample", "absent-namer", "weight-copier",
)  # fmt: skip


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return play(PLAYED, tmp_path_factory.mktemp("public"))


@pytest.fixture(scope="session")
def facts(played: Played) -> RunFacts:
    return played.gatherer().read(0)
