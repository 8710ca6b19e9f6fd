"""Flags of `tessera plan`, and the settings that follow."""

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

from template.cli.flags import statuses_text, whole
from template.cli.owner_flags import FAR_BLOCK, NOBODY
from template.cli.parser import Parser
from template.errors import ConfigError
from template.planning.hardware import (
    CLASSES,
    DISK_BYTES_PER_S,
    GB,
    MAX_DEVICES,
    MFU,
    SCORING_MFU,
    Line,
    Machine,
    usual_cores,
)
from template.protocol.record import MAX_UIDS
from template.protocol.spec.files import read_toml
from template.protocol.spec.plan import DERIVED, RunChoices, draft_spec
from template.protocol.spec.run import RunSpec
from template.protocol.toml import from_table

UP_MBPS, DOWN_MBPS, PEERS, VALIDATORS, BLOCK_S = 110.0, 500.0, 20, 8, 12.0
GPU: Final = "rtx4090:1"
MAX_MBPS: Final = 1e7
MAX_CORES: Final = 4096
MAX_PARTS: Final = 9999
MAX_TOKENS: Final = 10**16


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig:
    """Settings of `plan`. `dataset_tokens` None: as many as the run reads; `picture`: file.

    `parts` None: the fewest that fit, and `frozen` follows.
    """

    spec: RunSpec
    machine: Machine
    line: Line
    peers: int
    validators: int
    block_s: float
    dataset_tokens: int | None
    picture: Path | None
    is_json: bool
    parts: int | None = 1
    frozen: Literal["bf16", "host"] = "bf16"


def plan_config(args: argparse.Namespace) -> PlanConfig:
    """Settings of `plan`; ConfigError for a wrong file or a missing library."""
    if args.picture is not None and find_spec("matplotlib") is None:
        raise ConfigError(
            "--picture: matplotlib is not installed: `pip install 'tessera-subnet[benchmarks]'`, "
            "or leave --picture out"
        )
    device, count = args.gpu
    if args.parts != 1 and count > 1:
        raise ConfigError(
            f"--parts: {count} devices are ranks of one miner, which train the whole model: name "
            "one device (--gpu), or leave --parts out"
        )
    return PlanConfig(
        spec=read_plan_or_spec(args.run),
        machine=Machine(
            device=CLASSES[device],
            count=count,
            cores=args.cores or usual_cores(count),
            disk_bytes_per_s=args.disk_gb_s * GB,
            mfu=args.mfu,
            scoring_mfu=args.scoring_mfu,
        ),
        line=Line(up_mbps=args.up_mbps, down_mbps=args.down_mbps),
        peers=args.peers,
        validators=args.validators,
        block_s=args.block_s,
        dataset_tokens=args.dataset_tokens,
        picture=args.picture,
        is_json=args.is_json,
        parts=args.parts,
        frozen=args.frozen,
    )


def read_plan_or_spec(path: Path) -> RunSpec:
    """The spec of a file, with zeros for what a plan leaves open; ConfigError names the key."""
    table = read_toml(path, f"--run {path}")
    is_spec = any(key in _section(table, section) for section, key in DERIVED)
    try:
        if is_spec:
            return from_table(RunSpec, table)
        return draft_spec(table, RunChoices(owner_hotkey=NOBODY, start_block=FAR_BLOCK))
    except ConfigError as error:
        raise ConfigError(f"--run {path}: {error}") from error


