"""Flags of `model latest`, `generate`, `eval` and `publish`, and the settings that follow."""

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from template.cli.devices import check_device
from template.cli.flags import (
    add_chain_flags,
    chain_config,
    check_folder_of,
    folder_path,
    statuses_text,
    whole,
)
from template.cli.neuron_flags import device_name
from template.cli.parser import Parser
from template.errors import ConfigError
from template.protocol.spec.files import load_spec
from template.protocol.spec.run import RunSpec
from template.secret import Secret
from template.settings import ChainConfig

STANDARD_TASKS: Final = (
    "arc_challenge", "arc_easy", "piqa", "openbookqa", "hellaswag", "winogrande", "mmlu",
)  # fmt: skip
ENV_TOKEN: Final = "HF_TOKEN"
ENV_HUB: Final = "HF_ENDPOINT"
MAX_NEW_TOKENS: Final = 1_000_000
MAX_SEED: Final = 2**63 - 1
DTYPES: Final[Mapping[str, str]] = {"float32": "float32", "bf16": "bfloat16"}
"""Flag -> the name in a model's config."""
WRITING: Final = ("latest", "publish")
"""Commands whose folder stays."""
_REPO: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_TASK: Final = re.compile(r"[\w.+-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSource:
    """A run whose newest checkpoint is wanted. `loss_pages`: held-out pages for its loss. `dtype`:
    of the numbers in the folder.
    """

    run: Path
    spec: RunSpec
    chain: ChainConfig
    loss_pages: int
    device: str
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderSource:
    """A model on this machine, in Hugging Face's layout."""

    folder: Path
    device: str


Source = RunSource | FolderSource


@dataclass(frozen=True, kw_only=True, slots=True)
class LatestConfig:
    """Settings of `model latest`; `out`: folder for the model."""

    source: RunSource
    out: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateConfig:
    """Settings of `model generate`. `temperature` 0: always the likeliest token. `is_chat`: the
    model answers; `prompt` None: each line of standard input.
    """

    source: Source
    prompt: str | None
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    is_chat: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """Settings of `model eval`. `task_dir`: folder of own task files; `limit` None: all documents;
    `num_fewshot` None: the tasks' own; `out`: file for the results, as JSON.
    """

    source: Source
    tasks: tuple[str, ...]
    task_dir: Path | None
    num_fewshot: int | None
    limit: int | None
    batch_size: int
    out: Path | None


@dataclass(frozen=True, kw_only=True, slots=True)
class HubConfig:
    """Settings of `model publish`. `token` None: the one that `hf auth login` has left; `endpoint`
    None: the hub.
    """

    source: Source
    repo: str
    is_private: bool
    token: Secret | None
    endpoint: str | None


Config = LatestConfig | GenerateConfig | EvalConfig | HubConfig


def model_config(args: argparse.Namespace, env: Mapping[str, str]) -> Config:
    """Settings of one model command. ConfigError names a wrong flag, file or missing extra."""
    if args.model_command == "latest":
        _check_out(args.out)
        return LatestConfig(source=_run_source(args), out=args.out)
    source = _source(args)
    if args.model_command == "generate":
        if args.prompt is None and not args.chat:
            raise ConfigError(
                'TEXT: missing: give the text to continue, "" to begin a document, or --chat for '
                "a conversation"
            )
        return GenerateConfig(
            source=source,
            prompt=args.prompt,
            max_tokens=args.max_tokens,
            temperature=args.temperature,
            top_p=args.top_p,
            seed=args.seed,
            is_chat=args.chat,
        )
    if args.model_command == "eval":
        return _eval_config(args, source)
    if _REPO.fullmatch(args.hub) is None:
        raise ConfigError(f"--hub {args.hub!r:.200}: name a repository as OWNER/NAME")
    token = env.get(ENV_TOKEN)
    return HubConfig(
        source=source,
        repo=args.hub,
        is_private=args.private,
        token=Secret(token) if token else None,
        endpoint=env.get(ENV_HUB) or None,
    )


def _eval_config(args: argparse.Namespace, source: Source) -> EvalConfig:
    if find_spec("lm_eval") is None:
        raise ConfigError(
            "model eval: lm-eval is not installed: `pip install 'tessera-subnet[eval]'`, or in a "
            "checkout `pip install -e '.[eval]'`"
        )
    if args.task_dir is not None and not args.task_dir.is_dir():
        raise ConfigError(f"--task_dir {args.task_dir}: no such folder: name one with task files")
    if args.out is not None:
        check_folder_of("--out", args.out)
    return EvalConfig(
        source=source,
        tasks=args.tasks,
        task_dir=args.task_dir,
        num_fewshot=args.num_fewshot,
        limit=args.limit,
        batch_size=args.batch_size,
        out=args.out,
    )


def _source(args: argparse.Namespace) -> Source:
    if args.model is None:
        return _run_source(args)
    chain = (args.netuid, args.network, args.chain_endpoint, args.fallbacks)
    flags = [("--run", args.run), *(("--netuid and the chain", v) for v in chain)]
    for flag, value in (*flags, ("--dtype", getattr(args, "dtype", None))):
        if value is not None:
            raise ConfigError(f"{flag}: no use beside --model; leave one of the two out")
    if not (args.model / "config.json").is_file():
        raise ConfigError(
            f"--model {args.model}: has no config.json: name a folder that `tessera model latest "
            "--out` has written"
        )
    check_device(args.device)
    return FolderSource(folder=args.model, device=args.device)


def _run_source(args: argparse.Namespace) -> RunSource:
    if args.run is None or args.netuid is None:
        missing = "--run" if args.run is None else "--netuid"
        other = "" if args.model_command == "latest" else ", or a model's folder (--model)"
        raise ConfigError(f"{missing}: missing: name the run spec and the subnet{other}")
    check_device(args.device)
    spec = load_spec(args.run)
    return RunSource(
        run=args.run,
        spec=spec,
        chain=chain_config(args, spec.schedule),
        loss_pages=args.loss_pages if args.model_command in WRITING else 0,
        device=args.device,
        dtype=DTYPES[args.dtype or "float32"] if args.model_command in WRITING else "float32",
    )


def _check_out(out: Path) -> None:
    """A folder of other things is not written into: it may have a `config.json` of its own."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is no folder; name another")
    if out.is_dir() and any(out.iterdir()) and not (out / "tessera.json").is_file():
        raise ConfigError(f"--out {out}: holds something else than a model of a run; name another")


def add_model_flags(parser: Parser) -> None:
    """The subcommands of `model` with their flags."""
    parser.description = _TEXT
    parser.epilog = _EPILOG.format(command=parser.command_line, statuses=statuses_text())
    commands = parser.add_subparsers(dest="model_command", required=True, metavar="COMMAND")
    for name, text, add_own in (
        ("latest", "fetch and verify the newest model, into a folder", _add_latest_flags),
        ("generate", "continue a text", _add_generate_flags),
        ("eval", "measure a model by tasks of lm-eval", _add_eval_flags),
        ("publish", "upload a model to the Hugging Face hub", _add_publish_flags),
    ):
        command = commands.add_parser(name, help=text, description=f"{text.capitalize()}.")
        add_own(command)
        _add_source_flags(command, takes_folder=name != "latest")


def _add_source_flags(parser: Parser, *, takes_folder: bool) -> None:
    add = parser.add_argument_group("model").add_argument
    if takes_folder:
        text = "folder of the model, instead of the run's newest one"
        add("--model", metavar="DIR", type=folder_path, default=None, help=text)
    add("--run", metavar="PATH", type=Path, default=None, help="run spec (TOML)")
    text = "auto, cpu, cuda, cuda:N, xpu, xpu:N or mps (default: auto)"
    add("--neuron.device", dest="device", metavar="DEVICE", type=device_name, default="auto",
        help=text)  # fmt: skip
    add_chain_flags(parser, required=False)


def _add_written_flags(parser: Parser) -> None:
    text = "numbers in the folder: the run's float32, or rounded to bf16, half as long"
    text += " (default: float32)"
    parser.add_argument("--dtype", choices=tuple(DTYPES), default=None, help=text)
    text = "held-out pages for the loss in the model card, 0 for none (default: 64)"
    parser.add_argument("--loss_pages", metavar="N", type=_count, default=64, help=text)


def _add_latest_flags(parser: Parser) -> None:
    text = "folder for the model, in the layout of from_pretrained"
    parser.add_argument("--out", metavar="DIR", type=folder_path, required=True, help=text)
    _add_written_flags(parser)


def _add_generate_flags(parser: Parser) -> None:
    add = parser.add_argument
    text = "the text to continue; may be empty. With --chat a question"
    add("prompt", metavar="TEXT", nargs="?", type=_text, default=None, help=text)
    text = "answer, by the model's chat template; without TEXT each line of input, until Ctrl-D"
    add("--chat", action="store_true", help=text)
    text = "most tokens to write (default: 200)"
    add("--max_tokens", metavar="N", type=_new_tokens, default=200, help=text)
    text = "0 takes the likeliest token always (default: 0.8)"
    add("--temperature", metavar="T", type=_temperature, default=0.8, help=text)
    text = "draw among the likeliest tokens with this share of probability (default: 0.95)"
    add("--top_p", metavar="P", type=_share, default=0.95, help=text)
    text = "the same seed draws the same text on this machine (default: 0)"
    add("--seed", metavar="N", type=_seed, default=0, help=text)


def _add_eval_flags(parser: Parser) -> None:
    add = parser.add_argument
    text = f"tasks of lm-eval (default: {','.join(STANDARD_TASKS)})"
    add("--tasks", metavar="NAME[,NAME]", type=_tasks, default=STANDARD_TASKS, help=text)
    text = "folder of own task files (YAML); paths in them start in this folder"
    add("--task_dir", metavar="DIR", type=folder_path, default=None, help=text)
    text = "examples before each question (default: as the tasks say)"
    add("--num_fewshot", metavar="N", type=_count, default=None, help=text)
    text = "documents of each task (default: all)"
    add("--limit", metavar="N", type=_positive, default=None, help=text)
    text = "requests at once (default: 8)"
    add("--batch_size", metavar="N", type=_positive, default=8, help=text)
    add("--out", metavar="PATH", type=Path, default=None, help="file for the results, as JSON")


def _add_publish_flags(parser: Parser) -> None:
    text = "repository on the hub; made if it does not exist"
    parser.add_argument("--hub", metavar="OWNER/NAME", required=True, help=text)
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    _add_written_flags(parser)


def _count(text: str) -> int:
    return whole(text, 0, 2**31)


def _positive(text: str) -> int:
    return whole(text, 1, 2**31)


def _new_tokens(text: str) -> int:
    return whole(text, 1, MAX_NEW_TOKENS)


def _seed(text: str) -> int:
    return whole(text, 0, MAX_SEED)


def _text(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(
            "is not UTF-8: mend it, or convert it by `iconv`"
        ) from None
    return text


def _temperature(text: str) -> float:
    return _real(text, 0.0, 100.0)


def _share(text: str) -> float:
    return _real(text, 1e-6, 1.0)


def _real(text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value <= most:  # a NaN is not, either
        raise argparse.ArgumentTypeError(f"must be a number from {least:g} to {most:g}")
    return value


def _tasks(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not all(_TASK.fullmatch(name) for name in names):
        raise argparse.ArgumentTypeError("must be names of tasks, with commas between")
    return names


_TEXT = """\
What people do with the model of a run: fetch it, write with it, measure it, publish it.

The newest checkpoint comes from any validator and is verified against the root that most of the
voting stake stands behind; no wallet is needed. `generate`, `eval` and `publish` take a folder
(--model), or fetch the newest model into a temporary one."""

_EPILOG = """\
environment variables:
  HF_TOKEN     access token of the hub, for `publish` (else the one of `hf auth login`); never shown
  HF_ENDPOINT  another hub than huggingface.co

exit status:
{statuses}

examples:
  {command} latest --run run.toml --netuid 42 --subtensor.network test --out model
  {command} generate --model model "Once upon a time"
  {command} generate --model model --chat
  {command} eval --model model --tasks arc_easy,hellaswag
  {command} publish --model model --hub me/theta
"""
