"""A complete run spec, as text too, and a frame format small enough to fuzz."""

from pathlib import Path

import pytest

from template.protocol.payload import PayloadFormat
from template.protocol.spec import RunSpec, parse_spec


@pytest.fixture(scope="session")
def spec_text() -> str:
    return Path(__file__).with_name("spec.toml").read_text(encoding="ascii")


@pytest.fixture(scope="session")
def spec(spec_text: str) -> RunSpec:
    return parse_spec(spec_text)


@pytest.fixture(scope="session")
def form() -> PayloadFormat:
    """A matrix with edges, a vector, a scalar, a tensor of three dimensions, an empty one."""
    shapes: dict[str, tuple[int, ...]] = {
        "b.weight": (70, 66),
        "a.bias": (66,),
        "c": (),
        "d.kernel": (3, 5, 7),
        "e.none": (0, 4),
    }
    return PayloadFormat(run_id=b"a run of 16 byte", shapes=shapes, top_k=64)
