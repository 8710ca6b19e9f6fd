"""The verdict log of a window: a validator's measurements and everything computed from them.

JSON lines, each with a `kind`: one "window" (the pool and the losses before any step), one
"verdict" per committed payload (with the losses after the payload's step), one "reputation" per
hotkey of the last windows (work test and rating), one "weights". Numbers are written in Python's
shortest exact form, so reading gives the same bits.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from evaluation.conclusion import Reputation
from evaluation.judge import Measured
from evaluation.rating import Rating
from evaluation.verdict import FIGURES, Verdict
from evaluation.work import HELD_OUT, WINSOR, Floats, Ints, WorkState

MIN_HELD_OUT = 2
MAX_UID = 65_535
MAX_LOSS = 1e39
"""Nats per token; beyond every float32."""
MAX_RELATIVE_GAIN = 17.0
"""Bound of a gain over the root mean square of at most 256 gains: sqrt(256), and rounding."""


class LogError(ValueError):
    """The text is not a verdict log; names the line and the fault."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowLog:
    """One window.

    `seed`: hash of the block behind the pool's draw (hex). `ids_S`: the pool's pages. `known`:
    earlier windows in the validator's memory; fewer after an absence or a lost state.
    `undelivered`: (window, hotkey) pairs found undelivered by votes since the previous log.
    `uids`: uid of every hotkey with a weight. `shares`: uid -> weight.
    """

    window: int
    seed: str
    ids_S: Ints
    known: tuple[int, ...]
    undelivered: tuple[tuple[int, str], ...]
    measured: Measured
    verdicts: tuple[Verdict, ...]
    uids: Mapping[str, int]
    reputations: Mapping[str, Reputation]
    shares: Mapping[int, float]


def encode_log(log: WindowLog) -> str:
    """The window as JSON lines."""
    measured = log.measured
    rows: list[dict[str, Any]] = [
        {
            "kind": "window",
            "window": log.window,
            "seed": log.seed,
            "pages": log.ids_S.tolist(),
            "owners": measured.owners_S.tolist(),
            "before": _written(measured.before_S),
            "known": list(log.known),
            "undelivered": [list(found) for found in log.undelivered],
            "uids": dict(log.uids),
        }
    ]
    for verdict in log.verdicts:
        after_S = measured.after_S.get(verdict.uid)
        after = None if after_S is None else _written(after_S)
        rows.append({"kind": "verdict", **verdict.as_row(), "after": after})
    for hotkey, reputation in log.reputations.items():
        rows.append(
            {
                "kind": "reputation",
                "window": log.window,
                "hotkey": hotkey,
                "log_ratio": reputation.work.log_ratio,
                "holds": reputation.work.holds,
                "mu": reputation.rating.mu,
                "sigma": reputation.rating.sigma,
            }
        )
    shares = {str(uid): share for uid, share in log.shares.items()}
    rows.append({"kind": "weights", "window": log.window, "shares": shares})
    return "".join(json.dumps(row, sort_keys=True, allow_nan=False) + "\n" for row in rows)


def decode_log(text: str) -> WindowLog:
    """The window of `encode_log`; LogError for every text in another form."""
    rows: dict[str, list[dict[str, Any]]] = {}
    try:
        for line in text.splitlines():
            row = json.loads(line, parse_constant=_refuse_constant)
            rows.setdefault(row.pop("kind"), []).append(row)
        (head,), (weights,) = rows["window"], rows["weights"]
        verdicts = rows.get("verdict", [])
        measured = Measured(
            owners_S=np.array(head["owners"], dtype=np.int64),
            before_S=_read(head["before"]),
            after_S={r["uid"]: _read(r["after"]) for r in verdicts if r["after"] is not None},
        )
        log = WindowLog(
            window=int(head["window"]),
            seed=str(head["seed"]),
            ids_S=np.array(head["pages"], dtype=np.int64),
            known=tuple(map(int, head["known"])),
            undelivered=tuple((int(w), str(hotkey)) for w, hotkey in head["undelivered"]),
            measured=measured,
            verdicts=tuple(_verdict(row) for row in verdicts),
            uids={str(hotkey): int(uid) for hotkey, uid in head["uids"].items()},
            reputations={
                str(row["hotkey"]): _reputation(row) for row in rows.get("reputation", [])
            },
            shares={int(uid): float(share) for uid, share in weights["shares"].items()},
        )
        _check(log)
        is_canonical = encode_log(log).rstrip("\n") == text.rstrip("\n")
    except _MALFORMED as error:
        raise LogError(f"not a verdict log: {type(error).__name__}: {error}") from error
    if not is_canonical:
        raise LogError(f"window {log.window}: text is not in the canonical form of a verdict log")
    return log


