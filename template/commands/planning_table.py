"""The planner's answer as tables of rich. Owns columns and wording; the caller prints."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from template.planning import covenant
from template.planning.case import Case
from template.planning.outlook import Outlook, RoleOutlook, Smallest, assumptions, work_sentence
from template.planning.phases import INNER_STEPS, Phase

NONE: Final = "none"


def render(outlook: Outlook) -> Iterator[RenderableType]:
    """Everything, from top to bottom."""
    case = outlook.case
    yield Text(f"{case.spec.name} on {case.machine.name}{_cut_words(case)}", style="bold")
    yield Text(
        f"{case.parameters:,} parameters; payload {amount(case.own_payload_bytes)}, theta_0 "
        f"{amount(case.theta0_bytes)}; windows of {case.window_s:,.0f} s; "
        f"{case.line.up_mbps:g}/{case.line.down_mbps:g} Mb/s up/down; {case.peers} miners, "
        f"{case.validators} validators"
    )
    yield roles_table(outlook.roles)
    window = outlook.miner
    yield phase_table("A miner's window", window.phases, window.window_s)
    yield utilisation_text(outlook)
    yield changes_table(outlook)
    yield phase_table(
        "A validator's window", outlook.validator.phases, window.window_s, last_column="beside"
    )
    yield Text(f"\nThe work test: {work_sentence(outlook)}")
    yield smallest_text(outlook)
    if outlook.faults:
        yield Text("\nWhat does not work", style="bold yellow")
        yield bullets(outlook.faults)
    yield Text("\nAssumed", style="bold")
    yield bullets(assumptions(case))


def _cut_words(case: Case) -> str:
    if case.parts == 1:
        return ""
    return f", in {case.parts} parts{', frozen on the host' * (case.frozen == 'host')}"


def amount(num_bytes: float) -> str:
    """Bytes with three digits."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:,.3g} {unit}"
    return f"{num_bytes / 1e3:,.3g} kB" if num_bytes else "-"


def span(seconds: float) -> str:
    """Seconds, with a digit after the point where they are few."""
    if seconds == 0:
        return "-"
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:,.2f} s"


def dollars(usd: float) -> str:
    """Dollars, in cents where there are some."""
    return f"${usd:,.2f}" if usd >= 0.1 else f"${usd:.2g}"


def table(title: str, *columns: str) -> Table:
    """A table whose first column is words and the others figures."""
    made = Table(title=title, box=SIMPLE_HEAD, title_justify="left", show_edge=False)
    for number, name in enumerate(columns):
        made.add_column(name, justify="right" if number else "left")
    return made


def roles_table(roles: Sequence[RoleOutlook]) -> Table:
    """What each role needs, a column each."""
    made = table("Needs", "", *(each.role for each in roles))
    rows: list[tuple[str, Iterable[str]]] = [
        ("up, a window (owner: once)", (amount(each.up_bytes) for each in roles)),
        ("down, a window", (amount(each.down_bytes) for each in roles)),
        ("memory of each device", (amount(each.memory.device_bytes) for each in roles)),
        ("memory of the host", (amount(each.memory.host_bytes) for each in roles)),
        ("disk", (amount(each.memory.disk_bytes) for each in roles)),
        ("bucket, at most", (amount(each.bill.storage.total_bytes) for each in roles)),
        ("bucket, a day (R2)", (dollars(each.bill.usd_per_day) for each in roles)),
    ]
    for name, cells in rows:
        made.add_row(name, *cells)
    miner = roles[0].memory
    if miner.micro_batch:
        how = " with activation checkpointing" if miner.is_checkpointing else ""
        made.caption = f"miner: {miner.micro_batch} pages a pass on each device{how}"
    return made


def phase_table(
    title: str, phases: Sequence[Phase], window_s: float, last_column: str = "behind training"
) -> Table:
    """Seconds of each phase: all, hidden, blocking; and the bytes."""
    made = table(title, "phase", "takes", last_column, "blocks", "share", "bytes", "why")
    made.columns[-1].justify = "left"
    for phase in phases:
        is_training = phase.name == INNER_STEPS
        made.add_row(
            phase.name,
            span(phase.seconds),
            span(min(phase.hidden_s, phase.seconds)),
            "" if is_training else span(phase.blocking_s),
            f"{phase.blocking_s / window_s:.1%}",
            amount(phase.up_bytes + phase.down_bytes),
            phase.why,
            style="bold" if is_training else "",
        )
    return made


def utilisation_text(outlook: Outlook) -> Text:
    """Share of a window in inner steps: the plan's, what fits, and Covenant-72B's beside ours."""
    window, case = outlook.miner, outlook.case
    lines = [
        f"utilisation {window.utilisation:.1%}: {window.training_s:,.0f} of "
        f"{window.window_s:,.0f} s in inner steps, {window.done_share:.0%} of the plan's "
        f"{case.spec.training.inner_steps} steps ({window.steps_s:,.0f} s)",
        f"left for inner steps by the code of today: {window.utilisation_limit:.1%}",
    ]
    if case.parameters == covenant.PARAMETERS:
        theirs = covenant.payload_bytes()
        lines += [
            f"Covenant-72B: payload {amount(theirs)}; {covenant.stated_utilisation():.1%} at its "
            f"stated {covenant.COMMUNICATION_S:.0f} s; on this line, nothing hidden: "
            f"{covenant.literal_utilisation(theirs, case.line, case.peers):.1%}, with this run's "
            f"payload {covenant.ours(case):.1%}",
        ]
    return Text("\n".join(lines))


def changes_table(outlook: Outlook) -> Table:
    """The share of a window left for inner steps, with one change of the code after another."""
    made = table("What would change it, one after another", "change", "left")
    made.add_row("the code of today", f"{outlook.miner.utilisation_limit:.1%}")
    for change in outlook.changes:
        made.add_row(f"+ {change.name}", f"{change.utilisation_limit:.1%}")
    return made


def smallest_text(outlook: Outlook) -> Text:
    """The smallest machines of the classes."""
    found = outlook.smallest
    return Text(
        f"\nsmallest machine of the classes: a miner's model fits in {found.miner or NONE}, a "
        f"validator's in {found.validator or NONE}; all inner steps in time, by the code of "
        f"today: {found.in_time or NONE}; the least memory in which one device trains a part: "
        f"{range_words(found)}"
    )


def range_words(found: Smallest) -> str:
    """The smallest device for a block range, and how the model is cut there."""
    if found.in_range is None:
        return NONE
    if found.range_parts == 1:
        return found.in_range
    where = ", frozen on the host" * (found.range_frozen == "host")
    return f"{found.in_range} ({found.range_parts} parts{where})"


def bullets(sentences: Iterable[str]) -> Text:
    """A line each."""
    return Text("\n".join(f"- {sentence}" for sentence in sentences))
