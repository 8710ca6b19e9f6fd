"""`python -m localnet.slowed --speed SHARE`: an honest miner on a machine as slow as one may wish.

A duty cycle: after each inner step the miner idles, so that steps take 1 / SHARE of their time. All
else (codec, chain, bucket) is as fast as this machine. Takes the flags of a miner after SHARE;
refuses every run but one on a local chain.
"""

import os
import sys
from functools import partial

from template.cli.main import clear_surroundings, parse_command, report
from template.cli.signals import leave_on_signals

if __name__ == "__main__":
    leave_on_signals()
    clear_surroundings("miner")

from localnet.roster import MIN_SPEED
from template.commands.settings import miner_settings
from template.errors import ConfigError
from template.settings import MinerConfig, RankConfig


def main(argv: list[str]) -> int:
    """Run until the run ends; `argv` starts with --speed SHARE. A miner's exit status."""
    try:
        speed, config = _parse(argv)
    except ConfigError as error:
        return report("miner", error)
    # Both load torch, which a wrong flag must not wait for.
    from localnet.slow_work import SlowedWork
    from template.base.miner import Miner
    from template.commands.neuron import run_neuron

    work = partial(SlowedWork, speed=speed)
    return run_neuron("miner", config, lambda context, _config: Miner(context, work=work))


def _parse(argv: list[str]) -> tuple[float, MinerConfig]:
    speed = _speed(argv)
    args = parse_command("miner", argv[2:], prog="python -m localnet.slowed")
    config = miner_settings(args, os.environ)
    if isinstance(config, RankConfig):
        raise ConfigError("RANK: a slowed miner is a single process")
    if not config.spec.schedule.is_local:
        raise ConfigError(
            f"--run {config.neuron.run}: slowing down is for a run on a local chain, whose "
            'schedule.network is "local"'
        )
    return speed, config


def _speed(argv: list[str]) -> float:
    try:
        speed = float(argv[1]) if argv[:1] == ["--speed"] else 0.0
    except (IndexError, ValueError):
        speed = 0.0
    if not MIN_SPEED <= speed <= 1.0:
        raise ConfigError(f"start with --speed and a share from {MIN_SPEED} to 1")
    return speed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
