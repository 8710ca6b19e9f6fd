"""Cases for the planner's tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from template.cli.plan_flags import read_plan_or_spec
from template.planning.case import Case
from template.planning.hardware import Line, usual_machine

ROOT = Path(__file__).parents[2]


@pytest.fixture
def case_of() -> Callable[..., Case]:
    """Makes the case of a shipped plan on a machine, at 110/500 Mb/s."""

    def make(plan: str, gpu: str = "b200", count: int = 8, **options: Any) -> Case:
        spec = read_plan_or_spec(ROOT / "runs" / f"{plan}.toml")
        values: dict[str, Any] = {"line": Line(up_mbps=110.0, down_mbps=500.0), **options}
        return Case(spec=spec, machine=usual_machine(gpu, count), **values)

    return make
