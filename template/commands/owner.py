"""`owner publish`, `owner check`, `owner notice` and `newcomer`: publish and check a run, tell of a
newer version.
"""

import hashlib
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

from rich.console import Console

from template import __spec_version__
from template.base.preflight import check_own_bucket, check_published_endpoint
from template.bucket.own import COMMAND_PROBE_DEADLINE_S, UPLOAD_DEADLINE_S, open_own_bucket
from template.chain.bittensor import (
    BittensorChain,
    ChainOptions,
    open_wallet,
    sign_message,
    verify_signature,
)
from template.cli.log import setup_warnings
from template.cli.owner_flags import (
    CheckConfig,
    FindConfig,
    NoticeConfig,
    OwnerConfig,
    PublishConfig,
)
from template.cli.process_state import hide_memory
from template.cli.signals import STOP_LIMIT_S, unwind_on_signals
from template.cli.terminal import complain, say, say_lines
from template.commands.newcomer import look, position, table
from template.commands.notice import put_notice
from template.commands.offered import describe_offer, find_run
from template.commands.publish import (
    check_subnet,
    draft_of,
    publish_run,
    summary,
    write_spec,
)
from template.commands.reading import bucket_opener
from template.context import OpenBucket
from template.errors import (
    EXIT_ENDED,
    EXIT_INTERRUPTED,
    ConfigError,
    SubnetError,
    exit_status,
)
from template.peers.notice import fetch_notice
from template.protocol.spec import RunSpec, spec_to_toml
from template.settings import ChainConfig

OPTIONS = ChainOptions(read_timeout_s=15.0, read_deadline_s=15.0)
"""A person waits for the answer."""


def run_owner(name: str, config: OwnerConfig) -> int:
    """Run one command, called `name` in its errors; the exit status."""
    unwind_on_signals(limit_s=STOP_LIMIT_S)
    hide_memory()
    setup_warnings()
    try:
        if isinstance(config, CheckConfig):
            return _check(config)
        if isinstance(config, FindConfig):
            return _find(config)
        if isinstance(config, NoticeConfig):
            return _notice(config)
        return _publish(config)
    except SubnetError as error:
        complain(f"{name}: {error}")
        return exit_status(error)
    except KeyboardInterrupt:
        complain(f"{name}: interrupted; start again: uploaded objects are not sent again")
        return EXIT_INTERRUPTED


def _publish(config: PublishConfig) -> int:
    wallet = open_wallet(config.wallet.name, config.wallet.hotkey, str(config.wallet.path))
    hotkey, settings = wallet.hotkey.ss58_address, config.bucket
    probed = open_own_bucket(settings, hotkey, deadline_s=COMMAND_PROBE_DEADLINE_S)
    bucket = open_own_bucket(settings, hotkey, deadline_s=UPLOAD_DEADLINE_S)
    is_local = draft_of(config, hotkey).schedule.is_local
    check_published_endpoint(
        settings.endpoint_url, on_localnet=is_local, variable=settings.endpoint_variable
    )
    with _chain(config.chain, wallet) as chain:
        check_subnet(config, chain, hotkey, say)
        say(probed.where)
        check_own_bucket(
            probed,
            clock_ahead_s=time.time() - chain.head_time_s(),
            say=lambda text: say(f"bucket: {text}"),
        )
        published = publish_run(config, chain, bucket, say)
        block_s = chain.block_time_s()
    say_lines(f"\n{summary(published, config, block_s, time.time())}")
    return EXIT_ENDED


def _check(config: CheckConfig) -> int:
    spec = config.spec
    digest = hashlib.sha256(config.run.read_bytes()).hexdigest()
    say(f"run spec {config.run}: {spec.name}, run_id {spec.run_id.hex()}, SHA-256 {digest}")
    opener = bucket_opener(on_localnet=spec.schedule.is_local)
    with _chain(config.chain, None) as chain:
        say(describe_offer(spec, chain))
        return _look(spec, chain, opener)


def _find(config: FindConfig) -> int:
    opener = bucket_opener(on_localnet=config.is_local)
    with _chain(config.chain, None) as chain:
        found = find_run(chain, opener)
        spec, text = found.spec, spec_to_toml(found.spec)
        if spec.schedule.is_local != config.is_local:
            raise ConfigError(
                f"--local: contradicts the run spec offered by {found.hotkey}, whose "
                f'schedule.network is "{spec.schedule.network}": '
                + ("leave --local out" if config.is_local else "start again with --local")
            )
        digest = hashlib.sha256(text.encode()).hexdigest()
        say(
            f"run spec offered by the subnet's owner, {found.hotkey}, at block {found.block:,}: "
            f"{spec.name}, run_id {spec.run_id.hex()}, SHA-256 {digest}"
        )
        if config.out is not None:
            write_spec(config.out, text)
            say(f"written to {config.out}")
        return _look(spec, chain, opener)


def _notice(config: NoticeConfig) -> int:
    wallet = open_wallet(config.wallet.name, config.wallet.hotkey, str(config.wallet.path))
    settings = config.bucket
    check_published_endpoint(
        settings.endpoint_url, on_localnet=config.is_local, variable=settings.endpoint_variable
    )
    hotkey, opener = wallet.hotkey.ss58_address, bucket_opener(on_localnet=config.is_local)
    bucket = open_own_bucket(settings, hotkey, deadline_s=UPLOAD_DEADLINE_S)
    with closing(bucket), _chain(config.chain, None) as chain:
        put_notice(
            config.notice,
            chain,
            bucket,
            sign=partial(sign_message, wallet),
            fetch=partial(fetch_notice, chain, opener, verify_signature),
            say=say,
        )
    return EXIT_ENDED


def _look(spec: RunSpec, chain: BittensorChain, opener: OpenBucket) -> int:
    report = look(spec, chain, opener)
    say(position(spec, chain.head()))
    Console(width=None if sys.stdout.isatty() else 110).print(table(report))
    wrong = [finding.what for finding in report.findings if not finding.mirrors]
    say("all is there" if not wrong else f"not to be had: {', '.join(wrong)}")
    return report.status


@contextmanager
def _chain(config: ChainConfig, wallet: Any) -> Iterator[BittensorChain]:
    chain = BittensorChain(
        endpoint=config.network,
        fallbacks=config.fallbacks,
        netuid=config.netuid,
        wallet=wallet,
        version_key=__spec_version__,
        options=OPTIONS,
    )
    try:
        yield chain
    finally:
        chain.close()