_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)


def _check(log: WindowLog) -> None:
    """LogError unless the parts are consistent."""
    size = log.ids_S.shape
    losses = (log.measured.before_S, *log.measured.after_S.values())
    uids = [verdict.uid for verdict in log.verdicts]
    if len(size) != 1 or any(part.shape != size for part in (log.measured.owners_S, *losses)):
        raise LogError(f"window {log.window}: numbers of pages, owners and losses differ")
    if int((log.measured.owners_S == HELD_OUT).sum()) < MIN_HELD_OUT:
        raise LogError(f"window {log.window}: fewer than {MIN_HELD_OUT} held-out pages")
    if len(set(uids)) != len(uids) or not all(0 <= uid <= MAX_UID for uid in uids):
        raise LogError(f"window {log.window}: uids repeat, or are out of range")
    if any(verdict.window != log.window for verdict in log.verdicts):
        raise LogError(f"window {log.window}: a verdict belongs to another window")
    if not all(
        np.abs(loss_S[np.isfinite(loss_S)]).max(initial=0.0) <= MAX_LOSS for loss_S in losses
    ):
        raise LogError(f"window {log.window}: a loss exceeds {MAX_LOSS}")


def decode_logs(text: str) -> list[WindowLog]:
    """The windows of a file with one log after another."""
    return [decode_log(part) for part in split_logs(text)]


def split_logs(text: str) -> list[str]:
    """The texts of a file with one log after another."""
    windows: list[list[str]] = []
    for line in text.splitlines(keepends=True):
        if '"kind": "window"' in line:
            windows.append([])
        if not windows:
            raise LogError("the first line is not of kind window")
        windows[-1].append(line)
    return ["".join(lines) for lines in windows]


def _written(losses_S: Floats) -> list[float | None]:
    """JSON has no infinities: a loss without a finite value becomes null."""
    return [loss if math.isfinite(loss) else None for loss in losses_S.tolist()]


def _read(losses: Iterable[float | None]) -> Floats:
    return np.array([math.inf if loss is None else loss for loss in losses], dtype=np.float64)


def _verdict(row: Mapping[str, Any]) -> Verdict:
    known = {each.name for each in fields(Verdict)}
    verdict = Verdict(**{name: value for name, value in row.items() if name in known})
    for name, kinds in _KINDS.items():
        if type(getattr(verdict, name)) not in kinds:
            raise ValueError(f"uid {verdict.uid}: {name} is {getattr(verdict, name)!r}")
    if not abs(verdict.relative_gain or 0.0) <= MAX_RELATIVE_GAIN:
        raise ValueError(
            f"uid {verdict.uid}: relative_gain {verdict.relative_gain} is out of range"
        )
    variance = verdict.work_variance
    if not abs(verdict.work_effect or 0.0) <= WINSOR or (variance is not None and variance < 1e-9):
        raise ValueError(f"uid {verdict.uid}: work_effect or work_variance out of range")
    return verdict


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a finite number")


_REAL = (float, int, type(None))
_WHOLE = (int, type(None))
_KINDS = {
    "uid": (int,),
    **dict.fromkeys(("hotkey", "digest", "status", "detail"), (str,)),
    **dict.fromkeys(("pages_consumed", "base_window"), _WHOLE),
    **dict.fromkeys(FIGURES, _REAL),
}


def _reputation(row: Mapping[str, Any]) -> Reputation:
    return Reputation(
        work=WorkState(log_ratio=float(row["log_ratio"]), holds=bool(row["holds"])),
        rating=Rating(mu=float(row["mu"]), sigma=float(row["sigma"])),
    )
