"""The verdict log of a window: what a validator measured, and all that follows from it.

JSON lines, each with its `kind`: one "window" (the pool and the losses before any step), one
"verdict" per payload committed (with the losses after its step), one "reputation" per hotkey of
the last windows (work test and rating), one "weights". Numbers are written as Python writes
them, so that they are read back to the last bit.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from evaluation.history import Histories, only, remember, settle, work_states
from evaluation.judge import JudgeRules, Measured, judge
from evaluation.rating import Rating, ratings_of
from evaluation.verdict import MEASURED, NOT_SCORED, Verdict
from evaluation.weights import WeightRules, chain_weights
from evaluation.work import HELD_OUT, WINSOR, Floats, Ints, WorkState

MIN_HELD_OUT = 2
MAX_UID = 65_535
MAX_LOSS = 1e39
"""Nats per token; no float32 is larger."""
MAX_RELATIVE_GAIN = 17.0
"""A gain over the root mean square of no more than 256."""


class LogError(ValueError):
    """The text is no verdict log; names the line and what is wrong with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PayRules:
    """How verdicts become weights. `history_windows` of `weights` also bound the ratings;
    `work_windows` the work test, which there is none of if `tested` is false.
    """

    judge: JudgeRules
    weights: WeightRules
    work_windows: int
    tested: bool

    @property
    def length(self) -> int:
        """Windows that anything depends on."""
        return max(self.weights.most_windows, self.work_windows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reputation:
    """Where a hotkey stands after a window."""

    work: WorkState
    rating: Rating


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowLog:
    """One window. `seed`: hash of the block that drew the pool (hex). `ids_S`: its pages.
    `known`: windows before it that the validator remembered; one that was away or lost its state
    knows fewer. `undelivered`: (window, hotkey) of what the votes have found since the log before.
    `uids`: uid of every hotkey that weights are for. `shares`: uid -> weight.
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


def conclude(
    histories: Histories, window: int, uids: Mapping[str, int], rules: PayRules
) -> tuple[dict[str, Reputation], dict[int, float]]:
    """Reputations and weights after a window, from the histories with it."""
    states = work_states(histories, rules.judge.work)
    ratings = ratings_of(histories, window - rules.weights.history_windows + 1)
    reputations = {
        hotkey: Reputation(work=states[hotkey], rating=ratings.get(hotkey, Rating()))
        for hotkey in sorted(histories)
    }
    known = {uids[hotkey]: history for hotkey, history in histories.items() if hotkey in uids}
    holding = {
        uids[hotkey]
        for hotkey, state in states.items()
        if hotkey in uids and (state.holds or not rules.tested)
    }
    return reputations, chain_weights(known, holding, window, rules.weights)


def differences(log: WindowLog, histories: Histories, rules: PayRules) -> list[str]:
    """What in a log does not follow from its own losses, bit for bit; empty if all does.

    `histories` are what the validator knew before the window, from the logs of those windows.
    """
    follows = _follows(log, histories, rules)
    found = _different(log, follows, ("status", *_FIGURES))
    after = remember(histories, log.window, follows.values(), rules.length)
    reputations, shares = conclude(after, log.window, log.uids, rules)
    place = f"window {log.window}"
    for hotkey in sorted(reputations.keys() | log.reputations.keys()):
        said, is_so = log.reputations.get(hotkey), reputations.get(hotkey)
        if said != is_so:
            found.append(f"{place}, {hotkey}: reputation is {is_so}, the log says {said}")
    for uid in sorted(shares.keys() | log.shares.keys()):
        said_share, share = log.shares.get(uid), shares.get(uid)
        if said_share != share:
            found.append(f"{place}, uid {uid}: weight is {share}, the log says {said_share}")
    return found


def differences_of_figures(log: WindowLog, rules: PayRules) -> list[str]:
    """The part of `differences` that needs nothing but the window itself."""
    return _different(log, _follows(log, {}, rules), _FIGURES)


def _follows(log: WindowLog, histories: Histories, rules: PayRules) -> dict[int, Verdict]:
    blanks = [_blank(verdict, log.measured) for verdict in log.verdicts]
    states = work_states(histories, rules.judge.work)
    return {v.uid: v for v in judge(blanks, log.measured, states, rules.judge)}


def _different(log: WindowLog, follows: Mapping[int, Verdict], names: Sequence[str]) -> list[str]:
    found = []
    for verdict in log.verdicts:
        for name in names:
            said, is_so = getattr(verdict, name), getattr(follows[verdict.uid], name)
            if said != is_so and not (_minus_infinity(is_so) and said is None):
                found.append(
                    f"window {log.window}, uid {verdict.uid}: {name} is {is_so}, the log says "
                    f"{said}"
                )
    return found


_FIGURES = (
    "gain", "gain_standard_error", "relative_gain", "work_effect", "work_variance", "work_square",
)  # fmt: skip


def _minus_infinity(value: object) -> bool:
    return isinstance(value, float) and math.isinf(value)


def _blank(verdict: Verdict, measured: Measured) -> Verdict:
    """As it went into `judge`: without what is found by measuring alone."""
    of_measuring = verdict.uid in measured.after_S or verdict.status in MEASURED
    return Verdict(
        window=verdict.window,
        uid=verdict.uid,
        hotkey=verdict.hotkey,
        digest=verdict.digest,
        status=NOT_SCORED if of_measuring else verdict.status,
        detail=verdict.detail,
        pages_consumed=verdict.pages_consumed,
        base_window=verdict.base_window,
    )


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
    """The window that `encode_log` wrote; LogError for anything that it would write otherwise."""
    rows: dict[str, list[dict[str, Any]]] = {}
    try:
        for line in text.splitlines():
            row = json.loads(line, parse_constant=_no_number)
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
        raise LogError(f"no verdict log: {type(error).__name__}: {error}") from error
    if not is_canonical:
        raise LogError(f"window {log.window}: not as a validator writes a verdict log")
    return log


_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)


def _check(log: WindowLog) -> None:
    """LogError unless the parts fit each other."""
    size = log.ids_S.shape
    losses = (log.measured.before_S, *log.measured.after_S.values())
    uids = [verdict.uid for verdict in log.verdicts]
    if len(size) != 1 or any(part.shape != size for part in (log.measured.owners_S, *losses)):
        raise LogError(f"window {log.window}: pages, owners and losses differ in number")
    if int((log.measured.owners_S == HELD_OUT).sum()) < MIN_HELD_OUT:
        raise LogError(f"window {log.window}: fewer than {MIN_HELD_OUT} held-out pages")
    if len(set(uids)) != len(uids) or not all(0 <= uid <= MAX_UID for uid in uids):
        raise LogError(f"window {log.window}: uids are not different numbers")
    if any(verdict.window != log.window for verdict in log.verdicts):
        raise LogError(f"window {log.window}: a verdict is on another window")
    if not all(
        np.abs(loss_S[np.isfinite(loss_S)]).max(initial=0.0) <= MAX_LOSS for loss_S in losses
    ):
        raise LogError(f"window {log.window}: a loss is beyond {MAX_LOSS}")


def decode_logs(text: str) -> list[WindowLog]:
    """Of several windows, one after another in one file."""
    return [decode_log(part) for part in split_logs(text)]


def split_logs(text: str) -> list[str]:
    """The windows of one file, each as `encode_log` wrote it."""
    windows: list[list[str]] = []
    for line in text.splitlines(keepends=True):
        if '"kind": "window"' in line:
            windows.append([])
        if not windows:
            raise LogError("the first line is not of kind window")
        windows[-1].append(line)
    return ["".join(lines) for lines in windows]


def _written(losses_S: Floats) -> list[float | None]:
    """JSON has no infinities: a loss that is not finite is null."""
    return [loss if math.isfinite(loss) else None for loss in losses_S.tolist()]


def _read(losses: Iterable[float | None]) -> Floats:
    return np.array([math.inf if loss is None else loss for loss in losses], dtype=np.float64)


def _verdict(row: Mapping[str, Any]) -> Verdict:
    known = {each.name for each in fields(Verdict)}
    verdict = Verdict(**{name: value for name, value in row.items() if name in known})
    for name, kinds in _KINDS.items():
        if type(getattr(verdict, name)) not in kinds:
            raise ValueError(f"{name} of uid {verdict.uid} is {getattr(verdict, name)!r}")
    if not abs(verdict.relative_gain or 0.0) <= MAX_RELATIVE_GAIN:
        raise ValueError(f"relative_gain of uid {verdict.uid} is {verdict.relative_gain}")
    variance = verdict.work_variance
    if not abs(verdict.work_effect or 0.0) <= WINSOR or (variance is not None and variance < 1e-9):
        raise ValueError(f"work_effect or work_variance of uid {verdict.uid} is none")
    return verdict


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


_REAL = (float, int, type(None))
_WHOLE = (int, type(None))
_KINDS = {
    "uid": (int,),
    **dict.fromkeys(("hotkey", "digest", "status", "detail"), (str,)),
    **dict.fromkeys(("pages_consumed", "base_window"), _WHOLE),
    **dict.fromkeys(_FIGURES, _REAL),
}


def _reputation(row: Mapping[str, Any]) -> Reputation:
    return Reputation(
        work=WorkState(log_ratio=float(row["log_ratio"]), holds=bool(row["holds"])),
        rating=Rating(mu=float(row["mu"]), sigma=float(row["sigma"])),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """What the logs of windows before say. `given`: those windows."""

    histories: Histories = field(default_factory=dict)
    given: frozenset[int] = frozenset()

    def has(self, windows: Iterable[int]) -> bool:
        return self.given.issuperset(windows)

    def differences(self, log: WindowLog, rules: PayRules) -> list[str]:
        """All that does not follow in a log; of one that knew more than this, the figures."""
        if not self.has(log.known):
            return differences_of_figures(log, rules)
        return differences(log, only(self._settled(log), set(log.known)), rules)

    def and_then(self, log: WindowLog, rules: PayRules) -> "Past":
        """With one more window."""
        histories = remember(self._settled(log), log.window, log.verdicts, rules.length)
        return Past(histories=histories, given=self.given | {log.window})

    def _settled(self, log: WindowLog) -> Histories:
        """With what the log says that the votes have found since."""
        histories = self.histories
        for window, hotkey in log.undelivered:
            histories = settle(histories, window, [hotkey])
        return histories


@dataclass(frozen=True, kw_only=True, slots=True)
class Followed:
    """`in_full`: windows of which everything was compared; of the others, whose past is not in
    the logs, the figures of the window itself.
    """

    found: tuple[str, ...]
    in_full: tuple[int, ...]


def follow(logs: Sequence[WindowLog], rules: PayRules) -> Followed:
    """`differences` over several windows, in their order."""
    past, found, in_full = Past(), [], []
    for log in sorted(logs, key=lambda each: each.window):
        found += past.differences(log, rules)
        in_full += [log.window] if past.has(log.known) else []
        past = past.and_then(log, rules)
    return Followed(found=tuple(found), in_full=tuple(in_full))
