"""`recompute`: the published figures of a validator, computed again from the published losses."""

from collections.abc import Sequence
from pathlib import Path

from evaluation.verdict_log import WindowLog, decode_log
from evaluation.verify import verify_logs
from template.audit.logs import read_files
from template.cli.audit_flags import AuditConfig, RecomputeConfig
from template.cli.terminal import complain, say
from template.errors import SubnetError
from template.protocol.run import Run
from template.scoring.rules import pay_rules
from template.sync.spec_folder import check_version

EXIT_RIGHT, EXIT_WRONG, EXIT_UNKNOWN = 0, 1, 2


def run_recompute(config: RecomputeConfig | AuditConfig) -> int:
    """Follow logs, or audit a validator; the exit status."""
    try:
        return _audit(config) if isinstance(config, AuditConfig) else _recompute(config)
    except SubnetError as error:
        complain(f"recompute: {error}")
    except KeyboardInterrupt:
        complain("recompute: interrupted")
    return EXIT_UNKNOWN


def _audit(config: AuditConfig) -> int:
    # The chain's library takes a second to load, and following a file needs no chain.
    from template.commands.audit import run_audit

    return run_audit(config, say)


def _recompute(config: RecomputeConfig) -> int:
    run, logs = config.run, read_logs(config.logs)
    for spec in run:
        check_version(spec)
    judged = [log for log in logs if log.window < run.num_windows]
    if len(judged) < len(logs):
        _say_beyond(run, logs[len(judged) :])
    if not judged:
        return EXIT_UNKNOWN
    followed = verify_logs(judged, lambda window: pay_rules(run.at(window)))
    for line in followed.found:
        say(line)
    wrong = len(followed.found)
    verdict = f"{wrong} figures do not follow" if wrong else "everything follows"
    say(
        f"windows {judged[0].window} to {judged[-1].window}, "
        f"{sum(len(log.verdicts) for log in judged)} verdicts: {verdict} from the losses logged; "
        f"{len(followed.in_full)} of {len(judged)} windows compared in full"
    )
    if wrong:
        _say_specs(run)
        return EXIT_WRONG
    return EXIT_RIGHT if len(judged) == len(logs) else EXIT_UNKNOWN


def _say_beyond(run: Run, logs: Sequence[WindowLog]) -> None:
    """Which logs no spec given can judge."""
    say(
        f"windows {logs[0].window} to {logs[-1].window} cannot be judged: by the specs given the "
        f"run ends with window {run.num_windows - 1}; name the spec that continues it by another "
        "--run"
    )


def _say_specs(run: Run) -> None:
    """By which specs was judged: no file tells whether the run has changed since."""
    eras = ", ".join(f"{spec.spec_id.hex()} from window {spec.first_window} on" for spec in run)
    say(
        f"judged by spec {eras}; if the run has changed since, other rules hold there: name each "
        "spec after these by another --run (`tessera succession show` lists them)"
    )


def read_logs(paths: Sequence[Path]) -> list[WindowLog]:
    """The windows of all files, in order."""
    return [decode_log(data.decode()) for _, data in sorted(read_files(paths).items())]
