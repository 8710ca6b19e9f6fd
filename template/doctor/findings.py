"""What a check found: a name, a state, figures, and the remedy where something is wrong. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from template.errors import EXIT_ENDED, EXIT_TRY_AGAIN

State = Literal["ok", "warn", "fail", "skipped"]
Value = float | int | str

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"
SKIPPED: Final = "skipped"
FORMAT: Final = 1
"""Version of the JSON object."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The result of a check.

    `said`: a sentence on what is right, or on why a check was left out. `remedy`: what is wrong and
    what mends it; empty exactly for `ok` and `skipped`. `figures`: measured numbers by name, with
    the unit as the name's last word. `took_s`: seconds of the check.
    """

    name: str
    state: State
    said: str = ""
    remedy: str = ""
    figures: Mapping[str, Value] = field(default_factory=dict)
    took_s: float = 0.0

    def __post_init__(self) -> None:
        if (self.state in (WARN, FAIL)) != bool(self.remedy):
            raise ValueError(f"{self.name}: a remedy belongs to warn and fail alone")

    @property
    def line(self) -> str:
        """The sentence for a person."""
        return self.remedy or self.said


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All findings of one role, in the order of the checks."""

    role: str
    version: str
    findings: tuple[Finding, ...]

    @property
    def status(self) -> int:
        """The exit status: 1 if a check failed, else 0; warnings do not count."""
        return EXIT_TRY_AGAIN if self.of_state(FAIL) else EXIT_ENDED

    def of_state(self, state: State) -> tuple[Finding, ...]:
        """The findings of a state."""
        return tuple(each for each in self.findings if each.state == state)


def good(name: str, said: str, **figures: Value) -> Finding:
    """A finding of a check that passed."""
    return Finding(name=name, state=OK, said=said, figures=figures)


def bad(name: str, remedy: str, **figures: Value) -> Finding:
    """A finding of something that must be mended first."""
    return Finding(name=name, state=FAIL, remedy=remedy, figures=figures)


def doubtful(name: str, remedy: str, **figures: Value) -> Finding:
    """A finding of something that lets a neuron run, and less well."""
    return Finding(name=name, state=WARN, remedy=remedy, figures=figures)


def left_out(name: str, why: str) -> Finding:
    """A finding of a check that was not made."""
    return Finding(name=name, state=SKIPPED, said=why)


def summary(report: Report) -> str:
    """The last line for a person."""
    num_bad, num_doubtful = len(report.of_state(FAIL)), len(report.of_state(WARN))
    num_made = len(report.findings) - len(report.of_state(SKIPPED))
    if num_bad:
        return f"{num_bad} of {num_made} checks failed: mend what is named above"
    if num_doubtful:
        return f"no check of {num_made} failed; {num_doubtful} may cost pay or time"
    return f"all {num_made} checks passed"


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain values: see docs/outputs_operating.md."""
    return {
        "format": FORMAT,
        "role": report.role,
        "version": report.version,
        "status": report.status,
        "findings": [_row(finding) for finding in report.findings],
    }


def _row(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.name,
        "state": finding.state,
        "said": finding.said,
        "remedy": finding.remedy,
        "figures": dict(finding.figures),
        "took_s": round(finding.took_s, 3),
    }


def names_of(findings: Sequence[Finding], *states: State) -> list[str]:
    """The names of the findings in one of these states."""
    return [finding.name for finding in findings if finding.state in states]
