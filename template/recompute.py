"""Does what a validator says follow from what it measured, and did it measure that?

    python -m template.recompute --run run.toml LOG [LOG ...]
    python -m template.recompute --run run.toml --netuid N --subtensor.network NAME \\
        --validator HOTKEY [--first W] [--last W] [LOG ...]

LOG: verdict logs, as they lie in the validator's bucket, or the `verdicts.jsonl` of its state
folder. Exit status 0 if all is right, 1 if something is not, 2 if it cannot be known.

The first form reads nothing else: everything but the losses themselves is computed again from
the losses in the log, bit for bit on the same platform; each figure that differs is named.
Decisions, ratings and weights depend on windows before: where those are not given, only the gains
and effects of a window itself are compared, and it says so.

The second form, an audit, takes chain and buckets too, with no wallet, and the logs from the
validator's bucket where no LOG is given. It joins the run at a published checkpoint, follows it
window by window, and computes again the seed, the pages and their owners, uids, refusals, and
every loss: those within evaluation.loss_tolerance of the run spec are alike. What only that
validator can know, or nobody any more, is listed as "cannot tell". Windows to come are waited
for; past ones can be audited as far back as the chain's endpoint keeps state and buckets payloads.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.verdict_log import WindowLog, decode_log
from evaluation.verify import verify_logs
from template.audit.logs import read_files
from template.cli.flags import DEFAULT_NETWORK, add_chain_flags
from template.errors import ConfigError, SubnetError
from template.protocol.spec import load_spec
from template.scoring.rules import pay_rules
from template.settings import ChainConfig

EXIT_RIGHT, EXIT_WRONG, EXIT_UNKNOWN = 0, 1, 2


def main(argv: Sequence[str]) -> int:
    """0 if all follows, 1 if something does not, 2 if it cannot be known."""
    arguments = _parser().parse_args(argv)
    try:
        if _is_audit(arguments):
            return _audit(arguments)
        return _recompute(arguments.run, arguments.logs)
    except SubnetError as error:
        sys.stderr.write(f"recompute: {error}\n")
        return EXIT_UNKNOWN
    except KeyboardInterrupt:
        sys.stderr.write("recompute: interrupted\n")
        return EXIT_UNKNOWN


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m template.recompute", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--run", type=Path, required=True, help="the run spec")
    parser.add_argument("logs", nargs="*", type=Path, metavar="LOG")
    add_chain_flags(parser, required=False)
    group = parser.add_argument_group("audit")
    add = group.add_argument
    add("--validator", metavar="HOTKEY", help="whose logs they are (SS58)")
    text = "first window (default: those of the LOGs, or from the newest checkpoint on)"
    add("--first", metavar="W", type=int, help=text)
    add("--last", metavar="W", type=int, help="last window (default: of the LOGs, or the run's)")
    return parser


def _is_audit(arguments: argparse.Namespace) -> bool:
    """ConfigError for half of an audit's flags."""
    told = (
        arguments.netuid, arguments.network, arguments.chain_endpoint, arguments.first,
        arguments.last,
    )  # fmt: skip
    if arguments.validator is not None:
        if arguments.netuid is None:
            raise ConfigError("--netuid: an audit reads the chain, name the subnet")
        return True
    if any(value is not None for value in told):
        raise ConfigError("--validator: an audit is of one validator, name its hotkey")
    if not arguments.logs:
        raise ConfigError("name verdict logs, or a --validator and its chain; see --help")
    return False


def _audit(arguments: argparse.Namespace) -> int:
    # The chain's library takes a second to load, and who follows a file does not need it.
    from template.commands.audit import AuditConfig, run_audit

    config = AuditConfig(
        run=arguments.run,
        chain=ChainConfig(
            netuid=arguments.netuid,
            network=arguments.chain_endpoint or arguments.network or DEFAULT_NETWORK,
        ),
        validator=arguments.validator,
        first=arguments.first,
        last=arguments.last,
        logs=tuple(arguments.logs),
    )
    return run_audit(config, _say)


def _recompute(run: Path, paths: Sequence[Path]) -> int:
    rules = pay_rules(load_spec(run))
    logs = read_logs(paths)
    followed = verify_logs(logs, rules)
    for line in followed.found:
        _say(line)
    wrong = len(followed.found)
    verdict = f"{wrong} figures do not follow" if wrong else "everything follows"
    _say(
        f"windows {logs[0].window} to {logs[-1].window}, "
        f"{sum(len(log.verdicts) for log in logs)} verdicts: {verdict} from the losses logged; "
        f"{len(followed.in_full)} of {len(logs)} windows compared in full"
    )
    return EXIT_WRONG if wrong else EXIT_RIGHT


def read_logs(paths: Sequence[Path]) -> list[WindowLog]:
    """The windows of all files, in their order."""
    return [decode_log(data.decode()) for _, data in sorted(read_files(paths).items())]


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
