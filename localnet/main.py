"""The command `tessera localnet`: runs a localnet and presents its report, picture and table."""

import json
import logging
import sys
from contextlib import ExitStack, suppress

from rich.console import Console

from localnet.checks import failures_of_run
from localnet.config import LocalnetConfig
from localnet.folder import prepare_folder
from localnet.launcher import Heights, Localnet
from localnet.picture import draw
from localnet.progress import LiveProgress
from localnet.report import Report
from localnet.snapshot import ProgressReader
from localnet.table import final_table, summary, work_table
from template.cli.log import setup_warnings
from template.cli.terminal import complain
from template.commands.model_latest import MODEL_FOLDER
from template.errors import EXIT_INTERRUPTED, EXIT_OPERATOR, ConfigError, SubnetError, exit_status


def run_localnet(config: LocalnetConfig) -> int:
    """Run a localnet; the exit status, as --help describes it."""
    setup_warnings("%(levelname)s %(name)s: %(message)s")
    # The launcher itself reports the chain's death.
    logging.getLogger("template.chain.health").setLevel(logging.ERROR)
    console = Console(width=None if sys.stdout.isatty() else 110)
    try:
        lock = prepare_folder(config.out)
    except ConfigError as error:
        complain(f"localnet: {error}")
        return EXIT_OPERATOR
    with lock:
        return _run(config, console)


def _run(config: LocalnetConfig, console: Console) -> int:
    try:
        return _run_and_present(config, console)
    except KeyboardInterrupt:
        complain("localnet: interrupted; every process was ended")
        return EXIT_INTERRUPTED
    except SubnetError as error:
        complain(f"localnet: {error}")
        complain(f"localnet: logs are in {config.out / 'logs'}")
        return exit_status(error)


def _run_and_present(config: LocalnetConfig, console: Console) -> int:
    with ExitStack() as up:
        with LiveProgress(console) as progress:
            net = up.enter_context(Localnet(config, progress.say, progress.tell))
            report = _watch(net, progress)
        status = _present(report, config, console)
        if config.hold:
            with suppress(KeyboardInterrupt):
                _hold(net, console)
    return status


def _watch(net: Localnet, progress: LiveProgress) -> Report:
    """Show progress until the run ends; the report."""
    reader = ProgressReader(net.spec)

    def show(heights: Heights) -> None:
        progress.update(
            reader.read(net.nodes(), block=heights.head, finalized_block=heights.finalized)
        )

    net.watch(show)
    progress.say("waiting for the epoch that pays the last weights")
    net.settle()
    progress.say("rendering the last page, and fetching the newest checkpoint, as a stranger would")
    net.page.finish()
    net.fetch_model()
    progress.say("reading chain, buckets and logs")
    return net.report()


def _present(report: Report, config: LocalnetConfig, console: Console) -> int:
    path = config.out / "report.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    draw(report, config.out / "localnet.png")
    console.print(final_table(report))
    console.print(work_table(report))
    console.print(summary(report))
    console.print(f"report: {path}\npicture: {config.out / 'localnet.png'}", highlight=False)
    if report["model"] is not None:
        console.print(f"model: {config.out / MODEL_FOLDER}", highlight=False)
    wrong = failures_of_run(report, config.num_windows)
    for sentence in wrong:
        console.print(f"does not hold: {sentence}", style="bold red", highlight=False)
    return 1 if wrong else 0


def _hold(net: Localnet, console: Console) -> None:
    console.print(
        f"chain and bucket server stay up until Ctrl-C: {net.query}",
        highlight=False,
        soft_wrap=True,
    )
    net.hold()
