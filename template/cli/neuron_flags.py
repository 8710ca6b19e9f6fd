"""Flags of a miner and a validator, and the settings that follow from flags and environment.

The SDK reads no flags, so every dotted flag that operators know from the subnet template is
defined or refused here by name. The settings themselves are in `template.settings`.
"""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from template.cli.environment import bucket_settings
from template.cli.flags import (
    DEFAULT_PROJECT,
    add_chain_flags,
    add_logging_flags,
    add_wallet_flags,
    add_wandb_flags,
    chain_config,
    folder_path,
    path_name,
    run_file,
    variables_text,
    wallet_config,
)
from template.cli.metrics_flags import add_metrics_flags, metrics_config
from template.cli.parser import Parser, aligned
from template.cli.torchrun import find_place
from template.errors import EXIT_STATUSES, ConfigError
from template.protocol.spec.files import load_spec
from template.settings import (
    LoggingConfig,
    MinerConfig,
    NeuronConfig,
    Place,
    RankConfig,
    ValidatorConfig,
    WandbConfig,
)

Role = Literal["miner", "validator"]

STATE_DIR: Final = "~/.bittensor/{role}s/{coldkey}/{hotkey}/netuid{netuid}/{name}"

NO_RUN_FILE: Final = (
    "--run: missing; `tessera newcomer --netuid {netuid} --subtensor.network NAME --out run.toml` "
    "finds the run spec that the subnet's owner offers, and `--run run.toml` takes it"
)
_NO_AXON = "this subnet has no axon; miners publish to their bucket (see TESSERA_BUCKET_*)"
_RUN_SPEC = "set by the run spec (--run), because all nodes must agree on it"

REFUSED_FLAGS: Final[Mapping[str, str]] = {
    "--mock": "there is no mock mode; `make localnet` runs the real neurons on a local chain",
    "--neuron.axon_off": _NO_AXON,
    "--neuron.epoch_length": f"{_RUN_SPEC}: the length of a window in blocks",
    "--neuron.events_retention_size": "metrics.jsonl only grows; use logrotate with copytruncate",
    "--neuron.moving_average_alpha": f"{_RUN_SPEC}: pay is a function of the last windows' scores",
    "--neuron.sample_size": f"{_RUN_SPEC}: the chain draws one sample for all validators",
    "--neuron.num_concurrent_forwards": "a validator evaluates once a window; nothing to set",
    "--neuron.timeout": f"{_RUN_SPEC}: deadlines are blocks of the chain",
    "--neuron.vpermit_tao_limit": "votes count by the chain's validator permits and stake",
}
"""Flags of the subnet template without a meaning here, each with the replacement."""

REFUSED_PREFIXES: Final[Mapping[str, str]] = {
    "--axon.": _NO_AXON,
    "--blacklist.": "a neuron of this subnet takes no requests: there are no senders to refuse",
}
VALIDATOR_ONLY: Final[Mapping[str, str]] = {
    "--neuron.disable_set_weights": "a miner sets no weights; this is a validator's flag",
    "--neuron.publish_bf16": "a miner publishes no checkpoints; this is a validator's flag",
    "--neuron.scoring_batch": "a miner scores nothing; its flag is --neuron.micro_batch",
}


INNER_FIELDS: Final = (
    "micro_batch",
    "activation_checkpointing",
    "compile",
    "peak_tflops",
    "width",
    "windows",
    "parts",
    "frozen",
)
"""Settings of a miner's inner loop."""
SCORING_FIELDS: Final = ("scoring_batch",)
"""Settings of a validator's passes."""
MINER_ONLY: Final[Mapping[str, str]] = {
    f"--neuron.{key}": "a validator does not train; this is a miner's flag" for key in INNER_FIELDS
}


