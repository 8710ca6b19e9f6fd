"""An audit from the command line: one validator's logs against chain and buckets, read only."""

from collections.abc import Callable, Iterator

from template.audit.auditor import Auditor
from template.audit.findings import Findings
from template.audit.logs import audit_windows, logs_in_bucket, logs_in_files, read_files
from template.cli.audit_flags import AuditConfig
from template.commands.newcomer import existing_subnet
from template.commands.reading import read_only
from template.context import ReadContext
from template.errors import ConfigError

Say = Callable[[str], None]


def run_audit(config: AuditConfig, say: Say) -> int:
    """0 if every figure follows from the public objects, else 1.

    Raises SubnetError if the chain is away, the validator unknown or a log missing.
    """
    spec = config.spec
    files = read_files(config.logs) if config.logs else {}
    with read_only(config.run, config.chain, spec) as context:
        _check_validator(config, context)
        newest = spec.schedule.num_windows - 1
        first = min(files) if files and config.first is None else config.first
        last = max(files) if files and config.last is None else config.last
        auditor = Auditor(context, config.validator, (newest if first is None else first) + 1)
        first = auditor.next_window if first is None else first
        last = newest if last is None else last
        say(f"auditing {config.validator}, windows {first} to {last}, from theta_"
            f"{auditor.next_window + 1} on")  # fmt: skip
        source = (
            logs_in_files(files)
            if files
            else logs_in_bucket(context, auditor.peers, config.validator)
        )
        return _tell(audit_windows(auditor, source, first, last), say)


def _tell(findings: Iterator[Findings], say: Say) -> int:
    """Report the findings of each window and the totals; the exit status."""
    num_windows = num_losses = num_wrong = num_unknown = 0
    worst = 0.0
    for found in findings:
        num_wrong += len(found.wrong)
        num_unknown += len(found.unknown)
        num_windows += bool(found.num_losses or found.wrong)
        num_losses += found.num_losses
        worst = max(worst, found.worst)
        for line in found.wrong:
            say(line)
        for line in found.unknown:
            say(f"cannot tell: {line}")
        verdict = f"{len(found.wrong)} figures differ" if found.wrong else "nothing differs"
        say(f"{found.window_label}: {found.num_losses} losses computed again, {verdict}")
    if not num_windows:
        raise ConfigError("no window was audited: no log was found")
    verdict = f"{num_wrong} figures differ" if num_wrong else "nothing differs"
    say(
        f"{num_windows} windows, {num_losses} losses computed again, the worst off by {worst:.1e} "
        f"nats: {verdict} from the public objects; {num_unknown} points could not be told"
    )
    return int(num_wrong > 0)


def _check_validator(config: AuditConfig, context: ReadContext) -> None:
    """Raise ConfigError unless the subnet exists and has this hotkey."""
    graph = existing_subnet(context.chain)
    row = graph.by_hotkey(config.validator)
    if row is None:
        raise ConfigError(
            f"--validator: {config.validator} is not registered on --netuid {config.chain.netuid}"
        )
