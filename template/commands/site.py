"""`site`: a run as static pages in a folder, once or again in each window."""

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from template.bucket.own import UPLOAD_DEADLINE_S, open_own_bucket
from template.bucket.site_shelf import SiteShelf
from template.chain.bittensor import verify_signature
from template.chain.health import redact_endpoint
from template.cli.public_flags import SiteConfig
from template.cli.terminal import complain, say
from template.commands.newcomer import existing_subnet
from template.commands.reading import follow_run
from template.context import ReadContext
from template.errors import (
    EXIT_ENDED,
    EXIT_INTERRUPTED,
    ConfigError,
    NodeTrouble,
    StateError,
    SubnetError,
    Unavailable,
    exit_status,
)
from template.files import is_lasting, reason, remedy
from template.peers.client import Peers
from template.peers.notice import read_notice
from template.protocol.keys import site_key
from template.public.gather import Gatherer
from template.public.site.render import REFRESH_S, render_site
from template.sync.successions import append_claimed

RENDERINGS_PER_WINDOW: Final = 2
"""Votes count once in a window, and verdict logs come later."""
MAX_FAILURES: Final = 20
"""Readings in a row that fail, a third of a window apart, until a watch gives up."""
OURS: Final = ("window", "hotkey")
"""Folders in which pages of an older rendering are removed."""


def run_site(config: SiteConfig) -> int:
    """Render; the exit status."""
    try:
        with follow_run(config.run, config.chain, config.spec) as context:
            existing_subnet(context.chain)
            _run(context, config)
    except SubnetError as error:
        complain(f"site: {error}")
        return exit_status(error)
    except KeyboardInterrupt:
        complain("site: interrupted")
        return EXIT_INTERRUPTED
    return EXIT_ENDED


def _run(context: ReadContext, config: SiteConfig) -> None:
    network = redact_endpoint(config.chain.network)
    gatherer = Gatherer(
        context,
        netuid=config.chain.netuid,
        network=network,
        ask_notice=partial(read_notice, context.chain, context.open_bucket, verify_signature),
    )
    with _shelf(context, config) as shelf:
        render_until_the_end(context, gatherer, config, shelf)


@contextmanager
def _shelf(context: ReadContext, config: SiteConfig) -> Iterator[SiteShelf | None]:
    """The pages' place in a bucket, if one was asked for."""
    if config.shelf is None:
        yield None
        return
    hotkey, settings = config.shelf
    bucket = open_own_bucket(settings, hotkey, deadline_s=UPLOAD_DEADLINE_S)
    with closing(bucket):
        say(f"the pages go to {bucket.where}, {site_key(context.run.run_id, '')}")
        yield SiteShelf(bucket.writer, context.run.run_id)


def render_until_the_end(
    context: ReadContext, gatherer: Gatherer, config: SiteConfig, shelf: SiteShelf | None
) -> None:
    """Render once, or with `config.watch` again in each window until the run is over.

    ConfigError if the run goes on under a spec that this software cannot follow.
    """
    failures, peers = 0, Peers(context)
    while True:
        try:
            if config.watch:
                _follow_successions(context, peers)
            is_over = _is_over(context)
            files = write_site(context, gatherer, config, is_live=config.watch and not is_over)
            if shelf is not None:
                say(f"{shelf.put(files)} bytes of new pages put into the bucket")
            failures = 0
        except (StateError, ConfigError):
            raise
        except SubnetError as error:
            failures += 1
            if not config.watch or failures >= MAX_FAILURES:
                raise
            complain(f"site: not rendered this time: {error}")
            context.waiter.sleep(REFRESH_S)
            continue
        if not config.watch or is_over:
            return
        schedule, finalized = context.schedule, context.chain.finalized()
        length = schedule.blocks_of(schedule.window_of(finalized))
        block = finalized + max(1, length // RENDERINGS_PER_WINDOW)
        context.waiter.until_finalized(block, "the next rendering of the pages")


def _follow_successions(context: ReadContext, peers: Peers) -> None:
    """Append what was adopted since the last rendering; ConfigError if it cannot be followed."""
    try:
        append_claimed(context, peers)
    except NodeTrouble:
        raise
    except Unavailable as error:
        # The known specs hold for some windows yet: pages by them are better than none.
        complain(f"site: {error}")


def _is_over(context: ReadContext) -> bool:
    """Whether votes after the run's last window are final: nothing changes any more but pay."""
    schedule, num_windows = context.schedule, context.run.num_windows
    return context.chain.finalized() >= schedule.vote_block(num_windows)


def write_site(
    context: ReadContext, gatherer: Gatherer, config: SiteConfig, *, is_live: bool
) -> dict[str, bytes]:
    """Gather, render and write; the files. Raises ChainError, or StateError of the folder."""
    first = max(0, gatherer.last_counted() - config.windows + 1)
    facts = gatherer.read(first)
    refresh_s = REFRESH_S if is_live else None
    files = render_site(facts, context.form_at, run_file=config.run.name, refresh_s=refresh_s)
    num_bytes = sum(map(len, files.values()))
    try:
        _write(config.out, files)
    except OSError as error:
        raise StateError(
            f"--out {config.out}: cannot be written ({reason(error)}); {remedy(config.out, error)}",
            is_lasting=is_lasting(error),
        ) from error
    say(
        f"windows {first} to {facts.last_counted}: {len(files)} files of {num_bytes} bytes in "
        f"{config.out}"
    )
    return files


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Each file whole or as before; the first page last, so that its links lead somewhere."""
    for name in sorted(files, key=lambda name: (name.startswith("index"), name)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(path.name + ".new")
        new.write_bytes(files[name])
        os.replace(new, path)
    for kind in OURS:
        for path in (folder / kind).glob("*"):
            if path.suffix in (".html", ".json") and f"{kind}/{path.name}" not in files:
                with suppress(FileNotFoundError):
                    path.unlink()