def miner_config(args: argparse.Namespace, env: Mapping[str, str]) -> MinerConfig:
    """A miner's settings. ConfigError names a wrong flag, variable or key, never a secret."""
    if args.run is None:
        raise ConfigError(NO_RUN_FILE.format(netuid=args.netuid))
    spec, place = load_spec(args.run), find_place(env)
    return MinerConfig(
        spec=spec,
        chain=chain_config(args, spec.schedule),
        wallet=wallet_config(args),
        logging=LoggingConfig(level=args.level, directory=args.logging_dir),
        neuron=neuron_config(args, place),
        wandb=_wandb_config(args, env),
        bucket=bucket_settings(env),
        metrics=metrics_config(args),
        place=place,
    )


def neuron_config(args: argparse.Namespace, place: Place) -> NeuronConfig:
    """The settings of the process alone, without wallet, chain and bucket; ConfigError."""
    return _checked(_neuron_config(args), place)


def rank_config(args: argparse.Namespace, place: Place) -> RankConfig:
    """The settings of a rank that obeys rank 0; ConfigError names a wrong flag."""
    if args.run is None:
        raise ConfigError(NO_RUN_FILE.format(netuid=args.netuid))
    return RankConfig(
        role=args.role,
        spec=load_spec(args.run),
        neuron=neuron_config(args, place),
        logging=LoggingConfig(level=args.level, directory=args.logging_dir),
        place=place,
    )


def validator_config(args: argparse.Namespace, env: Mapping[str, str]) -> ValidatorConfig:
    """A validator's settings; raises as `miner_config` does."""
    node = miner_config(args, env)
    return ValidatorConfig(
        spec=node.spec,
        chain=node.chain,
        wallet=node.wallet,
        logging=node.logging,
        neuron=node.neuron,
        wandb=node.wandb,
        bucket=node.bucket,
        metrics=node.metrics,
        place=node.place,
        set_weights=args.set_weights,
        publish_bf16=args.publish_bf16,
    )


def _wandb_config(args: argparse.Namespace, env: Mapping[str, str]) -> WandbConfig:
    """Weights & Biases is on only if a key or another --wandb flag is given."""
    asked = (env.get("WANDB_API_KEY"), args.project_name, args.entity, args.notes)
    return WandbConfig(
        mode=args.wandb or ("online" if any(asked) else "off"),
        project_name=args.project_name or DEFAULT_PROJECT,
        entity=args.entity,
        notes=args.notes or "",
    )


_OWN_FIELDS: Final = {"miner": INNER_FIELDS, "validator": SCORING_FIELDS}


def _neuron_config(args: argparse.Namespace) -> NeuronConfig:
    return NeuronConfig(
        name=args.name,
        device=args.device,
        state_dir=args.state_dir or _default_state_dir(args.role, args),
        save_events=args.save_events,
        run=args.run,
        offload=args.offload,
        **{key: getattr(args, key) for key in _OWN_FIELDS[args.role]},
    )


def _checked(neuron: NeuronConfig, place: Place) -> NeuronConfig:
    """The settings; ConfigError for flags that do not go together."""
    if neuron.parts == 1 and neuron.frozen == "host":
        raise ConfigError(
            "--neuron.frozen host: nothing is frozen while the whole model trains: name "
            "--neuron.parts, or leave --neuron.frozen out"
        )
    if neuron.parts > 1 and neuron.compile:
        raise ConfigError(
            "--neuron.compile: goes with the whole model alone, since every part would be compiled "
            "anew: leave out --neuron.compile or --neuron.parts"
        )
    if neuron.parts > 1 and not place.is_alone:
        raise ConfigError(
            f"--neuron.parts {neuron.parts}: several ranks under torchrun train the whole model: "
            "start one process without torchrun, or leave --neuron.parts out"
        )
    return neuron


def _default_state_dir(role: Role, args: argparse.Namespace) -> Path:
    text = STATE_DIR.format(
        role=role,
        coldkey=args.wallet_name,
        hotkey=args.wallet_hotkey,
        netuid=args.netuid,
        name=args.name,
    )
    try:
        return folder_path(text)
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"--neuron.state_dir: {error}") from error


def add_miner_flags(parser: Parser) -> None:
    """Every flag of a miner, and the rest of its --help."""
    _add_neuron_flags(parser, "miner")


