"""The final table and summary of a localnet run, made from the report.

Owns columns and wording. The caller prints.
"""

from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from localnet.report import NeuronReport, Report, emission_shares
from localnet.roster import HONEST, shown_kind

DIGEST_CHARACTERS = 8
NOTHING = "-"
COLUMNS: Final[dict[str, tuple[JustifyMethod, int]]] = {
    "uid": ("right", 3),
    "name": ("left", 5),
    "behaviour": ("left", 5),
    "weight": ("right", 6),
    "incentive": ("right", 9),
    "emission": ("right", 8),
    "accepted": ("right", 8),
    "exit": ("right", 4),
    "digest": ("left", DIGEST_CHARACTERS),
}
"""Heading -> alignment and least width in characters, in the order of `_cells`."""
SHRINKING = ("name", "behaviour")
WORK_COLUMNS: Final[dict[str, JustifyMethod]] = {
    "miner": "left",
    "speed": "right",
    "busy": "right",
    "sent": "right",
    "accepted": "right",
    "pages": "right",
    "work": "right",
    "pay": "right",
}
LEGEND = """\
weight: mean of the validators' weights by stake
incentive: share after Yuma; emission: share of all miners' emission
accepted: payloads accepted / committed; exit: status of the process
digest: of the params at the end, equal on every healthy node
busy: median share of a window in inner steps; pages: claimed in payloads
work: share of the honest miners' pages; pay: share of all miners' emission"""


def final_table(report: Report) -> Table:
    """One row per neuron: behaviour, weight, pay, accepted payloads, exit status and digest.

    Fits 80 columns with names of up to 16 characters; longer names are cut.
    """
    title = f"Run {report['run_id'][:16]}"
    table = Table(title=title, box=SIMPLE_HEAD, padding=0, show_edge=False)
    for heading, (justify, min_width) in COLUMNS.items():
        table.add_column(
            heading,
            justify=justify,
            min_width=min_width,
            no_wrap=True,
            overflow="ellipsis",
        )
    shares = emission_shares(report)
    for neuron in report["neurons"]:
        style = "" if neuron["behaviour"] == HONEST else "yellow"
        table.add_row(*_cells(neuron, shares.get(neuron["name"])), style=style)
    return table


def work_table(report: Report) -> Table:
    """One row per miner: how fast, how busy, what it sent, and its share of work and of pay."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for heading, justify in WORK_COLUMNS.items():
        table.add_column(heading, justify=justify, no_wrap=True, overflow="ellipsis")
    shares = emission_shares(report)
    for neuron in report["neurons"]:
        if neuron["role"] == "miner":
            style = "" if neuron["behaviour"] == HONEST else "yellow"
            table.add_row(*_work_cells(neuron, shares[neuron["name"]]), style=style)
    return table


def summary(report: Report) -> Text:
    """The run in a few lines: the tables' terms, loss, windows, refusals, restarts, time."""
    losses = report["held_out_loss"]
    windows = report["windows"]
    empty = sum(not window["accepted_uids"] for window in windows)
    earned = sum(n["emission"] for n in report["neurons"] if n["role"] == "miner")
    return Text.assemble(
        (f"{LEGEND}\n", "dim"),
        _misbehaviours(report),
        _refusals(report),
        _restarts(report),
        _pace(report),
        "Held-out loss ",
        (f"{_number(losses['first'])} -> {_number(losses['last'])}", "bold"),
        f" nats per token; unigram entropy {_number(losses['unigram'])}.\n",
        f"{len(windows)} windows decided, {empty} of them empty; ",
        f"the miners earned {earned:.4f} alpha; {_duration(report['wall_s'])} in all.",
        _model(report),
    )


def _pace(report: Report) -> str:
    """The block time of the run and what it rests on, in a line."""
    pace = report["pace"]
    if pace is None:
        return ""
    costs, load = pace["costs"], pace["load"]
    why = "measured" if pace["asked_s"] is None else "as --block-time asks for"
    text = (
        f"Blocks of {pace['block_time_s']:g} s, windows of {pace['window_s']:.3g} s ({why}): a "
        f"window takes {load['total_s']:.2g} s of CPU, {costs['cores']:.1f} cores were free; all "
        f"neurons were ready {pace['startup_s']:.0f} s after their start.\n"
    )
    if pace["changes"]:
        first_block, _ = pace["changes"][0]
        text += f"The machine got busier: blocks were made longer from block {first_block} on.\n"
    return text


def _model(report: Report) -> str:
    model = report["model"]
    if model is None:
        return ""
    return (
        f"\nA reader fetched theta_{model['window']} ({model['parameters']:,} parameters) by the "
        f"votes; loss {_number(model['loss'])}."
    )


def _misbehaviours(report: Report) -> str:
    """A line per misbehaving neuron: kind, and pay relative to an honest neuron."""
    lines = []
    for neuron in report["neurons"]:
        found = neuron["misbehaviour"]
        if found is None:
            continue
        whose = "an honest miner's pay"
        if neuron["role"] == "validator":
            whose = "honest validators' pay for equal stake"
        limit = "" if found["may_earn"] is None else f", may earn {found['may_earn']:.2f}"
        since = f" since window {found['first_window']}" if found["first_window"] else ""
        earned = _number(found["earned_vs_honest"])
        lines.append(
            f"{neuron['name']} ({found['kind']}) earned {earned} of {whose}{since}{limit}.\n"
        )
    return "".join(lines)


def _refusals(report: Report) -> str:
    """A line per neuron with refused payloads: the count of each refusal status."""
    lines = []
    for neuron in report["neurons"]:
        reasons = [f"{count} {reason}" for reason, count in neuron["refusals"].items()]
        if reasons:
            lines.append(f"Verdicts against {neuron['name']}: {', '.join(reasons)}.\n")
    return "".join(lines)


def _restarts(report: Report) -> str:
    died = [f"{name} {count}" for name, count in report["restarts"].items() if count]
    return f"Restarts after a crash: {', '.join(died)}.\n" if died else ""


def _cells(neuron: NeuronReport, emission_share: float | None) -> list[str]:
    digest = neuron["final_params_digest"]
    return [
        NOTHING if neuron["uid"] is None else str(neuron["uid"]),
        neuron["name"],
        shown_kind(neuron["role"], neuron["behaviour"]),
        _number(neuron["weight"]),
        _number(neuron["incentive"]),
        NOTHING if emission_share is None else f"{emission_share:.1%}",
        _accepted(neuron),
        NOTHING if neuron["exit"] is None else str(neuron["exit"]),
        NOTHING if digest is None else digest[:DIGEST_CHARACTERS],
    ]


def _work_cells(neuron: NeuronReport, emission_share: float) -> list[str]:
    return [
        neuron["name"],
        f"{neuron['speed']:g}",
        _percent(neuron["utilisation"]),
        str(neuron["payloads_committed"]),
        str(neuron["payloads_accepted"]),
        f"{neuron['pages_claimed']:,}",
        _percent(neuron["work_share"]),
        _percent(emission_share),
    ]


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.1%}"


def _accepted(neuron: NeuronReport) -> str:
    if neuron["role"] != "miner":
        return NOTHING
    return f"{neuron['payloads_accepted']}/{neuron['payloads_committed']}"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
