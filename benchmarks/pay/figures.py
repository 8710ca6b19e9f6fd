"""Figures from recorded shares of pay: points of the curve, noise, and a split machine's pay.

Pure. Pay is relative to the mean of the usual machines of the same run, over the windows from
`FIRST` on.

Legend: W windows, M hotkeys, B blocks of windows, U usual machines.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.learning.record import interval
from benchmarks.pay.cases import FIRST, SETTLED, SPLIT, Machine, usual_uids

Floats = npt.NDArray[np.float64]
Row = Mapping[str, Any]

DAY_S: Final = 86_400.0
BAND: Final = 0.15
"""How far pay may be from work."""
SPLIT_LIMITS: Final = {1: None, 2: 1.05, 4: 1.10}
"""Hotkeys -> the most that they may be paid together, of one usual machine's pay."""


def machines_of(row: Row) -> list[Machine]:
    """The machines of a line of the record, by position."""
    return [Machine(**machine) for machine in row["machines"]]


def counted_shares(row: Row, first: int = FIRST) -> Floats:
    """Shares of pay from a window on, float64 [W, M]; ValueError without such a window."""
    shares_WM = np.array(row["shares"][first:], dtype=np.float64)
    if shares_WM.size == 0:
        raise ValueError(f"{len(row['shares'])} windows; pay counts from window {first} on")
    return shares_WM


def pays(row: Row, first: int = FIRST) -> list[float]:
    """Mean pay of each hotkey over the usual machines' mean; a usual machine's is over the mean of
    the other usual ones, so that it can differ from 1. ValueError if those earned nothing.
    """
    mean_M = counted_shares(row, first).mean(axis=0)
    usual = usual_uids(machines_of(row))
    found = []
    for uid, own in enumerate(mean_M):
        others = [other for other in usual if other != uid]
        unit = math.fsum(mean_M[others]) / len(others)
        if unit <= 0:
            raise ValueError("the usual machines earned nothing")
        found.append(float(own) / unit)
    return found


def curve(rows: Iterable[Row], where: str) -> list[dict[str, Any]]:
    """One line a point, by ascending work: mean pay with its 95 % interval over seeds; `low` and
    `high` are None from a single seed.

    The point of the usual machines is the first of them, over the others of its run. `settled`: the
    mean pay from window `SETTLED` on; `unpaid`: the share of counted windows without any pay.
    """
    settled: dict[str, list[float]] = {}
    unpaid: dict[str, list[float]] = {}
    pay: dict[str, list[float]] = {}
    work: dict[str, list[float]] = {}
    for row in rows:
        machines, found, late = machines_of(row), pays(row), pays(row, SETTLED)
        for name in dict.fromkeys(machine.name for machine in machines):
            uid = next(uid for uid, machine in enumerate(machines) if machine.name == name)
            pay.setdefault(name, []).append(found[uid])
            settled.setdefault(name, []).append(late[uid])
            unpaid.setdefault(name, []).append(float((counted_shares(row)[:, uid] == 0).mean()))
            work.setdefault(name, []).append(machines[uid].work)
    points = [
        {
            "work": float(np.mean(work[name])),
            **with_limits(pay[name]),
            "settled": float(np.mean(settled[name])),
            "unpaid": float(np.mean(unpaid[name])),
            "where": where,
            "name": name,
        }
        for name in pay
    ]
    return sorted(points, key=lambda point: point["work"])


def with_limits(values: Sequence[float]) -> dict[str, Any]:
    """`pay`, `low`, `high` and `seeds`: mean and 95 % interval; no interval from one value."""
    found = interval(values)
    is_known = not math.isnan(found.half)
    return {
        "pay": found.mean,
        "low": found.mean - found.half if is_known else None,
        "high": found.mean + found.half if is_known else None,
        "seeds": found.count,
    }


def outside(point: Mapping[str, Any]) -> bool:
    """Whether the mean pay is more than `BAND` away from the work."""
    return abs(point["pay"] / point["work"] - 1) > BAND


def deviation(runs: Sequence[Floats], windows: int) -> float:
    """Standard deviation of an equal machine's pay, averaged over so many windows; its mean is 1.

    `runs`: pay of equal machines, [W, U] each. Blocks of `windows` windows follow each other
    without overlap; a rest at the end is left out. The mean of the machines of a block is the unit,
    and what is lost to it is given back by U - 1 degrees of freedom. ValueError if no run is as
    long.
    """
    variances: list[float] = []
    for shares_WU in runs:
        for start in range(0, len(shares_WU) - windows + 1, windows):
            block_U = shares_WU[start : start + windows].mean(axis=0)
            variances.append(float((block_U / block_U.mean()).var(ddof=1)))
    if not variances:
        raise ValueError(f"no run has {windows} windows")
    return math.sqrt(math.fsum(variances) / len(variances))


def noise(rows: Sequence[Row], window_s: Mapping[str, float]) -> list[dict[str, Any]]:
    """How much an equal machine's pay varies, per window and per day of each plan.

    `rows`: runs of whose machines those of work 1 count; `window_s`: plan -> seconds of a window.
    Where a day has more windows than a run, `averaged` are those of the run: a whole day averages
    over more.
    """
    runs = [counted_shares(row)[:, equal_uids(row)] for row in rows]
    if not runs:
        return []
    longest = min(len(shares_WU) for shares_WU in runs)
    lines: list[dict[str, Any]] = [
        {"period": "window", "plan": "", "windows": 1, "averaged": 1, "sd": deviation(runs, 1)}
    ]
    for plan, seconds in window_s.items():
        in_a_day = max(1, round(DAY_S / seconds))
        averaged = min(in_a_day, longest)
        lines.append(
            {
                "period": "day",
                "plan": plan,
                "window_s": seconds,
                "windows": in_a_day,
                "averaged": averaged,
                "sd": deviation(runs, averaged),
            }
        )
    return lines


def splitting(rows: Iterable[tuple[int, Row]]) -> list[dict[str, Any]]:
    """What one machine is paid as so many hotkeys together, of a usual machine's pay; 95 %.

    `rows`: hotkeys and line of the record. `holds`: the mean is within the limit.
    """
    together: dict[int, list[float]] = {}
    for hotkeys, row in rows:
        found, machines = pays(row), machines_of(row)
        own = [pay for pay, machine in zip(found, machines, strict=True) if machine.name == SPLIT]
        together.setdefault(hotkeys, []).append(math.fsum(own))
    lines = []
    for hotkeys, values in sorted(together.items()):
        limit = SPLIT_LIMITS[hotkeys]
        line = {"hotkeys": hotkeys, **with_limits(values), "limit": limit}
        lines.append(line | {"holds": limit is None or line["pay"] <= limit})
    return lines


def equal_uids(row: Row) -> list[int]:
    """The hotkeys of a run that make the usual work."""
    return [uid for uid, machine in enumerate(machines_of(row)) if machine.work == 1.0]
