"""`recompute`: the published figures of a validator, computed again from the published losses."""

from collections.abc import Sequence
from pathlib import Path

from evaluation.verdict_log import WindowLog, decode_log
from evaluation.verify import verify_logs
from template.audit.logs import read_files
from template.cli.audit_flags import AuditConfig, RecomputeConfig
from template.cli.terminal import complain, say
from template.errors import SubnetError
from template.scoring.rules import pay_rules

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
    rules = pay_rules(config.spec)
    logs = read_logs(config.logs)
    followed = verify_logs(logs, rules)
    for line in followed.found:
        say(line)
    wrong = len(followed.found)
    verdict = f"{wrong} figures do not follow" if wrong else "everything follows"
    say(
        f"windows {logs[0].window} to {logs[-1].window}, "
        f"{sum(len(log.verdicts) for log in logs)} verdicts: {verdict} from the losses logged; "
        f"{len(followed.in_full)} of {len(logs)} windows compared in full"
    )
    return EXIT_WRONG if wrong else EXIT_RIGHT


def read_logs(paths: Sequence[Path]) -> list[WindowLog]:
    """The windows of all files, in order."""
    return [decode_log(data.decode()) for _, data in sorted(read_files(paths).items())]
