"""Writes what follows from the planner: the costs' file, docs/hardware.md and min_compute.yml.

    python contrib/hardware_pages.py

After a new record of `make bench-size`, or a change of a plan in runs/, run it again.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from template.base.preflight import least_state_bytes  # noqa: E402
from template.cli.plan_flags import read_plan_or_spec  # noqa: E402
from template.commands.planning_table import amount, dollars, span  # noqa: E402
from template.planning.bill import (  # noqa: E402
    MONTH_DAYS,
    READ_USD,
    STORAGE_USD_PER_GB_MONTH,
    WRITE_USD,
)
from template.planning.case import PEERS, VALIDATORS, Case  # noqa: E402
from template.planning.costs import COSTS_FILE, Costs, costs_text, read_costs  # noqa: E402
from template.planning.hardware import (  # noqa: E402
    CLASSES,
    COUNTS,
    GB,
    MFU,
    SCORING_MFU,
    Line,
    usual_machine,
)
from template.planning.memory import (  # noqa: E402
    CAST_BYTES,
    GRADIENT_BYTES,
    MODEL_BYTES,
    MOMENTS_BYTES,
    miner_memory,
    validator_memory,
)
from template.planning.miner import changes, miner_window  # noqa: E402
from template.planning.outlook import (  # noqa: E402
    Outlook,
    best_cut,
    find_smallest,
    look_ahead,
    work_sentence,
)
from template.planning.validator import validator_window  # noqa: E402

RECORD = ROOT / "benchmarks" / "results" / "size.json"
PAGE = ROOT / "docs" / "hardware.md"
COMPUTE = ROOT / "min_compute.yml"
COMPUTE_TEXT = ROOT / "contrib" / "min_compute.yml.in"
COMMAND = "python contrib/hardware_pages.py"
LINE = Line(up_mbps=110.0, down_mbps=500.0)
PLANS = ("150m", "1b", "8b", "72b")


def case_of(plan: str, name: str = "b200", count: int = 8) -> Case:
    """A shipped plan on a machine, at the line of the pages."""
    spec = read_plan_or_spec(ROOT / "runs" / f"{plan}.toml")
    return Case(spec=spec, machine=usual_machine(name, count), line=LINE)


def outlook_of(plan: str) -> Outlook:
    """A shipped plan on the smallest machine that holds a miner's model."""
    found = find_smallest(case_of(plan)).miner
    if found is None:
        return look_ahead(case_of(plan))
    name, _, count = found.partition(":")
    return look_ahead(case_of(plan, name, int(count)))


def hardware_page(outlooks: Sequence[Outlook]) -> str:
    """The text of docs/hardware.md."""
    parts = [INTRO, "## Classes\n", "\n".join(class_rows()), ""]
    parts += ["## What each plan needs\n", NEEDS, "\n".join(need_rows(outlooks)), ""]
    for plan, outlook in zip(PLANS, outlooks, strict=True):
        case = outlook.case
        parts += [
            f"## {plan}\n",
            f"`runs/{plan}.toml`: {case.parameters:,} parameters, windows of "
            f"{case.window_s:,.0f} s, {case.window_tokens / 1e6:,.1f} M tokens a window.\n",
            "\n".join(machine_rows(plan)),
            "",
        ]
        parts += [f"Work test: {work_sentence(outlook)}\n"]
        if outlook.faults:
            faults = "\n".join(f"- {fault}" for fault in outlook.faults)
            parts += [f"On {case.machine.name}, by the code of today:\n", faults, ""]
    parts += ["## A range of blocks on a small device\n", RANGES, "\n".join(range_rows()), ""]
    parts += ["## From the code of today to the goal\n", GOAL, "\n".join(change_rows(outlooks)), ""]
    return "\n".join([*parts, ASSUMED])


