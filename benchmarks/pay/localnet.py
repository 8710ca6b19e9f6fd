"""Points of the curve from a localnet: real processes, and the alpha that the chain paid.

Read from the report and from the validators' logs beside it: the report counts a miner's pages, and
the logs say of which part of the model.
"""

import hashlib
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.learning.record import append
from benchmarks.learning.trial import KEY_DIGITS
from benchmarks.pay.cases import LOCALNET
from localnet.events import read_jsonl, verdict_files
from localnet.roster import HONEST

TOLERANCE: Final = 0.1
"""Of the usual work: within it, a miner is one of the usual machines."""


def record_report(report: Path, record: Path) -> str:
    """Append a localnet's points to the record; the words to say so.

    ValueError for a report without an honest miner with work and pay.
    """
    content = json.loads(report.read_text())
    validators = [n["name"] for n in content["neurons"] if _is_honest(n, "validator")]
    files = [path for name in validators for path in verdict_files(report.parent / "nodes" / name)]
    done = pages_by_hotkey(row for path in files for row in read_jsonl(path))
    points = points_of(content["neurons"], done)
    digest = hashlib.sha256(content["run_id"].encode()).hexdigest()
    case = {"where": LOCALNET, "run_id": content["run_id"], "windows": len(content["windows"])}
    append(record, {"key": digest[:KEY_DIGITS], "case": case, "points": points})
    return f"{len(points)} miners of run {content['run_id'][:16]}"


def pages_by_hotkey(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """hotkey -> claimed pages times their share of the model, each payload counted once."""
    claims: dict[tuple[str, int], float] = {}
    for row in rows:
        if row.get("kind") == "verdict" and row.get("pages_consumed"):
            claims[row["hotkey"], row["window"]] = row["pages_consumed"] * row["model_share"]
    pages: dict[str, float] = {}
    for (hotkey, _), count in claims.items():
        pages[hotkey] = pages.get(hotkey, 0.0) + count
    return pages


def points_of(
    neurons: Sequence[Mapping[str, Any]], pages: Mapping[str, float]
) -> list[dict[str, Any]]:
    """A point for each honest miner, by ascending work: work and emission over the usual machines'.

    The usual machines are the miners that run at full speed and have the median of such miners'
    work, within `TOLERANCE`. There is one run, and so no interval.
    """
    miners = [neuron for neuron in neurons if _is_honest(neuron, "miner")]
    work = {miner["name"]: pages.get(miner["hotkey"], 0.0) for miner in miners}
    full = [work[miner["name"]] for miner in miners if miner["speed"] == 1.0]
    if not full or not statistics.median_low(full):
        raise ValueError("the report has no honest miner of full speed with a payload")
    usual_work = statistics.median_low(full)
    usual = [
        miner
        for miner in miners
        if miner["speed"] == 1.0 and abs(work[miner["name"]] / usual_work - 1) <= TOLERANCE
    ]
    unit_rao = statistics.fmean(miner["emission_rao"] for miner in usual)
    unit_work = statistics.fmean(work[miner["name"]] for miner in usual)
    if not unit_rao:
        raise ValueError("the usual machines of the report earned nothing")
    points = [
        {
            "work": work[miner["name"]] / unit_work,
            "pay": miner["emission_rao"] / unit_rao,
            "low": None,
            "high": None,
            "settled": None,
            "unpaid": None,
            "seeds": 1,
            "where": LOCALNET,
            "name": miner["name"],
        }
        for miner in miners
    ]
    return sorted(points, key=lambda point: point["work"])


def _is_honest(neuron: Mapping[str, Any], role: str) -> bool:
    return (neuron["role"], neuron["behaviour"]) == (role, HONEST)
