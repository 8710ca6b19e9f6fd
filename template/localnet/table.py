"""The table that a localnet run ends with, made from its report.

Owns columns and wording. Does not print: the caller has the console.
"""

from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from template.localnet.report import NeuronReport, Report, emission_shares
from template.localnet.roster import HONEST

DIGEST_CHARACTERS = 8
NOTHING = "-"
COLUMNS: Final[dict[str, tuple[JustifyMethod, int]]] = {
    "uid": ("right", 3),
    "name": ("left", 5),
    "behaviour": ("left", 5),
    "weight": ("right", 6),
    "incen-\ntive": ("right", 6),
    "emis-\nsion": ("right", 6),
    "com-\nmitted": ("right", 6),
    "ac-\ncepted": ("right", 6),
    "exit": ("right", 4),
    "digest": ("left", DIGEST_CHARACTERS),
    "refused": ("left", 8),
}
"""Heading -> alignment and least width in characters, in the order of `_cells`."""
SHRINKING = ("name", "behaviour", "refused")


def final_table(report: Report) -> Table:
    """One row per neuron: what it did, what it was paid, where it ended and who refused it.

    Wants 90 columns; at 80 long names are cut and reasons wrapped.
    """
    title = f"Run {report['run_id'][:16]}"
    table = Table(title=title, box=SIMPLE_HEAD, padding=0, show_edge=False)
    for heading, (justify, min_width) in COLUMNS.items():
        table.add_column(
            heading,
            justify=justify,
            min_width=min_width,
            no_wrap=heading not in SHRINKING,
            overflow="fold" if heading == "refused" else "ellipsis",
        )
    shares = emission_shares(report)
    for neuron in report["neurons"]:
        style = "" if neuron["behaviour"] == HONEST else "yellow"
        table.add_row(*_cells(neuron, shares.get(neuron["name"])), style=style)
    return table


def summary(report: Report) -> Text:
    """The run in a few lines: loss before and after, windows, time."""
    losses = report["held_out_loss"]
    windows = report["windows"]
    empty = sum(not window["accepted_uids"] for window in windows)
    earned = sum(n["emission"] for n in report["neurons"] if n["role"] == "miner")
    return Text.assemble(
        "Held-out loss ",
        (f"{_number(losses['first'])} -> {_number(losses['last'])}", "bold"),
        f" nats per token; entropy of single tokens {_number(losses['unigram'])}.\n",
        f"{len(windows)} windows decided, {empty} of them empty; ",
        f"the miners earned {earned:.4f} alpha; {_duration(report['wall_s'])} in all.",
    )


def _cells(neuron: NeuronReport, emission_share: float | None) -> list[str]:
    digest = neuron["final_params_digest"]
    return [
        NOTHING if neuron["uid"] is None else str(neuron["uid"]),
        neuron["name"],
        _kind(neuron),
        _number(neuron["weight"]),
        _number(neuron["incentive"]),
        NOTHING if emission_share is None else f"{emission_share:.1%}",
        str(neuron["payloads_committed"]),
        str(neuron["payloads_accepted"]),
        NOTHING if neuron["exit"] is None else str(neuron["exit"]),
        NOTHING if digest is None else digest[:DIGEST_CHARACTERS],
        "\n".join(f"{count} {reason}" for reason, count in neuron["refusals"].items()) or NOTHING,
    ]


def _kind(neuron: NeuronReport) -> str:
    """A miner's behaviour, and what else the others do than their role."""
    role, behaviour = neuron["role"], neuron["behaviour"]
    if role == "miner":
        return behaviour
    return role if behaviour == HONEST else f"{behaviour} {role}"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
