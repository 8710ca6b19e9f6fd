"""The verdict log of a window: a validator's measurements and everything computed from them.

JSON lines, each with a `kind`: one "window" (the pool, the losses before any step
and half-way through the last outer step, and the opinion of alpha), one
"verdict" per committed payload (with the losses after the payload's step, on held-out and own
pages in the pool's order), one "reputation" per
hotkey of the last windows (work test, gain test and rating), one "weights". Numbers are written
in Python's shortest exact form, so reading gives the same bits.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.conclusion import Reputation
from evaluation.evidence import Evidence, GainState
from evaluation.gain import WORST_RELATIVE_GAIN
from evaluation.judge import Measured
from evaluation.log_values import (
    MALFORMED,
    MAX_EXPONENT,
    MAX_GAIN,
    MAX_LOG_RATIO,
    MAX_PAGE_ID,
    MAX_PAGES,
    MAX_PARTS,
    MAX_RATING,
    MAX_RELATIVE_GAIN,
    MAX_SQUARE,
    MAX_UID,
    MAX_VARIANCE,
    MAX_WIDTH,
    MAX_WINDOW,
    MIN_SHARE,
    MIN_VARIANCE,
    detail_of,
    digest_of,
    fault,
    flag,
    hotkey_of,
    losses,
    maybe,
    parse_row,
    quarters,
    real,
    status_of,
    table,
    uids_of,
    whole,
    whole_numbers,
)
from evaluation.rating import Rating
from evaluation.verdict import Verdict
from evaluation.work import HELD_OUT, MOST_SHOWN, QUARTERS, WINSOR, Floats, Ints, WorkState

MIN_HELD_OUT = 2
HEAD_MARK = '"kind": "window"'
"""Part of a log's first line and of no other line: quotes within a text are escaped."""
END_MARK = '"kind": "weights"'
"""Part of a log's last line and of no other line."""


class LogError(ValueError):
    """The text is not a verdict log; names the line and the fault."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowLog:
    """One window.

    `seed`: hash of the block behind the pool's draw (hex). `ids_S`: the pool's pages. `known`:
    earlier windows in the validator's memory; fewer after an absence or a lost state.
    `undelivered`: (window, hotkey) pairs found undelivered by votes since the previous log.
    `uids`: uid of every hotkey with a weight. `burn_uid`: uid of the subnet owner's hotkey, None
    for a hotkey without one. `shares`: uid -> weight. `exponent`: of alpha, in the state scored.
    `pace`: the validator's opinion of alpha, -1, 0 or 1.
    """

    window: int
    seed: str
    ids_S: Ints
    known: tuple[int, ...]
    undelivered: tuple[tuple[int, str], ...]
    measured: Measured
    verdicts: tuple[Verdict, ...]
    uids: Mapping[str, int]
    burn_uid: int | None
    reputations: Mapping[str, Reputation]
    shares: Mapping[int, float]
    exponent: int
    pace: int


def encode_log(log: WindowLog) -> str:
    """The window as JSON lines."""
    measured, half_way_H = log.measured, log.measured.half_way_H
    rows: list[dict[str, Any]] = [
        {
            "kind": "window",
            "window": log.window,
            "seed": log.seed,
            "pages": log.ids_S.tolist(),
            "owners": measured.owners_S.tolist(),
            "before": _written(measured.before_SQ),
            "half_way": None if half_way_H is None else _written(half_way_H),
            "exponent": log.exponent,
            "pace": log.pace,
            "known": list(log.known),
            "undelivered": [list(found) for found in log.undelivered],
            "uids": dict(log.uids),
            "burn_uid": log.burn_uid,
        }
    ]
    for verdict in log.verdicts:
        after_KQ = measured.after_KQ.get(verdict.uid)
        after = None if after_KQ is None else _written(after_KQ)
        rows.append({"kind": "verdict", **verdict.as_row(), "after": after})
    for hotkey, reputation in log.reputations.items():
        rows.append(
            {
                "kind": "reputation",
                "window": log.window,
                "hotkey": hotkey,
                "work_log_ratio": reputation.evidence.work.log_ratio,
                "work_holds": reputation.evidence.work.holds,
                "gain_log_ratio": reputation.evidence.gain.log_ratio,
                "gain_holds": reputation.evidence.gain.holds,
                "mu": reputation.rating.mu,
                "sigma": reputation.rating.sigma,
            }
        )
    shares = {str(uid): share for uid, share in log.shares.items()}
    rows.append({"kind": "weights", "window": log.window, "shares": shares})
    return "".join(json.dumps(row, sort_keys=True, allow_nan=False) + "\n" for row in rows)


def decode_log(text: str) -> WindowLog:
    """The window of `encode_log`; LogError for every text in another form."""
    rows = _rows(text)
    try:
        (head,), (weights,) = rows["window"], rows["weights"]
        log = _log(head, rows.get("verdict", []), rows.get("reputation", []), weights)
        _check(log)
        is_canonical = encode_log(log).rstrip("\n") == text.rstrip("\n")
    except MALFORMED as error:
        raise LogError(f"not a verdict log: {fault(error)}") from error
    if not is_canonical:
        raise LogError(f"window {log.window}: text is not in the canonical form of a verdict log")
    return log


def _rows(text: str) -> dict[str, list[dict[str, Any]]]:
    """The lines by kind; LogError names the line that is none."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            row = parse_row(line)
            rows.setdefault(row.pop("kind"), []).append(row)
        except MALFORMED as error:
            raise LogError(f"not a verdict log: line {number}: {fault(error)}") from error
    return rows


