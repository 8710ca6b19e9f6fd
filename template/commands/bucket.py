"""`bucket name` and `bucket check`: the name of a hotkey's bucket, and a test with both keys."""

from template.base.preflight import check_own_bucket
from template.bucket.own import COMMAND_PROBE_DEADLINE_S, open_own_bucket
from template.chain.bittensor import open_wallet
from template.cli.bucket_flags import BucketConfig
from template.cli.signals import STOP_LIMIT_S, unwind_on_signals
from template.cli.terminal import complain, say
from template.errors import EXIT_ENDED, EXIT_INTERRUPTED, SubnetError, exit_status
from template.protocol.keys import bucket_name
from template.protocol.ss58 import public_key


def run_bucket(config: BucketConfig) -> int:
    """Run one command; the exit status."""
    unwind_on_signals(limit_s=STOP_LIMIT_S)
    try:
        _run(config, _hotkey(config))
    except SubnetError as error:
        complain(f"bucket: {error}")
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
        say(bucket_name(public_key(hotkey)))
        return
    bucket = open_own_bucket(config.bucket, hotkey, deadline_s=COMMAND_PROBE_DEADLINE_S)
    say(bucket.where)
    check_own_bucket(bucket, clock_ahead_s=None, say=say)
    say("the bucket is ready")
