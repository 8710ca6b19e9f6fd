"""The chaos run's command.

    python -m benchmarks.chaos --quick     every kind of fault once, 4 miners and 3 validators
    python -m benchmarks.chaos             every kind three times, 6 miners and 4 validators
    python -m benchmarks.chaos --report    table and picture again, of the run on record

Starts a localnet of real processes, each behind proxies and a clock of its own; its logs stay
in --out. Ends with status 1 if something that must hold does not: a fault without effect is one
of them.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks.chaos import report
from benchmarks.chaos.arena import Arena, crew_of
from benchmarks.chaos.faults import LIES
from benchmarks.chaos.measure import (
    Run,
    calm_windows,
    final_digests,
    lost_windows,
    results,
    verdict,
)
from benchmarks.chaos.plan import LIAR_PLACE, Fault, make_plan, windows_for
from benchmarks.chaos.replaying import Replayed, replay
from benchmarks.learning.report import commit
from localnet.config import LocalnetConfig
from localnet.flags import PLAN
from localnet.folder import prepare_folder
from localnet.onchain import NETUID
from localnet.roster import make_roster
from simulation.faults import ProcessFault
from template.cli.flags import CHECKOUT, DEFAULT_TEXT
from template.cli.main import clear_surroundings
from template.cli.process_state import restored_process_state
from template.cli.signals import unwind_on_signals
from template.commands.plan import load_plan
from template.errors import EXIT_INTERRUPTED, ConfigError, SubnetError

RESULTS = CHECKOUT / "benchmarks" / "results"
MAX_RESTARTS = 40
ROUNDS = 3
LIAR: Final = "false-root"
"""The behaviour of one validator, honest but in the windows of its faults."""


@restored_process_state()
def main(argv: list[str]) -> int:
    """Play the plan, write the results; the exit status."""
    unwind_on_signals()
    arguments = _parser().parse_args(argv)
    clear_surroundings("chaos")
    if arguments.report:
        record = json.loads((arguments.results / "chaos.json").read_text())
    else:
        try:
            record = _play(arguments)
        except SubnetError as error:
            sys.stderr.write(f"chaos: {error}\n")
            return 1
        except KeyboardInterrupt:
            sys.stderr.write("chaos: interrupted; every process was ended\n")
            return EXIT_INTERRUPTED
    report.write(record, arguments.results)
    print((arguments.results / "chaos.md").read_text())
    return 1 if record["wrong"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.chaos", allow_abbrev=False)
    add = parser.add_argument
    add("--quick", action="store_true", help="every kind of fault once")
    add("--report", action="store_true", help="of the run on record, no other")
    add("--seed", type=int, default=0, help="of the plan and of theta_0 (default: 0)")
    add("--only", default="", metavar="KIND,...", help="these alone, such as KILL_CHAIN,STORM")
    add("--miners", type=int, default=None, help="(default: 4 with --quick, else 6)")
    add("--validators", type=int, default=None, help="(default: 3 with --quick, else 4)")
    add("--block-time", type=float, default=0.25, help="seconds per block (default: 0.25)")
    add("--out", type=Path, default=Path("chaos-out"), help="the localnet's (default: chaos-out)")
    add("--results", type=Path, default=RESULTS, help="folder of the results")
    return parser


def _command(arguments: argparse.Namespace) -> str:
    """The command line that repeats the run, without its folders."""
    words = ["python -m benchmarks.chaos", *(["--quick"] if arguments.quick else [])]
    for name in ("seed", "only", "miners", "validators", "block_time"):
        value = getattr(arguments, name)
        if value != _parser().get_default(name):
            words.append(f"--{name.replace('_', '-')} {value}")
    return " ".join(words)


def _play(arguments: argparse.Namespace) -> dict[str, Any]:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("template.chain.health").setLevel(logging.ERROR)
    kinds = _kinds(arguments.only)
    out = arguments.out.resolve()
    config = _config(arguments, kinds, out)
    plan = make_plan(arguments.seed, config.num_windows, crew_of(config), kinds)
    started_s, load, head = time.monotonic(), os.getloadavg()[0], commit()
    with prepare_folder(out), Arena(config, plan, _tell(started_s)) as arena:
        run = arena.play()
        replayed = replay(out / "run.toml", NETUID, arena.net.endpoint, final_digests(run))
    return {
        "command": _command(arguments),
        "commit": head,
        "seed": arguments.seed,
        "wall_s": round(time.monotonic() - started_s, 1),
        "load_before": load,
        "load_after": os.getloadavg()[0],
        **_record(run, config, plan, replayed),
        "losses": dict(sorted(arena.watcher.losses.items())),
        "restarts": arena.net.restarts,
    }


def _kinds(only: str) -> Sequence[ProcessFault]:
    names = [name for name in only.split(",") if name]
    unknown = [name for name in names if name not in ProcessFault.__members__]
    if unknown:
        raise ConfigError(
            f"--only: no fault {unknown}; there are: {', '.join(ProcessFault.__members__)}"
        )
    return [ProcessFault[name] for name in names] or tuple(ProcessFault)


def _config(
    arguments: argparse.Namespace, kinds: Sequence[ProcessFault], out: Path
) -> LocalnetConfig:
    quick = arguments.quick
    miners = arguments.miners if arguments.miners is not None else 4 if quick else 6
    validators = arguments.validators if arguments.validators is not None else 3 if quick else 4
    config = LocalnetConfig(
        roster=tuple(make_roster(miners, validators, {})),
        num_windows=windows_for(len(kinds) * (1 if quick else ROUNDS)),
        out=out,
        plan=PLAN,
        text=DEFAULT_TEXT,
        block_time_s=arguments.block_time,
        seed=arguments.seed,
        debug=False,
        restarts=MAX_RESTARTS,
        hold=False,
        wandb="off",
    )
    return _with_liar(config) if set(kinds) & LIES.keys() else config


def _with_liar(config: LocalnetConfig) -> LocalnetConfig:
    """The same with a validator that can lie, under the name that it has."""
    names = crew_of(config).validators[LIAR_PLACE : LIAR_PLACE + 1]
    roster = [replace(p, behaviour=LIAR) if p.name in names else p for p in config.roster]
    return replace(config, roster=tuple(roster))


def _record(
    run: Run, config: LocalnetConfig, plan: Sequence[Fault], replayed: Replayed
) -> dict[str, Any]:
    faults = [{**row, **_span(run, row["window"])} for row in results(run)]
    wrong = verdict(faults, str(ProcessFault.KILL_TOP_VALIDATOR), [str(kind) for kind in LIES])
    if len(faults) < len(plan):
        wrong.append(f"{len(plan) - len(faults)} planned faults never began")
    if replayed.equal is False:
        wrong.append(f"the replay: {replayed.reason}")
    lost, crew = lost_windows(run), crew_of(config)
    blocks = int(load_plan(config.plan)["schedule"]["blocks_per_window"])
    return {
        "setting": {
            "num_windows": config.num_windows,
            "window_s": blocks * (config.block_time_s or 0.0),
            "miners": list(crew.miners),
            "validators": list(crew.validators),
        },
        "faults": faults,
        "replay_digest_equal": replayed.equal,
        "replay": {"reason": replayed.reason, "said": dict(replayed.said)},
        "calm": {
            "num_windows": len(calm_windows()),
            "windows_lost": len([w for w in lost if w in calm_windows()]),
        },
        "windows_lost": len(lost),
        "lost": lost,
        "judged": sorted(run.judged),
        "wrong": wrong,
        "final": {name: list(end) for name, end in final_digests(run).items()},
    }


def _span(run: Run, window: int) -> dict[str, float]:
    """Where a fault began and ended, in windows."""
    fault = next(f for f in run.faults if f.window == window)
    first, length = run.schedule.start_block, run.schedule.blocks_per_window
    return {
        "began": round((fault.began_block - first) / length, 2),
        "ended": round((fault.ended_block - first) / length, 2),
    }


def _tell(started_s: float) -> Any:
    def tell(line: str) -> None:
        print(f"{time.monotonic() - started_s:6.0f} s  {line}", flush=True)

    return tell


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
