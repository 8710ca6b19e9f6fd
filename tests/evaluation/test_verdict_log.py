"""The verdict log: what is written follows from its own losses; every forgery is named."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evaluation.conclusion import Registered, reputations_and_weights
from evaluation.evidence import GainRules
from evaluation.history import (
    Histories,
    add_window,
    mark_undelivered,
    past_of,
    select_windows,
    windows_in,
)
from evaluation.judge import JudgeRules, judge
from evaluation.pace import Paces, add_pace, pace_of, pace_sample
from evaluation.rules import PayRules
from evaluation.verdict import NOT_SCORED, UNAVAILABLE, Verdict
from evaluation.verdict_log import (
    LogError,
    WindowLog,
    decode_log,
    decode_logs,
    encode_log,
    split_logs,
)
from evaluation.verify import Verified, verify_logs
from evaluation.weights import WeightRules
from evaluation.work import HELD_OUT, WorkRules
from tests.support.judged import measured_from

RULES = PayRules(
    judge=JudgeRules(
        naming_z=2.0, min_relative_gain=0.1, work=WorkRules(effect=0.4, error=0.01),
        gain=GainRules(gain=0.5, error=0.05),
    ),
    weights=WeightRules(
        history_windows=4, most_windows=4, min_windows=2, confidence_z=1.0, min_relative_gain=0.1,
        max_share=0.8,
    ),
    work_windows=6,
    tested=True,
)  # fmt: skip
UIDS = {"hk1": 1, "hk2": 2, "hk3": 3, "hk4": 4, "hk5": 5}
REGISTERED = Registered(uids=UIDS, burn_uid=0)
NUM_HELD, NUM_OWN = 32, 8


def _logs(num_windows: int, rules: PayRules = RULES, num_own: int = NUM_OWN) -> list[WindowLog]:
    """Two workers, one who copies, one whose losses are not finite, one that is away: in every
    other window for half of the voting stake too.
    """
    rng = np.random.default_rng(0)
    owners = np.concatenate([np.full(NUM_HELD, HELD_OUT), np.repeat([1, 2, 3], num_own)])
    histories: Histories = {}
    undelivered: tuple[tuple[int, str], ...] = ()
    logs = []
    paces: Paces = {}
    for window in range(num_windows):
        before = rng.normal(3, 0.5, size=owners.size)
        after = {
            uid: before - 0.05 - 0.01 * rng.normal(size=owners.size)
            - 0.01 * (owners == uid) * (uid < 3)
            for uid in (1, 2, 3)
        } | {4: np.full(owners.size, math.inf)}  # fmt: skip
        half_way = before[:NUM_HELD] + rng.normal(1e-3, 4e-3, size=NUM_HELD)
        measured = measured_from(owners, before, after, half_way if window % 3 else None)
        exponent = window // 4
        paces = add_pace(paces, window, pace_sample(exponent, measured), rules.length)
        blanks = [
            Verdict(
                window=window, uid=uid, hotkey=f"hk{uid}", digest=f"{uid:064x}",
                status=UNAVAILABLE if uid == 5 else NOT_SCORED, pages_consumed=240,
            )
            for uid in range(1, 6)
        ]  # fmt: skip
        for past, hotkey in undelivered:
            histories = mark_undelivered(histories, past, [hotkey])
        verdicts = judge(blanks, measured, past_of(histories, rules.judge), rules.judge)
        known = windows_in(select_windows(histories, range(window)))
        histories = add_window(histories, window, verdicts, rules.length)
        reputations, shares = reputations_and_weights(histories, window, REGISTERED, rules)
        logs.append(
            WindowLog(
                window=window, seed=f"{window:064x}", ids_S=np.arange(owners.size), known=known,
                undelivered=undelivered, measured=measured, verdicts=verdicts, uids=UIDS,
                burn_uid=0, reputations=reputations, shares=shares, exponent=exponent,
                pace=pace_of(paces),
            )
        )  # fmt: skip
        undelivered = ((window, "hk5"),) if window % 2 else ()
    return logs


def test_what_is_written_is_read_to_the_last_bit() -> None:
    for log in _logs(3):
        text = encode_log(log)
        again = decode_log(text)
        assert encode_log(again) == text
        assert (again.measured.before_SQ == log.measured.before_SQ).all()
        for uid, after_KQ in log.measured.after_KQ.items():
            assert (again.measured.after_KQ[uid] == after_KQ).all()
        assert (again.reputations, again.shares) == (log.reputations, log.shares)
        assert (again.exponent, again.pace) == (log.exponent, log.pace)
        said, written = again.measured.half_way_H, log.measured.half_way_H
        assert (said is None) == (written is None)
        assert said is None or (said == written).all()
        assert all(json.loads(line)["kind"] for line in text.splitlines())


def test_an_honest_log_follows_from_its_losses() -> None:
    logs = _logs(10)
    assert verify_logs(logs, RULES) == Verified(found=(), in_full=tuple(range(10)))
    text = "".join(map(encode_log, logs))
    assert verify_logs(decode_logs(text), RULES).found == ()
    paid = logs[-1].shares
    assert paid.keys() - {0} == {1, 2}, "not the copier, nor those who gain nothing"
    assert min(paid[1], paid[2]) > 0.3


def test_without_its_past_a_window_is_compared_in_part_and_that_is_said() -> None:
    logs = _logs(14)
    late = logs[4:]
    followed = verify_logs(late, RULES)
    assert followed.found == ()
    assert followed.in_full == (10, 11, 12, 13), "as far back as six windows are there"
    forged = replace(late[-1], shares={**late[-1].shares, 1: 0.9})
    assert any("weight" in line for line in verify_logs([*late[:-1], forged], RULES).found)
    verdict = replace(late[0].verdicts[0], relative_gain=0.7)
    forged = replace(late[0], verdicts=(verdict, *late[0].verdicts[1:]))
    assert any("relative_gain" in line for line in verify_logs([forged, *late[1:]], RULES).found)


def test_a_validator_that_lost_windows_says_so_and_is_followed() -> None:
    """Window 3 was logged and then lost with the machine: the log after it does not know it."""
    logs = _logs(4)
    fifth = _logs(5)[4]
    histories: Histories = {}
    for log in logs[:3]:
        for past, hotkey in log.undelivered:
            histories = mark_undelivered(histories, past, [hotkey])
        histories = add_window(histories, log.window, log.verdicts, RULES.length)
    blanks = [replace(v, status=NOT_SCORED) if v.uid != 5 else v for v in fifth.verdicts]
    verdicts = judge(blanks, fifth.measured, past_of(histories, RULES.judge), RULES.judge)
    after = add_window(histories, 4, verdicts, RULES.length)
    reputations, shares = reputations_and_weights(after, 4, REGISTERED, RULES)
    lost = replace(
        fifth, known=(0, 1, 2), undelivered=(), verdicts=verdicts, reputations=reputations,
        shares=shares,
    )  # fmt: skip
    assert verify_logs([*logs, lost], RULES) == Verified(found=(), in_full=(0, 1, 2, 3, 4))
    assert verify_logs([*logs, replace(lost, known=(0, 1, 2, 3))], RULES).found


def _shift(row: Any, field: Any) -> None:
    row[field] -= 1e-9


def _swap(row: list, one: int, other: int) -> None:
    assert row[one] != row[other]
    row[one], row[other] = row[other], row[one]


FORGERIES = {
    "loss before": (lambda row: _shift(row["before"][3], 1), "window"),
    "loss after": (lambda row: _shift(row["after"][5], 1), "verdict"),
    "owner": (lambda row: _swap(row["owners"], NUM_HELD, -1), "window"),
    "pace": (lambda row: row.__setitem__("pace", 1 - abs(row["pace"])), "window"),
    "half-way losses": (
        lambda row: row.update(half_way=[row["before"][0][0] - 9.0] * NUM_HELD), "window",
    ),
    "exponent": (lambda row: row.update(exponent=7, pace=1), "window"),
    "gain": (lambda row: row.__setitem__("gain", row["gain"] + 1e-9), "verdict"),
    "status": (lambda row: row.__setitem__("status", "no_gain"), "verdict"),
    "relative gain": (lambda row: row.__setitem__("relative_gain", 1.5), "verdict"),
    "work effect": (lambda row: row.__setitem__("work_effect", 2.0), "verdict"),
    "quarter effect": (lambda row: row.__setitem__("page_effect", 2.0), "verdict"),
    "quarter square": (lambda row: row.__setitem__("page_square", 1.1), "verdict"),
    "undelivered": (lambda row: row.__setitem__("undelivered", []), "window"),
    "gain evidence": (lambda row: row.__setitem__("gain_log_ratio", 1.0), "verdict"),
    "work state": (lambda row: _shift(row, "work_log_ratio"), "reputation"),
    "work gate": (lambda row: row.__setitem__("work_holds", not row["work_holds"]), "reputation"),
    "gain state": (lambda row: _shift(row, "gain_log_ratio"), "reputation"),
    "gain gate": (lambda row: row.__setitem__("gain_holds", not row["gain_holds"]), "reputation"),
    "rating": (lambda row: row.__setitem__("mu", row["mu"] + 1e-9), "reputation"),
    "weight": (lambda row: row["shares"].__setitem__("1", 0.51), "weights"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(FORGERIES))
def test_a_forged_figure_is_named(name: str) -> None:
    forge, kind = FORGERIES[name]
    logs = _logs(8)
    rows = [json.loads(line) for line in encode_log(logs[6]).splitlines()]
    row = next(r for r in rows if r["kind"] == kind)
    forge(row)
    text = "".join(json.dumps(r, sort_keys=True) + "\n" for r in rows)
    found = verify_logs([*logs[:6], decode_log(text), logs[7]], RULES).found
    assert found
    assert all(line.startswith("window 6") or line.startswith("window 7") for line in found)
    assert found[0].startswith("window 6")


@pytest.mark.parametrize(
    "text",
    ["", "no json", "[]", '{"kind": "weights"}', '{"a": 1}', '{"kind": "window", "window": 1}'],
)
def test_what_is_no_log_is_refused(text: str) -> None:
    with pytest.raises(LogError):
        decode_log(text)
    for cut in (1, 2):
        rows = encode_log(_logs(1)[0]).splitlines()
        with pytest.raises(LogError):
            decode_log("\n".join(rows[cut:-1]))
    with pytest.raises(LogError):
        decode_logs("x")


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("window", "owners", [1, 2]), ("window", "pages", [[1]]), ("window", "known", None),
        ("window", "before", [1.0]), ("verdict", "after", [1.0]), ("verdict", "uid", 1e999),
        ("verdict", "uid", 2), ("verdict", "window", 9), ("window", "uids", {"hk1": 1e999}),
        ("weights", "shares", {"x": 1}), ("verdict", "uid", "1"),
        ("window", "half_way", [1.0]), ("window", "half_way", [1.0] * 56),
    ],
)  # fmt: skip
def test_a_log_whose_parts_do_not_fit_is_refused(kind: str, field: str, value: object) -> None:
    rows = [json.loads(line) for line in encode_log(_logs(1)[0]).splitlines()]
    next(r for r in rows if r["kind"] == kind)[field] = value
    with pytest.raises(LogError):
        decode_log("\n".join(map(json.dumps, rows)))


def test_a_run_without_a_work_test_pays_whoever_gains() -> None:
    rules = replace(RULES, tested=False)
    paid = _logs(8, rules, num_own=0)[-1].shares
    assert paid.keys() >= {1, 2, 3}


@pytest.mark.parametrize(
    ("width", "part", "parts", "share"),
    [(1, 0, 1, 1.0), (2**16 - 1, 2**16 - 2, 2**16 - 1, 1e-12), (3, 1, 4, 0.1 + 0.2)],
)
def test_width_and_part_come_back(width: int, part: int, parts: int, share: float) -> None:
    log = _logs(1)[0]
    first = replace(log.verdicts[0], width=width, part=part, parts=parts, model_share=share)
    text = encode_log(replace(log, verdicts=(first, *log.verdicts[1:])))
    again = decode_log(text)
    assert again.verdicts[:2] == (first, log.verdicts[1])
    assert encode_log(again) == text


def test_a_part_beyond_its_cut_is_refused() -> None:
    log = _logs(1)[0]
    for part, parts in ((4, 4), (5, 4), (1, 1)):
        first = replace(log.verdicts[0], part=part, parts=parts)
        with pytest.raises(LogError, match="part"):
            decode_log(encode_log(replace(log, verdicts=(first, *log.verdicts[1:]))))


BAD_FIGURES = [
    ("window", "window", [-1, 2**32, True, "1", 10**400]),
    ("window", "seed", ["", "0" * 63, "z" * 64, 7, None]),
    ("window", "known", [[-1], [2**32], ["1"], [10**400], 7, "12"]),
    ("window", "undelivered", [[[0, "a b"]], [[-1, "hk1"]], [[0]], [["0", "hk1"]], [[0, 7]]]),
    ("window", "uids", [{"hk1": -1}, {"hk1": 65_536}, {"\x1b[2J": 1}, {"": 1}, [], 7]),
    ("window", "half_way", [7, "x", [1], [True], [1e40], [[1.0]]]),
    ("window", "exponent", [65, -65, 1.0, True, None, "1"]),
    ("window", "pace", [2, -2, 1.0, True, None, "1"]),
    ("verdict", "uid", [-1, 65_536, 1.0, "1", None, 10**400, {}]),
    ("verdict", "window", [-1, 1.0, None]),
    ("verdict", "hotkey", ["", "a" * 65, "\x1b[2J", {}, None, 7]),
    ("verdict", "digest", ["", "AB" * 32, None]),
    ("verdict", "status", ["", "a" * 33, "a\nb", None]),
    ("verdict", "detail", ["a" * 301, "\x1b[2J", "\u202e", None]),
    ("verdict", "gain", [1e40, -1e40, "1", True, 10**400]),
    ("verdict", "gain_standard_error", [-1e-9, 1e40, []]),
    ("verdict", "relative_gain", [17.1, -1.1, 1e308]),
    ("verdict", "pages_consumed", [-1, 2**32, 1.0, 10**400, True]),
    ("verdict", "base_window", [-1, 2**32, 1.0, 10**400]),
    ("verdict", "width", [0, -1, 2**16, 1.0, True, None, "1"]),
    ("verdict", "part", [-1, 1, 2**16, 0.0, False, None]),
    ("verdict", "parts", [0, -1, 2**16, 1.0, True, None]),
    ("verdict", "model_share", [0.0, -0.5, 1.0000001, 2.0, 1e-13, math.nan, math.inf, None, "1"]),
    ("verdict", "work_effect", [4.1, -4.1, 1e308]),
    ("verdict", "work_variance", [0.0, -1.0, 1e-10, 1e151, 1e308]),
    ("verdict", "page_effect", [5.1, -5.1, 1e308]),
    ("verdict", "page_square", [-1e-9, 25.1, 1e308]),
    ("verdict", "after", [7, [1.0], [[1.0] * 3], [[1.0] * 5], [[[1.0]] * 4], [["1"] * 4]]),
    ("window", "before", [7, [1.0], [[1.0] * 3], [[1.0] * 5], [[1e40] * 4]]),
    ("verdict", "gain_log_ratio", [2000.1, -2000.1, 1e308, "1"]),
    ("reputation", "work_log_ratio", [1001.0, -1001.0, None, "1"]),
    ("reputation", "work_holds", [0, 1, None, "yes"]),
    ("reputation", "gain_log_ratio", [1001.0, -1001.0, None, "1"]),
    ("reputation", "gain_holds", [0, 1, None, "yes"]),
    ("reputation", "mu", [1e7, -1e7, 1e308, None]),
    ("reputation", "sigma", [-1e-9, 1e7]),
    ("reputation", "hotkey", ["", 7, None]),
    ("weights", "shares", [{"1": 1.1}, {"1": -0.1}, {"-1": 0.5}, {"65536": 0.5}, {"1": True}, []]),
]


@pytest.mark.parametrize(("kind", "field", "values"), BAD_FIGURES)
def test_every_figure_has_bounds_and_a_short_error(kind: str, field: str, values: list) -> None:
    written = encode_log(_logs(1)[0])
    for value in values:
        rows = [json.loads(line) for line in written.splitlines()]
        next(r for r in rows if r["kind"] == kind)[field] = value
        with pytest.raises(LogError, match="not a verdict log: ") as caught:
            decode_log("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
        assert len(str(caught.value)) < 400
        assert str(caught.value).isprintable()


EXTREMES = [
    ("window", "window", [2**32 - 1]),
    ("verdict", "pages_consumed", [0, 2**32 - 1]),
    ("verdict", "base_window", [0, 2**32 - 1]),
    ("verdict", "width", [1, 2**16 - 1]),
    ("verdict", "parts", [1, 2**16 - 1]),
    ("verdict", "model_share", [1e-12, 1.0]),
    ("verdict", "gain", [2e39, -2e39]),
    ("verdict", "gain_standard_error", [0.0, 2e39]),
    ("verdict", "relative_gain", [17.0, -1.0]),
    ("verdict", "work_effect", [4.0, -4.0]),
    ("verdict", "work_variance", [1e-9, 1e150]),
    ("verdict", "page_effect", [5.0, -5.0]),
    ("verdict", "page_square", [0.0, 25.0]),
    ("verdict", "after", [[1e39] * 4, [-1e39] * 4, [1e39, -1e39] * 2, [None] * 4]),
    ("window", "before", [[1e39] * 4, [-1e39] * 4, [1e39, -1e39] * 2, [None] * 4]),
    ("window", "half_way", [[1e39] * NUM_HELD, [-1e39, 1e39] * (NUM_HELD // 2), [None] * NUM_HELD]),
    ("window", "exponent", [64, -64]),
    ("reputation", "log_ratio", [1000.0, -1000.0]),
    ("reputation", "mu", [1e6, -1e6]),
    ("reputation", "sigma", [0.0, 1e6]),
    ("weights", "shares", [{"1": 1.0, "2": 1.0}]),
]


@pytest.mark.parametrize(("kind", "field", "values"), EXTREMES)
def test_a_figure_at_its_bound_overflows_nothing(kind: str, field: str, values: list) -> None:
    """What the door lets in is followed to the end, and is a finding about this log alone."""
    texts = [encode_log(log) for log in _logs(6)]
    for value in values:
        forged = []
        for text in texts:
            rows = [json.loads(line) for line in text.splitlines()]
            for row in rows:
                if row["kind"] == kind and row.get(field) is not None and field != "window":
                    is_losses = field in ("before", "after")
                    row[field] = [value] * len(row[field]) if is_losses else value
            if field == "window" and text == texts[-1]:
                for row in rows:
                    row.update({"window": value} if "window" in row else {})
            forged.append("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
        logs = [decode_log(text) for text in forged]
        with np.errstate(over="raise", divide="raise"):
            found = verify_logs(logs, RULES).found
        assert all(line.isprintable() for line in found)


@pytest.mark.parametrize("number", ["9" * 41, "9" * 5000, "1e999", "NaN", "-Infinity"])
def test_a_loss_that_is_no_double_is_refused(number: str) -> None:
    text = encode_log(_logs(1)[0])
    first = text[: text.index("]")].split("[")[-1].split(",")[0]
    with pytest.raises(LogError):
        decode_log(text.replace(first, number, 1))


def test_logs_are_split_one_at_a_time() -> None:
    texts = [encode_log(log) for log in _logs(3)]
    lines = iter("".join(texts).splitlines(keepends=True))
    split = split_logs(lines)
    assert next(split) == texts[0]
    assert next(lines).count('"kind"') == 1, "the rest is not read yet"
    assert list(split_logs("".join(texts).splitlines(keepends=True))) == texts
    assert list(split_logs([])) == []