Row = Mapping[str, Any]


def _log(head: Row, verdicts: Sequence[Row], reputations: Sequence[Row], weights: Row) -> WindowLog:
    return WindowLog(
        window=whole(head["window"], "window", MAX_WINDOW),
        seed=digest_of(head["seed"], "seed"),
        ids_S=whole_numbers(head["pages"], "a page", MAX_PAGE_ID),
        known=tuple(whole(window, "a known window", MAX_WINDOW) for window in head["known"]),
        undelivered=tuple(
            (whole(window, "an undelivered window", MAX_WINDOW), hotkey_of(hotkey))
            for window, hotkey in head["undelivered"]
        ),
        measured=Measured(
            owners_S=whole_numbers(head["owners"], "an owner", MAX_UID, HELD_OUT),
            before_SQ=quarters(head["before"]),
            after_KQ={
                whole(row["uid"], "uid", MAX_UID): quarters(row["after"])
                for row in verdicts
                if row["after"] is not None
            },
            half_way_H=None if head["half_way"] is None else losses(head["half_way"]),
        ),
        verdicts=tuple(_verdict(row) for row in verdicts),
        uids={
            hotkey_of(hotkey): whole(uid, "uid", MAX_UID)
            for hotkey, uid in table(head["uids"], "uids").items()
        },
        burn_uid=maybe(head["burn_uid"], "burn_uid", MAX_UID, 0, whole),
        reputations={hotkey_of(row["hotkey"]): _reputation(row) for row in reputations},
        shares={
            whole(int(uid), "uid", MAX_UID): real(share, "a share", 1.0, 0.0)
            for uid, share in table(weights["shares"], "shares").items()
        },
        exponent=whole(head["exponent"], "exponent", MAX_EXPONENT, -MAX_EXPONENT),
        pace=whole(head["pace"], "pace", 1, -1),
    )


def _check(log: WindowLog) -> None:
    """LogError unless the parts are consistent."""
    size = log.ids_S.shape
    owners_S = log.measured.owners_S
    uids = [verdict.uid for verdict in log.verdicts]
    if len(size) != 1 or any(
        part.shape != size for part in (owners_S, log.measured.before_SQ[:, 0])
    ):
        raise LogError(f"window {log.window}: numbers of pages, owners and losses differ")
    num_held_out = int((owners_S == HELD_OUT).sum())
    for uid, after_KQ in log.measured.after_KQ.items():
        if len(after_KQ) != num_held_out + int((owners_S == uid).sum()):
            raise LogError(f"window {log.window}, uid {uid}: losses are not of its pages")
    if num_held_out < MIN_HELD_OUT:
        raise LogError(f"window {log.window}: fewer than {MIN_HELD_OUT} held-out pages")
    half_way_H = log.measured.half_way_H
    if half_way_H is not None and half_way_H.shape != (num_held_out,):
        raise LogError(f"window {log.window}: losses half-way are not of the held-out pages")
    if len(set(uids)) != len(uids):
        raise LogError(f"window {log.window}: uids repeat")
    if any(verdict.window != log.window for verdict in log.verdicts):
        raise LogError(f"window {log.window}: a verdict belongs to another window")


