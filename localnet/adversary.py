"""`python -m localnet.adversary --behaviour NAME`: a neuron that misbehaves on purpose.

Takes the flags of the behaviour's role; refuses every run but one on a local chain.
"""

import os
import sys

from template.cli.main import clear_surroundings, parse_command, report
from template.cli.signals import leave_on_signals

if __name__ == "__main__":
    leave_on_signals()
    clear_surroundings("misbehaving")

from localnet.adversaries.attacks import ATTACKS
from template.commands.settings import miner_settings, validator_settings
from template.errors import ConfigError
from template.settings import MinerConfig, RankConfig


def main(argv: list[str]) -> int:
    """Run until the run ends; `argv` starts with --behaviour NAME. A neuron's exit status."""
    try:
        config = _parse(argv)
    except ConfigError as error:
        return report("misbehaving", error)
    # Both load torch, which a wrong flag must not wait for.
    from localnet.adversaries.catalogue import BEHAVIOURS
    from template.commands.neuron import run_neuron

    return run_neuron(
        "misbehaving",
        config,
        lambda context, _config: BEHAVIOURS[argv[1]].build(context),
    )


def _parse(argv: list[str]) -> MinerConfig:
    if len(argv) < 2 or argv[0] != "--behaviour" or argv[1] not in ATTACKS:
        raise ConfigError(f"start with --behaviour and one of {', '.join(sorted(ATTACKS))}")
    role = ATTACKS[argv[1]].role
    args = parse_command(role, argv[2:], prog="python -m localnet.adversary")
    settings = validator_settings if role == "validator" else miner_settings
    config = settings(args, os.environ)
    if isinstance(config, RankConfig):
        raise ConfigError("RANK: a misbehaving miner is a single process")
    if not config.spec.schedule.is_local:
        raise ConfigError(
            f"--run {config.neuron.run}: misbehaving is for a run on a local chain, whose "
            'schedule.network is "local"'
        )
    return config


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
