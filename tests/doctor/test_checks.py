"""The checks of a role are made in order, each within its time, and none stops the others."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from template.cli.doctor_flags import CHECK_NAMES
from template.doctor.checks import CHECKS, TOTAL_LIMIT_S, Check, examine
from template.doctor.findings import (
    Finding,
    Report,
    bad,
    doubtful,
    good,
    left_out,
    summary,
    to_json,
)
from template.errors import ChainError, ConfigError


def raising(error: Exception) -> Callable[[], Finding]:
    def ask() -> Finding:
        raise error

    return ask


def states(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.state for finding in findings}


def test_a_failed_check_stops_only_those_that_need_it() -> None:
    checks = [
        Check(name="a"),
        Check(name="b", needs=("a",)),
        Check(name="c", needs=("b",)),
        Check(name="d"),
        Check(name="e", needs=("d",)),
    ]
    make = {
        "a": raising(ConfigError("--flag: wrong; mend it")),
        "b": lambda: good("b", "fine"),
        "c": lambda: good("c", "fine"),
        "d": lambda: doubtful("d", "not so good: look"),
        "e": raising(ValueError("unforeseen")),
    }
    found = list(examine(checks, make))
    assert states(found) == {"a": "fail", "b": "skipped", "c": "skipped", "d": "warn", "e": "fail"}
    assert found[0].remedy == "--flag: wrong; mend it"
    assert found[1].said == "not possible without: a"
    assert found[2].said == "not possible without: b"
    assert "ValueError" in found[4].remedy
    assert "unforeseen" not in found[4].remedy, "an exception's text is nobody's remedy"


HANGING = """
import time
from template.doctor.checks import Check, examine
from template.doctor.findings import good

def hang():
    time.sleep(20)
    return good("slow", "late")

for found in examine([Check(name="slow", limit_s=0.5)], {"slow": hang}):
    print(found.state, time.monotonic())
"""


def test_a_check_that_hangs_does_not_hold_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=60, check=True
    )
    # From the finding on: the start of Python and its imports take their time.
    state, said_s = done.stdout.split()
    assert state == "fail"
    assert time.monotonic() - float(said_s) < 10, "the check sleeps for 20 s"


def test_a_check_that_hangs_is_given_up() -> None:
    over = threading.Event()
    checks = [Check(name="slow", limit_s=0.05), Check(name="next")]

    def hang() -> Finding:
        over.wait(60)
        return good("slow", "late")

    found = list(examine(checks, {"slow": hang, "next": lambda: good("next", "fine")}))
    over.set()
    assert states(found) == {"slow": "fail", "next": "ok"}
    assert "no answer within" in found[0].remedy
    assert found[0].took_s >= 0.05


def test_all_checks_together_have_a_limit() -> None:
    clock = iter([0.0, 0.0, 0.0, 0.0, 9.0, 11.0, 11.0])
    checks = [Check(name="a"), Check(name="b")]
    make = {"a": lambda: good("a", "fine"), "b": lambda: good("b", "fine")}
    found = list(examine(checks, make, total_s=10.0, now_s=lambda: next(clock)))
    assert states(found) == {"a": "ok", "b": "skipped"}
    assert found[0].took_s == 9.0
    assert "no time left of 10 s" in found[1].said


def test_checks_are_left_out_by_name_with_those_that_need_them() -> None:
    checks = [Check(name="a"), Check(name="b", needs=("a",))]
    make = {"a": lambda: good("a", "fine"), "b": lambda: good("b", "fine")}
    assert states(list(examine(checks, make, without=("a",)))) == {"a": "skipped", "b": "skipped"}


@pytest.mark.parametrize("role", CHECKS)
def test_every_check_comes_after_those_that_it_needs(role: str) -> None:
    seen: set[str] = set()
    for check in CHECKS[role]:
        assert set(check.needs) <= seen
        assert check.name not in seen
        assert 0 < check.limit_s < TOTAL_LIMIT_S
        seen.add(check.name)
    assert seen <= set(CHECK_NAMES)


def test_every_name_of_the_flag_is_a_check() -> None:
    assert {check.name for checks in CHECKS.values() for check in checks} == set(CHECK_NAMES)


@pytest.mark.parametrize(
    ("findings", "status", "words"),
    [
        ((good("a", "x"), left_out("b", "y")), 0, "all 1 checks passed"),
        ((good("a", "x"), doubtful("b", "y")), 0, "no check of 2 failed; 1 may cost"),
        ((bad("a", "x"), doubtful("b", "y"), bad("c", "z")), 1, "2 of 3 checks failed"),
    ],
)
def test_the_exit_status_tells(findings: tuple[Finding, ...], status: int, words: str) -> None:
    report = Report(role="miner", version="0.1.0", findings=findings)
    assert report.status == status
    assert words in summary(report)
    assert to_json(report)["status"] == status
    assert [row["state"] for row in to_json(report)["findings"]] == [f.state for f in findings]


def test_a_remedy_belongs_to_a_fault() -> None:
    with pytest.raises(ValueError, match="remedy"):
        Finding(name="a", state="ok", remedy="mend")
    with pytest.raises(ValueError, match="remedy"):
        Finding(name="a", state="fail")


def test_an_error_of_the_chain_is_a_failed_check() -> None:
    found = list(examine([Check(name="a")], {"a": raising(ChainError("away: name another"))}))
    assert (found[0].state, found[0].line) == ("fail", "away: name another")