def add_validator_flags(parser: Parser) -> None:
    """Every flag of a validator, and the rest of its --help."""
    _add_neuron_flags(parser, "validator")


def _add_neuron_flags(parser: Parser, role: Role) -> None:
    parser.refusal = lambda name: _refusal(role, name)
    parser.allow_repeats = False
    parser.usage = f"{parser.prog} --run PATH --netuid N [flags]"
    parser.description = f"Run a Tessera {role}."
    parser.epilog = _EPILOG.format(
        command=parser.command_line,
        role=role,
        variables=variables_text(),
        state_dir=STATE_DIR.format(
            role=role, coldkey="COLDKEY", hotkey="HOTKEY", netuid="N", name="NAME"
        ),
        statuses=aligned(EXIT_STATUSES),
    )
    parser.set_defaults(role=role)
    _add_run_flags(parser, role)
    add_chain_flags(parser)
    add_wallet_flags(parser)
    add_logging_flags(parser)
    add_wandb_flags(parser)
    add_metrics_flags(parser)


def _refusal(role: Role, name: str) -> str | None:
    if role == "miner" and name in VALIDATOR_ONLY:
        return VALIDATOR_ONLY[name]
    if role == "validator" and name in MINER_ONLY:
        return MINER_ONLY[name]
    by_prefix = (why for prefix, why in REFUSED_PREFIXES.items() if name.startswith(prefix))
    return REFUSED_FLAGS.get(name) or next(by_prefix, None)


def _add_run_flags(parser: Parser, role: Role) -> None:
    group = parser.add_argument_group("run and process")
    group.add_argument(
        "--run",
        dest="run",
        metavar="PATH",
        type=run_file,
        default=None,
        help="run spec (TOML): what all nodes agree on; `tessera newcomer` finds it",
    )
    group.add_argument(
        "--neuron.name",
        dest="name",
        metavar="NAME",
        type=path_name,
        default=role,
        help=f"name of this process in paths and logs (default: {role})",
    )
    group.add_argument(
        "--neuron.device",
        dest="device",
        metavar="DEVICE",
        type=device_name,
        default="auto",
        help="auto, cpu, cuda, cuda:N, xpu, xpu:N or mps (default: auto, a GPU if torch sees one)",
    )
    group.add_argument(
        "--neuron.state_dir",
        dest="state_dir",
        metavar="DIR",
        type=folder_path,
        default=None,
        help="checkpoints, shards, metrics.jsonl (default: see below)",
    )
    group.add_argument(
        "--neuron.dont_save_events",
        dest="save_events",
        action="store_false",
        help="do not write metrics.jsonl",
    )
    group.add_argument(
        "--neuron.offload",
        dest="offload",
        choices=("host", "device"),
        default="host",
        help="under torchrun: where each rank keeps its part of theta (a miner: and of error "
        "feedback): the host's memory or the rank's device (default: host)",
    )
    if role == "miner":
        _add_inner_flags(parser)
    if role == "validator":
        _add_scoring_flags(group)


def _add_scoring_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--neuron.disable_set_weights",
        dest="set_weights",
        action="store_false",
        help="evaluate and vote, but set no weights on chain",
    )
    group.add_argument(
        "--neuron.scoring_batch",
        dest="scoring_batch",
        metavar="PAGES",
        type=_pages,
        default=None,
        help="pages of one forward pass on each device; losses differ by rounding (default: "
        "auto, what half of a GPU's free memory holds; on a CPU 16,384 tokens, 64 pages at "
        "most)",
    )
    group.add_argument(
        "--neuron.publish_bf16",
        dest="publish_bf16",
        action="store_true",
        help="put each checkpoint's model into the bucket in bfloat16 too, as a folder that "
        "transformers loads: 2 bytes a parameter for each checkpoint kept",
    )


