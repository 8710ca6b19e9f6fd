"""Tables of what validators earn, and of how miners are paid, beside each other."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.validators.roles import ROLES

Row = Mapping[str, Any]


def text_of(modelled: Sequence[Row], played: Sequence[Row], weak: Sequence[Row]) -> str:
    """All tables as markdown, a row for each case: dividends by stake, over an honest one's."""
    blocks = []
    for title, rows in (("Modelled miners", modelled), ("Played swarms", played)):
        if rows:
            blocks.append(f"## {title}\n\n{_table(rows)}")
    if weak:
        blocks.append(f"## A miner with half of the gain\n\n{_weak_table(weak)}")
    return "\n\n".join(blocks)


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


def _weak_table(rows: Sequence[Row]) -> str:
    head = ["page noise, gains", "rule", "its pay over another's", "more", "epochs with an unpaid"]
    lines = [head, ["---"] * len(head)]
    lines += [
        [
            f"{row['page_noise']:.0f}",
            row["rule"],
            f"{row['pay']:.3f} \u00b1 {row['pay_error']:.3f}",
            f"{row['more']:+.3f} \u00b1 {row['more_error']:.3f}",
            f"{row['epochs_with_unpaid']:.0%}",
        ]
        for row in rows
    ]
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
