"""The bucket of a hotkey: the name that it must have, and whether it works with its two keys.

`python neurons/bucket.py --help` says what it needs.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__" and not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from template.cli.signals import leave_on_signals, unwind_on_signals

if __name__ == "__main__":
    leave_on_signals()

from template.base.preflight import check_own_bucket
from template.bucket.own import PROBE_DEADLINE_S, open_own_bucket
from template.chain.bittensor import open_wallet
from template.cli.owner_flags import BucketConfig, parse_bucket
from template.cli.process_state import restored_process_state
from template.errors import EXIT_ENDED, EXIT_INTERRUPTED, SubnetError, exit_status
from template.protocol.keys import bucket_name
from template.protocol.ss58 import public_key


@restored_process_state()
def main(argv: list[str]) -> int:
    """Run one command; its exit status is described under --help."""
    unwind_on_signals()
    try:
        config = parse_bucket(argv, os.environ)
        _run(config, _hotkey(config))
    except SubnetError as error:
        sys.stderr.write(f"bucket: {error}\n")
        return exit_status(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_ENDED


def _hotkey(config: BucketConfig) -> str:
    if config.hotkey is not None:
        return config.hotkey
    wallet = config.wallet
    return str(open_wallet(wallet.name, wallet.hotkey, str(wallet.path)).hotkey.ss58_address)


def _run(config: BucketConfig, hotkey: str) -> None:
    if config.bucket is None:
        _say(bucket_name(public_key(hotkey)))
        return
    bucket = open_own_bucket(config.bucket, hotkey, deadline_s=PROBE_DEADLINE_S)
    _say(bucket.where)
    check_own_bucket(bucket.writer, bucket.reader, where=bucket.where, clock_ahead_s=None, say=_say)
    _say("the bucket is ready")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
