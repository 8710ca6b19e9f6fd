"""Outputs for programs are as docs/outputs_operating.md says; real runs: tests/commands."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from template.cli.doctor_flags import CHECK_NAMES
from template.cli.main import build_parser
from template.cli.plan_flags import plan_config
from template.commands.planning import case_of
from template.doctor.checks import CHECKS
from template.doctor.findings import Report, bad, doubtful, good, left_out, to_json
from template.metrics_prometheus import Health
from template.planning.outlook import look_ahead
from template.planning.outlook import to_json as to_answer
from template.status.phase import AFTER, BEFORE, COUNTED, SCORING, UPLOAD
from template.status.rows import ABSENT, ACCEPTED, REFUSED, UNDECIDED
from tests.support.schemas import check_schema, schemas


def doctor_report() -> dict[str, Any]:
    findings = [
        good("run spec", "fine", run_id="ab"),
        doubtful("memory", "little: look", host_gb=1.5),
        bad("wallet", "none: make one"),
        left_out("balance", "not possible without: wallet"),
    ]
    return to_json(Report(role="miner", version="0.1.0", findings=tuple(findings)))


def test_the_doctor() -> None:
    report = doctor_report()
    check_schema("doctor", report)
    files = {"folder": "/x", "start": "/x/start", "run_id": ""}
    check_schema("init", report | files)
    for broken in (
        report | {"status": 2},
        report | {"more": 1},
        {key: value for key, value in report.items() if key != "format"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            check_schema("doctor", broken)


PLANS = sorted((Path(__file__).resolve().parents[2] / "runs").glob("*.toml"))


@pytest.mark.parametrize("plan", PLANS, ids=lambda path: path.stem)
def test_the_planner(plan: Path) -> None:
    parser = build_parser()
    config = plan_config(parser.parse_args(["plan", "--run", str(plan)]))
    answer = to_answer(look_ahead(case_of(config), config.dataset_tokens))
    check_schema("plan", json.loads(json.dumps(answer)))
    lacking = {key: value for key, value in answer.items() if key != "phases"}
    for broken in (answer | {"more": 1}, answer | {"fits": "yes"}, lacking):
        with pytest.raises(jsonschema.ValidationError):
            check_schema("plan", json.loads(json.dumps(broken)))


def test_health() -> None:
    check_schema("healthz", Health(12.0).to_json())


def test_every_word_that_a_program_may_meet_is_in_a_schema() -> None:
    found = schemas()
    finding = found["doctor"]["properties"]["findings"]["items"]["properties"]
    assert set(finding["name"]["enum"]) == set(CHECK_NAMES)
    assert set(found["doctor"]["properties"]["role"]["enum"]) == set(CHECKS)
    status = found["status"]["properties"]
    phases = status["phase"]["properties"]["name"]["enum"]
    assert set(phases) == {BEFORE, UPLOAD, SCORING, COUNTED, AFTER}
    outcomes = status["windows"]["items"]["properties"]["outcome"]["enum"]
    assert set(outcomes) == {ACCEPTED, REFUSED, UNDECIDED, ABSENT, ""}
