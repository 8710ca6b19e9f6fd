"""What scoring a payload costs: as measured on a CPU, beside the planner's formula.

The planner takes a forward pass for a third of a forward and a backward pass, by the arithmetic of
the model, and nothing else for the cost of a payload. So the record has a forward and backward pass
of the same pages without an optimizer, which says how many operations a second this machine does;
the formula, with that number, is compared with the forward passes and with the whole of a payload:
the step into the model, the passes, and the step back. CPU seconds of one thread, since other
processes share the machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.scale.rank import NUM_PAGES, NUM_SCORED, PASS, SCORE, STEPS_ALONE, TRAIN_STEP
from benchmarks.size.world import PAGE_TOKENS, spec_of
from template.planning.case import Case
from template.planning.hardware import HardwareClass, Line, Machine
from template.planning.validator import forward_s
from template.scoring.rules import shown_pages
from template.training.flops import flops_per_token

BUDGET_S = 600.0
"""For scoring: half of the shipped plans' windows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """CPU seconds of one thread; `fits`: payloads in `budget_s`, each on `shown_pages` pages."""

    flops_per_s: float
    pass_s: float
    formula_pass_s: float
    step_s: float
    payload_s: float
    budget_s: float
    shown_pages: int
    fits: int
    formula_fits: int


def scoring_of(row: Mapping[str, Any]) -> Scoring:
    """From a validator's row of one process."""
    seconds = {phase["name"]: phase["cpu_s"][0] for phase in row["phases"]}
    spec = spec_of(row["size"])
    flops_per_s = flops_per_token(spec) * NUM_PAGES * PAGE_TOKENS / seconds[TRAIN_STEP]
    case = _case(row["size"], flops_per_s)
    pages, step_s = shown_pages(case.spec.evaluation), seconds[STEPS_ALONE] / NUM_SCORED
    payload_s = seconds[SCORE] / NUM_SCORED
    each_s = step_s + (payload_s - step_s) / NUM_PAGES * pages
    return Scoring(
        flops_per_s=flops_per_s,
        pass_s=seconds[PASS],
        formula_pass_s=forward_s(case, NUM_PAGES),
        step_s=step_s,
        payload_s=payload_s,
        budget_s=BUDGET_S,
        shown_pages=pages,
        fits=int(BUDGET_S / each_s),
        formula_fits=int(BUDGET_S / forward_s(case, pages)),
    )


def _case(size: str, flops_per_s: float) -> Case:
    """A machine that does so many operations a second in forward passes."""
    tflops = flops_per_s / 1e12
    device = HardwareClass(
        name="this cpu",
        memory_bytes=0,
        peaks=(tflops, tflops),
        bandwidth_bytes_per_s=1.0,
        host_bytes_per_s=1.0,
    )
    machine = Machine(device=device, count=1, cores=1, mfu=1.0, scoring_mfu=1.0)
    return Case(spec=spec_of(size), machine=machine, line=Line(up_mbps=1.0, down_mbps=1.0))