def class_rows() -> Iterator[str]:
    """The classes of hardware as a Markdown table."""
    yield (
        "| class | memory, GB | bf16, TFLOPS | float32, TFLOPS | bandwidth, GB/s "
        "| to the host, GB/s |"
    )
    yield "|---|---:|---:|---:|---:|---:|"
    for each in CLASSES.values():
        cells = (
            f"`{each.name}`",
            f"{each.memory_bytes / GB:,.1f}" if each.memory_bytes else "the host's",
            *(f"{peak:,.1f}" for peak in each.peaks),
            f"{each.bandwidth_bytes_per_s / GB:,.0f}",
            f"{each.host_bytes_per_s / GB:,.0f}",
        )
        yield f"| {' | '.join(cells)} |"


def need_rows(outlooks: Sequence[Outlook]) -> Iterator[str]:
    """Sizes of each plan and role as a Markdown table."""
    yield "| plan | role | up | down | host memory | disk | bucket | a day | smallest machine |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---|"
    for plan, outlook in zip(PLANS, outlooks, strict=True):
        smallest = {"miner": outlook.smallest.miner, "validator": outlook.smallest.validator}
        for each in outlook.roles:
            found = smallest.get(each.role, "no GPU")
            cells = (
                plan,
                each.role,
                amount(each.up_bytes),
                amount(each.down_bytes),
                amount(each.memory.host_bytes),
                amount(each.memory.disk_bytes),
                amount(each.bill.storage.total_bytes),
                dollars(each.bill.usd_per_day),
                f"`{found}`" if ":" in (found or "") else found or "none",
            )
            yield f"| {' | '.join(cells)} |"


