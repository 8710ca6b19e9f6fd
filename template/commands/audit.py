"""An audit from the command line: one validator's logs against chain and buckets, read only."""

from collections.abc import Callable, Iterator, Mapping

from template.audit.auditor import Auditor
from template.audit.findings import Findings
from template.audit.kept import Wanted, choose_range, kept_windows
from template.audit.logs import audit_windows, logs_in_bucket, logs_in_files, read_files
from template.cli.audit_flags import AuditConfig
from template.commands.newcomer import existing_subnet
from template.commands.reading import check_window, follow_run
from template.context import ReadContext
from template.errors import ConfigError, Unavailable

Say = Callable[[str], None]


def run_audit(config: AuditConfig, say: Say) -> int:
    """0 if every figure follows from the public objects, else 1.

    Raises SubnetError if the chain is away, the validator unknown or a log missing.
    """
    files = read_files(config.logs) if config.logs else {}
    with follow_run(config.run, config.chain, config.spec) as context:
        _check_validator(config, context)
        for flag, window in (("--first", config.first), ("--last", config.last)):
            check_window(context.run, flag, window)
        wanted = Wanted(
            first=config.first,
            last=config.last,
            logged=(min(files), max(files)) if files else None,
        )
        return audit_validator(context, config.validator, wanted, files, say)


def audit_validator(
    context: ReadContext, validator: str, wanted: Wanted, files: Mapping[int, bytes], say: Say
) -> int:
    """As `run_audit`, with the chain and the buckets of a context."""
    kept = kept_windows(context)
    chosen = choose_range(context, wanted, kept, say)
    auditor = Auditor(context, validator, chosen.start + 1)
    if auditor.next_window < kept.first:
        raise Unavailable(
            f"no validator serves a checkpoint from which window {chosen.start} can be reached, "
            f"and the payloads since theta_{auditor.next_window + 1} are deleted; {kept}. Name a "
            "later --first, or start again later"
        )
    first = auditor.next_window if chosen.first is None else chosen.first
    say(
        f"auditing {validator}, windows {first} to {chosen.last}, from "
        f"theta_{auditor.next_window + 1} on"
    )
    in_bucket = logs_in_bucket(context, auditor.peers, validator)
    source = logs_in_files(files) if files else in_bucket
    return _tell(audit_windows(auditor, source, first, chosen.last), say)


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
