"""Flags of the command `localnet`, and the configuration that follows from them.

Imports neither torch nor the SDK, for a quick --help and quick refusals. The processes' flags are
in `commands`.
"""

import argparse
import math
import sys
from pathlib import Path

from localnet.adversaries.attacks import ATTACKS, listing
from localnet.changes import parse_changes
from localnet.config import LONG_RUN_WINDOWS, MIN_LOSS_DROP_NATS, LocalnetConfig
from localnet.folder import ENDPOINT
from localnet.keeper import MAX_RESTARTS
from localnet.roster import (
    make_roster,
    parse_misbehave,
    parse_parts,
    parse_ranks,
    parse_speeds,
    parse_widths,
)
from template.cli.flags import add_text_flags, check_text
from template.cli.parser import Parser
from template.errors import ConfigError
from template.protocol.spec.plan import load_plan

PLAN = Path(__file__).resolve().parent / "plan.toml"
"""A link to runs/localnet.toml of the checkout; a wheel has a copy."""
WINDOWS_HELP = "length of the run (default: 24; with fewer than 6 it ends before the first pay)"
MISBEHAVE_HELP = "miners on top of --miners, validators among --validators; see below, or `help`"
RANKS_HELP = (
    "honest miners and validators of N processes by torchrun, as on N GPUs; for example "
    "miner-0:2,val-0:2"
)
SPEEDS_HELP = (
    "honest miners at a share of this machine's speed: each idles after every inner step; for "
    "example miner-1:0.25,miner-2:0.1"
)
WIDTHS_HELP = "honest miners whose steps take N times the pages; for example miner-0:2"
PARTS_HELP = "honest miners that train one of N parts of the model; for example miner-3:2"
WANDB_HELP = "neurons' Weights & Biases; online takes WANDB_API_KEY (default: off)"
AUTO = "auto"
BLOCK_TIME_HELP = "seconds per block (default: auto, what this machine is measured to keep)"
REVEAL_HELP = (
    "off: weights count at once; modelled: an epoch later, as on a public subnet (default: off)"
)
CHANGES_HELP = (
    "from a window on the run follows the keys of a file, and a prepared dataset, as by `tessera "
    "succession`; all honest validators support it; for example 8:runs/changes/anneal.toml:mixture"
)
HOLD_HELP = "leave chain and bucket server up after the end, until Ctrl-C"
DESCRIPTION = """A whole subnet on this machine: local chain, bucket server, validators and
miners, each a process of its own. Trains a small Llama on real English text and ends with a
report, a picture and a table."""

EPILOG = f"""
Writes into --out: report.json, localnet.png, model/ (the newest checkpoint, fetched and proven as
by `tessera model latest`), run.toml (the run spec), logs/, nodes/ (state, metrics.jsonl and
verdicts.jsonl of each neuron), wallets/ and buckets/. While it runs, the file
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

`--misbehave help` lists the behaviours.

Example: {{command}} --miners 4 --validators 3 --misbehave copier:1,liar:1
"""


def localnet_config(args: argparse.Namespace) -> LocalnetConfig:
    """The configuration of a localnet, checked as far as possible before a process starts.

    `--misbehave help` lists the behaviours and exits with status 0. Raises ConfigError naming a
    wrong flag.
    """
    if args.misbehave == "help":
        sys.stdout.write(f"{listing()}\n")
        raise SystemExit(0)
    if args.windows < 1:
        raise ConfigError("--windows: at least 1")
    load_plan(args.plan)
    text = check_text(args)
    misbehave = parse_misbehave(args.misbehave, ATTACKS)
    roster = make_roster(
        args.miners,
        args.validators,
        {name: n for name, n in misbehave.items() if ATTACKS[name].role == "miner"},
        {name: n for name, n in misbehave.items() if ATTACKS[name].role == "validator"},
    )
    roster = parse_speeds(args.speeds, parse_ranks(args.ranks, roster))
    return LocalnetConfig(
        roster=tuple(parse_widths(args.widths, parse_parts(args.parts, roster))),
        num_windows=args.windows,
        out=args.out.resolve(),
        plan=args.plan,
        text=text,
        data=args.data,
        block_time_s=_block_time_s(args.block_time),
        seed=args.seed,
        debug=args.debug,
        restarts=0 if args.no_restart else MAX_RESTARTS,
        hold=args.hold,
        wandb=args.wandb,
        commit_reveal=args.commit_reveal,
        changes=parse_changes(args.changes, args.windows),
    )


def _block_time_s(text: str) -> float | None:
    """Seconds, or None for "auto"."""
    if text == AUTO:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.05 <= seconds <= 60:
        raise ConfigError(f"--block-time {text}: write {AUTO}, or from 0.05 to 60 seconds")
    return seconds


def add_localnet_flags(parser: Parser) -> None:
    """Flags and help of `localnet`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG.format(command=parser.command_line)
    add = parser.add_argument
    add("--miners", type=int, default=4, help="honest miners (default: 4)")
    add("--validators", type=int, default=2, help="validators (default: 2)")
    add("--misbehave", default="", metavar="NAME:N,...", help=MISBEHAVE_HELP)
    add("--ranks", default="", metavar="NAME:N,...", help=RANKS_HELP)
    add("--speeds", default="", metavar="NAME:SHARE,...", help=SPEEDS_HELP)
    add("--parts", default="", metavar="NAME:N,...", help=PARTS_HELP)
    add("--widths", default="", metavar="NAME:N,...", help=WIDTHS_HELP)
    add("--windows", type=int, default=24, help=WINDOWS_HELP)
    add("--out", type=Path, default=Path("localnet-out"), help="folder (default: localnet-out)")
    add("--plan", type=Path, default=PLAN, help="(default: runs/localnet.toml)")
    add("--block-time", default=AUTO, metavar="SECONDS", help=BLOCK_TIME_HELP)
    add("--changes", default="", metavar="WINDOW:FILE[:DATASET],...", help=CHANGES_HELP)
    add("--commit-reveal", choices=("off", "modelled"), default="off", help=REVEAL_HELP)
    add("--seed", type=int, default=0, help="of the first parameters (default: 0)")
    add("--debug", action="store_true", help="neurons log at debug level")
    add("--no-restart", action="store_true", help="leave a process that died dead (see below)")
    add("--hold", action="store_true", help=HOLD_HELP)
    add("--wandb", choices=("off", "offline", "online"), default="off", help=WANDB_HELP)
    add_text_flags(add)