def machine_rows(plan: str) -> Iterator[str]:
    """A plan on each class, as few devices as hold the miner, as a Markdown table."""
    yield (
        "| machine | memory of a device | pages a pass | inner steps | left today "
        "| left with all changes | validator's device | scores |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for name, device in CLASSES.items():
        if device.is_cpu:
            continue
        cases = [case_of(plan, name, count) for count in COUNTS]
        case = next((each for each in cases if miner_memory(each).fits), None)
        if case is None:
            most = miner_memory(cases[-1]).device_bytes
            words = f"does not fit: {amount(most)} each"
            yield f"| `{name}:{COUNTS[-1]}` | {words} | | | | | | |"
            continue
        yield _machine_row(case)


def _machine_row(case: Case) -> str:
    memory, window = miner_memory(case), miner_window(case)
    of_validator, scoring = validator_memory(case), validator_window(case)
    fits = amount(of_validator.device_bytes) if of_validator.fits else "does not fit"
    cells = (
        f"`{case.machine.name}`",
        amount(memory.device_bytes),
        f"{memory.micro_batch}{' *' if memory.is_checkpointing else ''}",
        span(window.steps_s),
        f"{window.utilisation_limit:.1%}" if window.is_in_time else "commits too late",
        f"{changes(case)[-1].utilisation_limit:.1%}",
        fits,
        f"{scoring.num_scored} of {case.drawn}",
    )
    return f"| {' | '.join(cells)} |"


def range_rows() -> Iterator[str]:
    """The smallest single devices, and what each class makes of each plan, as Markdown tables."""
    yield "| plan | whole on | in parts on | parts | payload | host memory | inner steps | done |"
    yield "|---|---|---|---:|---:|---:|---:|---:|"
    for plan in PLANS:
        found = find_smallest(case_of(plan))
        whole = next((m for m in _singles() if miner_memory(case_of(plan, m, 1)).fits), None)
        if found.in_range is None:
            yield f"| {plan} | none | none | | | | | |"
            continue
        case = best_cut(case_of(plan, found.in_range.partition(":")[0], 1))
        assert case is not None, "the smallest fits"
        window = miner_window(case)
        cells = (
            plan,
            f"`{whole}`" if whole else f"none; `{found.miner}`",
            f"`{case.machine.device.name}`",
            _parts_words(case),
            amount(case.own_payload_bytes),
            amount(miner_memory(case).host_bytes),
            span(window.steps_s),
            f"{window.done_share:.0%}",
        )
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield f"| device | memory | {' | '.join(PLANS)} |"
    yield "|---|---:|" + "---:|" * len(PLANS)
    for name in _singles():
        row = " | ".join(_range_cell(case_of(plan, name, 1)) for plan in PLANS)
        yield f"| `{name}` | {CLASSES[name].memory_bytes / GB:,.1f} GB | {row} |"


def _singles() -> list[str]:
    """The classes of GPUs, the least memory first."""
    found = [each for each in CLASSES.values() if not each.is_cpu]
    return [each.name for each in sorted(found, key=lambda each: each.memory_bytes)]


def _parts_words(case: Case) -> str:
    if case.parts == 1:
        return "whole"
    return f"{case.parts}{' host' * (case.frozen == 'host')}"


def _range_cell(case: Case) -> str:
    """Parts and inner steps of a plan on a device."""
    cut = best_cut(case)
    if cut is None:
        return "-"
    window = miner_window(cut)
    return f"{_parts_words(cut)}, {span(window.steps_s)}, {window.done_share:.0%}"


def change_rows(outlooks: Sequence[Outlook]) -> Iterator[str]:
    """The share left for inner steps, one change after another, as a Markdown table."""
    columns = [outlook.case for outlook in outlooks]
    heads = [f"{p}, `{c.machine.name}`" for p, c in zip(PLANS, columns, strict=True)]
    yield f"| change | {' | '.join(heads)} |"
    yield "|---|" + "---:|" * len(columns)
    today = " | ".join(f"{miner_window(case).utilisation_limit:.1%}" for case in columns)
    yield f"| the code of today | {today} |"
    for row in zip(*map(changes, columns), strict=True):
        cells = " | ".join(f"{change.utilisation_limit:.1%}" for change in row)
        yield f"| + {row[0].name} | {cells} |"


INTRO = f"""\
# Hardware

<!-- Generated by `{COMMAND}` from the planner (template/planning/); edit the
text there. -->

What a miner, a validator and an owner need for the shipped plans. Everything here is
**calculated**: sizes by the code that makes the objects, seconds of the host's work from the record
of `make bench-size` ([size.md](../benchmarks/results/size.md)), seconds on a GPU from the makers'
peaks. Nothing was measured on a GPU. For other plans, lines and machines:

```
tessera plan --run runs/72b.toml --up-mbps 110 --down-mbps 500 --gpu b200:8 --peers 20
```

The pages' line carries {LINE.up_mbps:g} Mb/s up and {LINE.down_mbps:g} Mb/s down, the line of
Covenant-72B's miners (arXiv 2603.08163); {PEERS} miners and {VALIDATORS} validators take part.
"""

NEEDS = f"""\
Bytes over the line are of a window; an owner's go up once, dataset included (as many tokens as
the run reads, if no page is read twice). The bucket's price is Cloudflare R2's of November 2026:
${STORAGE_USD_PER_GB_MONTH} a GB and month of {MONTH_DAYS:.0f} days, {dollars(WRITE_USD * 1e6)} for
a million writes, {dollars(READ_USD * 1e6)} for a million reads, no fee for bytes read. The devices
of the smallest machine hold the model; whether its miner also does all inner steps in time stands
in the plan's own table.
"""

RANGES = """\
A miner whose GPU is too small for gradients, AdamW and float32 parameters of the whole model cuts
the model into parts and trains one, which the chain draws for each window, while the rest is
frozen (`--neuron.parts N`; `tessera plan --parts auto` finds N). Memory is that of the part that
takes the most. **host** means `--neuron.frozen host`: the frozen layers lie in the host's memory
and come to the device one at a time, in each pass and again for its backward pass; elsewhere they
lie on the device in bf16. The fewest parts that fit are taken, on the device if any fit there.
Seconds are of all inner steps of the plan, the mean of the parts; *done* is the share that fits in
a window. The largest block is the limit: a part is never smaller than the embedding. None of this
ran on a GPU; on a CPU, bytes and results were compared with the whole model's
([size_ranges.md](../benchmarks/results/size_ranges.md)).
"""

GOAL = """\
The share of a window that is left for inner steps, at the line above: saves, uploads, fetching and
following pass beside training, and the next window's training begins before the window's end. The
goal is 95 % for the plan of 72 B. Each line adds a change to those before it. Whether a machine's
inner steps fill that share is another matter: see the inner steps of each machine above.
"""

ASSUMED = f"""\
## What this rests on

- Training reaches {MFU:.0%} of the bf16 peak, scoring {SCORING_MFU:.0%} of the float32 peak.
- The host has 16 cores, or 8 for each device if that is more; the codec's loops use 16 of them at
  most, or 16 of each of two sockets with several devices, whose ranks work side by side. Its disk
  writes 2 GB/s. A `cpu` stands for 16 cores of a server, an estimate.
- **Several devices**: theta's chunks are spread evenly over them. Under torchrun
  ([many_gpus.md](many_gpus.md)) a miner trains so and a validator scores so, on GPUs untested; what
  goes between the devices costs no time here.
- A payload's cost is its forward passes: on a CPU, the step into the model and back adds a
  twentieth at most (`benchmarks/results/scale.json`).
- A range: activations below the lowest trained layer are not kept, those above count in full;
  copies of frozen layers from the host hide behind no computation.
- A star beside the pages of a pass: with `--neuron.activation_checkpointing`.
- Host seconds and memory grow in a straight line in the number of parameters, from 10 M and 100 M.
- "Inner steps" are the plan's, on this machine; a miner that has less time does fewer of them.
"""


def compute_text(outlooks: Sequence[Outlook], costs: Costs | None = None) -> str:
    """The text of min_compute.yml."""
    costs = costs or read_costs()
    peaks = {
        role: max(cost.bytes_per_parameter for cost in costs.of_role(role))
        for role in ("miner", "validator")
    }
    trained = MODEL_BYTES + GRADIENT_BYTES + MOMENTS_BYTES + CAST_BYTES
    of_payload = outlooks[0].case.payload_bytes / outlooks[0].case.parameters
    plans = "".join(_plan_rows(plan, each) for plan, each in zip(PLANS, outlooks, strict=True))
    return Template(COMPUTE_TEXT.read_text("utf-8")).substitute(
        command=COMMAND,
        trained=trained,
        miner_ram=f"{peaks['miner']:.1f}",
        miner_disk=_disk_bytes(outlooks[0], trains=True),
        payload=f"{of_payload:.4f}",
        model=MODEL_BYTES,
        validator_ram=f"{peaks['validator']:.1f}",
        validator_disk=_disk_bytes(outlooks[0], trains=False),
        plans=plans.rstrip(),
    )


def _disk_bytes(outlook: Outlook, *, trains: bool) -> int:
    """Bytes of the state for each parameter."""
    return round(least_state_bytes(outlook.case.spec, trains=trains) / outlook.case.parameters)


def _plan_rows(plan: str, outlook: Outlook) -> str:
    """The rows of one plan: what each role needs, calculated."""
    smallest = {"miner": outlook.smallest.miner, "validator": outlook.smallest.validator}
    lines = [
        f"  plan_{plan}:",
        f"    plan: runs/{plan}.toml",
        f"    parameters: {outlook.case.parameters}",
    ]
    for each in outlook.roles:
        gpu = smallest.get(each.role)
        cells = [
            f"    {each.role}:",
            "      tried: false  # calculated",
            f"      gpu: {{required: {str(gpu is not None).lower()}, smallest: {gpu or 'none'}}}",
            f"      memory: {{ram_gb: {each.memory.host_bytes / GB:.1f}}}",
            f"      storage: {{free_gb: {each.memory.disk_bytes / GB:.1f}}}",
            "      network:",
            f"        upload_bytes{'' if each.role != 'owner' else '_once'}: {each.up_bytes:.0f}",
            f"        download_bytes: {each.down_bytes:.0f}",
            f"      bucket: {{bytes: {each.bill.storage.total_bytes}, "
            f"usd_per_day: {each.bill.usd_per_day:.4f}}}",
        ]
        lines += cells
    return "\n".join(lines) + "\n\n"


def main() -> None:
    """Rewrite the costs, then what follows from them."""
    COSTS_FILE.write_text(costs_text(json.loads(RECORD.read_text("utf-8"))), encoding="ascii")
    read_costs.cache_clear()
    outlooks = [outlook_of(plan) for plan in PLANS]
    PAGE.write_text(hardware_page(outlooks), encoding="utf-8")
    COMPUTE.write_text(compute_text(outlooks), encoding="utf-8")


if __name__ == "__main__":
    main()