def decode_logs(text: str) -> list[WindowLog]:
    """The windows of a file with one log after another."""
    return [decode_log(part) for part in split_logs(text.splitlines(keepends=True))]


def split_logs(lines: Iterable[str]) -> Iterator[str]:
    """The texts of one log after another, from the lines of a file; one log in memory at a time."""
    log: list[str] = []
    for line in lines:
        if HEAD_MARK in line and log:
            yield "".join(log)
            log = []
        if not log and HEAD_MARK not in line:
            raise LogError("the first line is not of kind window")
        log.append(line)
    if log:
        yield "".join(log)


def _written(losses: Floats) -> list[Any]:
    """JSON has no infinities: a loss without a finite value becomes null."""
    if losses.ndim > 1:
        return [_written(row) for row in losses]
    return [loss if math.isfinite(loss) else None for loss in losses.tolist()]


def _verdict(row: Row) -> Verdict:
    parts = whole(row["parts"], "parts", MAX_PARTS, 1)
    return Verdict(
        window=whole(row["window"], "window", MAX_WINDOW),
        uid=whole(row["uid"], "uid", MAX_UID),
        hotkey=hotkey_of(row["hotkey"]),
        digest=digest_of(row["digest"], "digest"),
        status=status_of(row["status"]),
        detail=detail_of(row["detail"]),
        gain=maybe(row["gain"], "gain", MAX_GAIN, -MAX_GAIN),
        gain_standard_error=maybe(row["gain_standard_error"], "gain_standard_error", MAX_GAIN, 0.0),
        relative_gain=maybe(
            row["relative_gain"], "relative_gain", MAX_RELATIVE_GAIN, WORST_RELATIVE_GAIN
        ),
        pages_consumed=maybe(row["pages_consumed"], "pages_consumed", MAX_PAGES, 0, whole),
        base_window=maybe(row["base_window"], "base_window", MAX_WINDOW, 0, whole),
        width=whole(row["width"], "width", MAX_WIDTH, 1),
        part=whole(row["part"], "part", parts - 1),
        parts=parts,
        model_share=real(row["model_share"], "model_share", 1.0, MIN_SHARE),
        alike=uids_of(row["alike"], "a uid alike"),
        work_effect=maybe(row["work_effect"], "work_effect", WINSOR, -WINSOR),
        work_variance=maybe(row["work_variance"], "work_variance", MAX_VARIANCE, MIN_VARIANCE),
        page_effect=maybe(row["page_effect"], "page_effect", MOST_SHOWN, -MOST_SHOWN),
        page_square=maybe(row["page_square"], "page_square", MAX_SQUARE, 0.0),
        quarter_profile=_profile(row["quarter_profile"]),
        gain_log_ratio=maybe(
            row["gain_log_ratio"], "gain_log_ratio", 2 * MAX_LOG_RATIO, -2 * MAX_LOG_RATIO
        ),
        half_gap=maybe(row["half_gap"], "half_gap", 2 * MAX_GAIN, -2 * MAX_GAIN),
    )


def _profile(value: object) -> tuple[float, ...]:
    """An effect of each quarter, or none at all; ValueError otherwise."""
    if not isinstance(value, list) or len(value) not in (0, QUARTERS):
        raise ValueError(f"quarter_profile is no list of {QUARTERS} numbers")
    return tuple(real(each, "quarter_profile", MOST_SHOWN, -MOST_SHOWN) for each in value)


def _reputation(row: Row) -> Reputation:
    return Reputation(
        evidence=Evidence(
            work=WorkState(log_ratio=_log_ratio(row, "work"), holds=_holds(row, "work")),
            gain=GainState(log_ratio=_log_ratio(row, "gain"), holds=_holds(row, "gain")),
        ),
        rating=Rating(
            mu=real(row["mu"], "mu", MAX_RATING, -MAX_RATING),
            sigma=real(row["sigma"], "sigma", MAX_RATING, 0.0),
        ),
    )


def _log_ratio(row: Row, test: str) -> float:
    name = f"{test}_log_ratio"
    return real(row[name], name, MAX_LOG_RATIO, -MAX_LOG_RATIO)


def _holds(row: Row, test: str) -> bool:
    name = f"{test}_holds"
    return flag(row[name], name)
