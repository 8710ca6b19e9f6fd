"""Do a validator's decisions, ratings and weights follow from what it measured?

    python -m template.recompute --run run.toml LOG [LOG ...]

LOG: verdict logs in the order of their windows, as they lie in the validator's bucket, or the
`verdicts.jsonl` of its state folder. Everything but the losses themselves is computed again from
the losses in the log, bit for bit on the same platform; each figure that differs is named. Exit
status 1 if there are any. Decisions, ratings and weights depend on windows before: where those are
not given, only the gains and effects of a window itself are compared, and it says so. What is
taken on trust: pages, their owners, uids, and why a payload was not measured.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.log import LogError, WindowLog, decode_logs, follow
from template.base.scoring import pay_rules
from template.errors import ConfigError
from template.protocol.spec import load_spec


def main(argv: Sequence[str]) -> int:
    """0 if all follows, 1 if something does not, 2 if the logs cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m template.recompute", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--run", type=Path, required=True, help="the run spec")
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOG")
    arguments = parser.parse_args(argv)
    try:
        rules = pay_rules(load_spec(arguments.run))
        logs = read_logs(arguments.logs)
    except ConfigError as error:
        sys.stderr.write(f"recompute: {error}\n")
        return 2
    followed = follow(logs, rules)
    for line in followed.found:
        sys.stdout.write(line + "\n")
    wrong = len(followed.found)
    verdict = f"{wrong} figures do not follow" if wrong else "everything follows"
    sys.stdout.write(
        f"windows {logs[0].window} to {logs[-1].window}, "
        f"{sum(len(log.verdicts) for log in logs)} verdicts: {verdict} from the losses logged; "
        f"{len(followed.in_full)} of {len(logs)} windows compared in full\n"
    )
    return 1 if wrong else 0


def read_logs(paths: Sequence[Path]) -> list[WindowLog]:
    """The windows of all files; of one that was judged again after a restart, the last word."""
    by_window: dict[int, WindowLog] = {}
    for path in paths:
        try:
            found = decode_logs(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}: name verdict logs") from error
        except (LogError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {error}: name verdict logs") from error
        by_window |= {log.window: log for log in found}
    if not by_window:
        raise ConfigError("no window in these logs: name logs of a validator that has scored")
    return [log for _, log in sorted(by_window.items())]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
