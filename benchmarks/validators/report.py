"""Tables of what validators earn, and of how miners are paid, beside each other."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.validators.roles import ROLES

Row = Mapping[str, Any]


def text_of(modelled: Sequence[Row], played: Sequence[Row]) -> str:
    """Both tables as markdown, a row for each case: dividends by stake, over an honest one's."""
    return "\n\n".join(
        f"## {title}\n\n{_table(rows)}"
        for title, rows in (("Modelled miners", modelled), ("Played swarms", played))
        if rows
    )


def _table(rows: Sequence[Row]) -> str:
    head = ["case", *ROLES, "pay: error (luck)", "per epoch", "per day"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        pay = row["pay"]
        lines.append(
            [
                _name(row),
                *(f"{row['dividends'][role]['mean']:.3f}" for role in ROLES),
                f"{pay['error']:.3f} ({pay['luck']:.3f})",
                f"{pay['per_epoch']:.2f}",
                f"{pay['per_day']:.2f}" if "per_day" in pay else "",
            ]
        )
    return _joined(lines)


def _joined(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _name(row: Row) -> str:
    if "miners" not in row:
        return f"{row['rule']}, {row['yuma']}"
    work = "equal" if row["equal"] else "unequal"
    return (
        f"{row['miners']} {work}, noise {row['noise']:.0%}, {row['rule']}, {row['yuma']}, "
        f"stake {row['stake']:.0%}"
    )