def _section(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = table.get(name)
    return section if isinstance(section, dict) else {}


def add_plan_flags(parser: Parser) -> None:
    """Run, line, machine, swarm, and the form of the answer."""
    parser.description = _TEXT
    parser.epilog = _EPILOG.format(command=parser.command_line, statuses=statuses_text())
    text = "plan, as in runs/, or run spec (TOML)"
    parser.add_argument("--run", metavar="PATH", type=Path, required=True, help=text)
    _add_line_flags(parser)
    _add_machine_flags(parser)
    add = parser.add_argument_group("run").add_argument
    text = f"miners, this one included (default: {PEERS})"
    add("--peers", metavar="N", type=_peers, default=PEERS, help=text)
    text = f"validators that vote (default: {VALIDATORS})"
    add("--validators", metavar="N", type=_peers, default=VALIDATORS, help=text)
    text = f"seconds of a block (default: {BLOCK_S:g})"
    add("--block-s", metavar="S", type=_seconds, default=BLOCK_S, help=text)
    text = "tokens of the dataset (default: all that the run reads)"
    add("--dataset-tokens", metavar="N", type=_tokens, default=None, help=text)
    add = parser.add_argument_group("answer").add_argument
    text = "print one JSON object instead of tables"
    add("--json", dest="is_json", action="store_true", help=text)
    text = "draw one window into a PNG file (needs matplotlib)"
    add("--picture", metavar="PATH", type=Path, default=None, help=text)


def _add_line_flags(parser: Parser) -> None:
    add = parser.add_argument_group("line").add_argument
    text = f"megabits a second up (default: {UP_MBPS:g})"
    add("--up-mbps", metavar="MBPS", type=_mbps, default=UP_MBPS, help=text)
    text = f"megabits a second down (default: {DOWN_MBPS:g})"
    add("--down-mbps", metavar="MBPS", type=_mbps, default=DOWN_MBPS, help=text)


def _add_machine_flags(parser: Parser) -> None:
    add = parser.add_argument_group("machine").add_argument
    text = f"devices as CLASS:N, of {', '.join(CLASSES)} (default: {GPU})"
    add("--gpu", metavar="CLASS:N", type=_devices, default=GPU, help=text)
    text = f"assumed share of the bf16 peak while training (default: {MFU:g})"
    add("--mfu", metavar="SHARE", type=_share, default=MFU, help=text)
    text = f"assumed share of the float32 peak while scoring (default: {SCORING_MFU:g})"
    add("--scoring-mfu", metavar="SHARE", type=_share, default=SCORING_MFU, help=text)
    text = "cores of the host (default: 16, or 8 for each device if more)"
    add("--cores", metavar="N", type=_cores, default=None, help=text)
    text = f"gigabytes a second that the disk writes (default: {DISK_BYTES_PER_S / GB:g})"
    add("--disk-gb-s", metavar="GB", type=_disk, default=DISK_BYTES_PER_S / GB, help=text)

    text = (
        "ranges of blocks into which a miner cuts the model, to train one in each window; auto: "
        "the fewest that fit in the device (default: 1, the whole model)"
    )
    add("--parts", metavar="N", type=_parts, default=1, help=text)
    text = "where the other ranges lie: in bf16 on the device, or on the host (default: bf16)"
    add("--frozen", choices=("bf16", "host"), default="bf16", help=text)


def _parts(text: str) -> int | None:
    return None if text == "auto" else whole(text, 1, MAX_PARTS)


def _devices(text: str) -> tuple[str, int]:
    name, colon, count = text.partition(":")
    if name not in CLASSES:
        raise argparse.ArgumentTypeError(f"must be CLASS:N with a class of {', '.join(CLASSES)}")
    return name, whole(count if colon else "1", 1, MAX_DEVICES)


def _peers(text: str) -> int:
    return whole(text, 1, MAX_UIDS)


def _cores(text: str) -> int:
    return whole(text, 1, MAX_CORES)


def _tokens(text: str) -> int:
    return whole(text, 1, MAX_TOKENS)


def _mbps(text: str) -> float:
    return _positive(text, MAX_MBPS)


def _disk(text: str) -> float:
    return _positive(text, 1e4)


def _seconds(text: str) -> float:
    return _positive(text, 3600.0)


def _share(text: str) -> float:
    return _positive(text, 1.0)


def _positive(text: str, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1e-6 <= value <= most:  # a NaN is not, either
        raise argparse.ArgumentTypeError(f"must be a number above 0 and up to {most:g}")
    return value


_TEXT = """\
Calculate what a run needs: bytes over the line, seconds of every phase of a window, memory, disk,
bucket and its cost, for miner, validator and owner; and what does not work.

Sizes come from the plan by the code that makes the objects, seconds of the host's work from a
measured record; every assumption is printed. Nothing is measured on this machine."""

_EPILOG = """\
exit status:
{statuses}
  The status is 2 too if the miner's model does not fit in the devices.

examples:
  {command} --run runs/72b.toml --up-mbps 110 --down-mbps 500 --gpu b200:8 --peers 20
  {command} --run run.toml --gpu rtx4090:1 --json
  {command} --run runs/8b.toml --gpu rtx3090:1 --parts auto
"""
