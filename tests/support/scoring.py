"""A complete run spec and a small payload format."""

from pathlib import Path

import pytest

from template.protocol.payload import PayloadFormat
from template.protocol.spec import RunSpec, parse_spec

SPEC_FILE = Path(__file__).parents[1] / "protocol" / "spec.toml"


@pytest.fixture(scope="session")
def spec() -> RunSpec:
    return parse_spec(SPEC_FILE.read_text(encoding="ascii"))


@pytest.fixture(scope="session")
def form() -> PayloadFormat:
    shapes: dict[str, tuple[int, ...]] = {"b.weight": (40, 66), "a.bias": (66,)}
    return PayloadFormat(run_id=b"a run of 16 byte", shapes=shapes, top_k=16)