def _add_inner_flags(parser: Parser) -> None:
    group = parser.add_argument_group(
        "inner loop (what is trained stays the same, but for rounding)"
    )
    group.add_argument(
        "--neuron.micro_batch",
        dest="micro_batch",
        metavar="PAGES",
        type=_pages,
        default=None,
        help="pages of one forward and backward pass (default: auto, the most that fit; found "
        "once, and remembered in the state folder)",
    )
    group.add_argument(
        "--neuron.activation_checkpointing",
        dest="activation_checkpointing",
        action="store_true",
        help="compute activations twice instead of keeping them: less memory, a third slower",
    )
    group.add_argument(
        "--neuron.compile",
        dest="compile",
        action="store_true",
        help="torch.compile: faster steps after minutes of compilation; needs a compiler",
    )
    group.add_argument(
        "--neuron.peak_tflops",
        dest="peak_tflops",
        metavar="TFLOPS",
        type=_peak_tflops,
        default=None,
        help="the device's peak for inner_mfu in the metrics (default: known for common GPUs)",
    )
    parser.add_argument(
        "--neuron.width",
        dest="width",
        metavar="N|auto",
        type=_width,
        default=0,
        help="pages of a step in multiples of the run's, for a fast machine; auto fills the "
        "window, up to the run's training.max_width (default: auto)",
    )
    parser.add_argument(
        "--neuron.windows",
        dest="windows",
        metavar="N",
        type=_count,
        default=1,
        help="a machine too slow for a window's inner steps sends one whole payload after N "
        "windows at most, not a part of the steps in each (default: 1)",
    )
    _add_range_flags(parser)


def _width(text: str) -> int:
    if text == "auto":
        return 0
    if re.fullmatch(r"[1-9][0-9]{0,3}", text) is None:
        raise argparse.ArgumentTypeError("must be auto or a whole number from 1 to 9999")
    return int(text)


def _add_range_flags(parser: Parser) -> None:
    group = parser.add_argument_group("a device too small for the whole model")
    group.add_argument(
        "--neuron.parts",
        dest="parts",
        metavar="N",
        type=_count,
        default=1,
        help="cut the model into N ranges of blocks, and train in each window the range that the "
        "chain draws; `tessera plan --parts` says what fits (default: 1, the whole model)",
    )
    group.add_argument(
        "--neuron.frozen",
        dest="frozen",
        choices=("bf16", "host"),
        default="bf16",
        help="where the other ranges lie: on the device, in bf16 where the run computes in bf16; "
        "or in the host's memory, from where a layer at a time comes to the device, and "
        "activations are computed twice (default: bf16)",
    )


def _count(text: str) -> int:
    if re.fullmatch(r"[1-9][0-9]{0,3}", text) is None:
        raise argparse.ArgumentTypeError("must be a whole number from 1 to 9999")
    return int(text)


def _pages(text: str) -> int | None:
    if text == "auto":
        return None
    if re.fullmatch(r"[1-9][0-9]{0,8}", text) is None:
        raise argparse.ArgumentTypeError("must be auto or a number of pages, 1 or more")
    return int(text)


def _peak_tflops(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError("must be a number above 0")
    return value


def device_name(text: str) -> str:
    if re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:[0-9]{1,4})?", text) is None:
        raise argparse.ArgumentTypeError("must be auto, cpu, cuda, cuda:N, xpu, xpu:N or mps")
    return text


_EPILOG = """\
environment variables (the only source of secrets; secrets are never logged):
{variables}
  WANDB_API_KEY                key of Weights & Biases; turns it on unless --wandb.off is given

files (default --neuron.state_dir):
  {state_dir}
      everything that this process writes; a restart continues from this folder
      metrics.jsonl: one line of JSON per window

exit status:
{statuses}

example:
  export TESSERA_R2_ACCOUNT_ID=... TESSERA_BUCKET_WRITE_KEY_ID=...   (and the other three)
  {command} --run runs/NAME.toml --netuid 42 --subtensor.network finney \\
      --wallet.name mine --wallet.hotkey {role}1 --neuron.device cuda:0

Batch, learning rate, window length and everything else that all nodes must agree on are in the
run spec (--run), not in flags: nodes with different specs cannot work together.
"""
