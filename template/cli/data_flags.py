"""Flags of `data prepare`, and the settings that follow."""

import argparse
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final

from template.cli.flags import folder_path, statuses_text
from template.cli.mix_flags import (
    MixConfig,
    UploadConfig,
    add_mix_flags,
    add_upload_flags,
    mix_config,
    upload_config,
)
from template.cli.parser import Parser
from template.errors import ConfigError

MIB: Final = 2**20
BYTE: Final = "byte"
TEXT_FIELD: Final = "text"
CHAT_FIELD: Final = "messages"
MIN_MEMORY_MIB: Final = 64
MIN_CUT_BYTES: Final = 256
MIN_VOCAB_SIZE: Final = 257
"""Of a trained tokenizer: every byte, and the end of a document."""
NUM_MARKERS: Final = 4
_SIZES: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig:
    """Settings of `data prepare`. `tokenizer` None: bytes; `train_tokenizer` 0: train none;
    `shard_segments` 0 and `cut_bytes` 0: the default, and no cut. `is_chat`: of conversations;
    `reserve_chat`: the trained tokenizer has their markers.
    """

    inputs: tuple[str, ...]
    out: Path
    field: str
    tokenizer: Path | None
    train_tokenizer: int
    train_bytes: int
    end_of_document: str | None
    held_out_ppm: int
    dedup: bool
    cut_bytes: int
    seed: int
    skip_bad: bool
    licence: str
    page_tokens: int
    segment_pages: int
    shard_segments: int
    workers: int
    memory_bytes: int
    is_chat: bool = False
    reserve_chat: bool = False


def prepare_config(args: argparse.Namespace) -> PrepareConfig:
    """Settings of `data prepare`; ConfigError for flags that contradict each other."""
    is_byte = args.tokenizer == BYTE
    if args.train_tokenizer and args.tokenizer is not None:
        raise ConfigError(
            "--train-tokenizer: contradicts --tokenizer, which names one that is there already; "
            "leave one of the two out"
        )
    if args.end_of_document is not None and (args.tokenizer is None or is_byte):
        raise ConfigError(
            "--end-of-document: belongs to a --tokenizer PATH; bytes and a trained tokenizer have "
            "their own"
        )
    if args.chat and args.cut:
        raise ConfigError("--cut: contradicts --chat: conversations are never cut; leave it out")
    if args.reserve_chat and not args.train_tokenizer:
        raise ConfigError(
            "--reserve-chat: belongs to --train-tokenizer; byte has the markers, and a "
            "tokenizer.json has them or not"
        )
    reserves = args.reserve_chat or (args.chat and args.train_tokenizer > 0)
    least = MIN_VOCAB_SIZE + NUM_MARKERS
    if reserves and args.train_tokenizer < least:
        raise ConfigError(
            f"--train-tokenizer {args.train_tokenizer}: with the markers of conversations the "
            f"smallest vocabulary has {least} tokens: 256 bytes, the end of a document and "
            f"{NUM_MARKERS} markers; name {least} or more"
        )
    if args.out.is_file():
        raise ConfigError(f"--out {args.out}: is a file; name a folder")
    return PrepareConfig(
        inputs=tuple(args.inputs),
        out=args.out,
        field=args.field or (CHAT_FIELD if args.chat else TEXT_FIELD),
        tokenizer=None if args.tokenizer is None or is_byte else folder_path(args.tokenizer),
        train_tokenizer=args.train_tokenizer,
        train_bytes=args.train_bytes,
        end_of_document=args.end_of_document,
        held_out_ppm=args.held_out,
        dedup=args.dedup,
        cut_bytes=args.cut,
        seed=args.seed,
        skip_bad=args.skip_bad,
        licence=args.licence,
        page_tokens=args.page_tokens,
        segment_pages=args.segment_pages,
        shard_segments=args.shard_segments,
        workers=args.workers,
        memory_bytes=args.memory * MIB,
        is_chat=args.chat,
        reserve_chat=reserves,
    )


def data_config(
    args: argparse.Namespace, env: Mapping[str, str]
) -> PrepareConfig | MixConfig | UploadConfig:
    """Settings of one data command; ConfigError names a wrong flag or TESSERA_* variable."""
    if args.data_command == "mix":
        return mix_config(args)
    if args.data_command == "upload":
        return upload_config(args, env)
    return prepare_config(args)


def add_data_flags(parser: Parser) -> None:
    """The subcommands `prepare`, `mix` and `upload` with their flags."""
    parser.description = "The data of a run."
    parser.epilog = _DATA_EPILOG.format(command=parser.command_line, statuses=statuses_text())
    commands = parser.add_subparsers(dest="data_command", required=True, metavar="COMMAND")
    text = "make a dataset of shards from texts, JSON lines, Parquet or a `datasets` dataset"
    prepare = commands.add_parser("prepare", help=text)
    prepare.usage = f"{prepare.prog} --out DIR [flags] INPUT ..."
    prepare.description = _TEXT
    prepare.epilog = _EPILOG.format(command=prepare.command_line, statuses=statuses_text())
    _add_input_flags(prepare)
    _add_tokenizer_flags(prepare)
    _add_choice_flags(prepare)
    _add_size_flags(prepare)
    text = "make a mixture of prepared datasets, in shares"
    add_mix_flags(commands.add_parser("mix", help=text))
    text = "put a prepared dataset into this hotkey's bucket"
    add_upload_flags(commands.add_parser("upload", help=text))


def _add_input_flags(parser: Parser) -> None:
    text = "file, folder, folder of `datasets`, or hf:OWNER/NAME[@REVISION][:SPLIT]"
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=text)
    add = parser.add_argument
    text = "folder for the dataset; start again with the same flags after an interruption"
    add("--out", metavar="DIR", type=folder_path, required=True, help=text)
    text = "the documents are conversations, for fine-tuning: whole ones are packed into pages"
    add("--chat", action="store_true", help=text)
    text = "field with the text, in JSON lines, Parquet and `datasets` (default: text; with --chat "
    text += "messages)"
    add("--field", metavar="NAME", default=None, help=text)
    text = "leave out documents that cannot be read, and count them, instead of ending"
    add("--skip-bad", action="store_true", help=text)
    text = "licence of the text, for the data card"
    add("--licence", metavar="TEXT", default="", help=text)


def _add_tokenizer_flags(parser: Parser) -> None:
    add = parser.add_argument_group("tokenizer").add_argument
    text = "tokenizer.json of a Hugging Face fast tokenizer, or byte (the default)"
    add("--tokenizer", metavar="PATH", default=None, help=text)
    text = "train a byte-level BPE of so many tokens on the training documents"
    add("--train-tokenizer", metavar="VOCAB", type=_whole(MIN_VOCAB_SIZE), default=0, help=text)
    text = "reserve the four markers of conversations in it, for a later fine-tuning"
    add("--reserve-chat", action="store_true", help=text)
    text = "text to train it on, at most (default: 256M; training needs several times as much)"
    add("--train-bytes", metavar="SIZE", type=_size, default=256 * MIB, help=text)
    text = "token after each document (default: <|endoftext|> or its like, if PATH has it)"
    add("--end-of-document", metavar="TOKEN", default=None, help=text)


def _add_choice_flags(parser: Parser) -> None:
    add = parser.add_argument_group("documents").add_argument
    text = "share of the documents to hold out, chosen by their hash (default: 0.5%%)"
    add("--held-out", metavar="SHARE", type=_share, default="0.5%", help=text)
    text = "keep one of documents with the same text"
    add("--dedup", action="store_true", help=text)
    text = "cut longer documents at line ends into pieces, shuffled apart (default: never)"
    add("--cut", metavar="SIZE", type=_cut, default=0, help=text)
    text = "seed of the order and of the held-out documents (default: 0)"
    add("--seed", metavar="S", type=_whole(0), default=0, help=text)


def _add_size_flags(parser: Parser) -> None:
    add = parser.add_argument_group("sizes").add_argument
    text = "tokens of a page, one training sequence: data.page_tokens of the plan (default: 2048)"
    add("--page-tokens", metavar="N", type=_whole(2), default=2048, help=text)
    text = "pages of a segment, which nodes fetch and check at once (default: 32)"
    add("--segment-pages", metavar="N", type=_whole(1), default=32, help=text)
    text = "segments of a shard, a file of the bucket (default: as many as make 2^28 tokens)"
    add("--shard-segments", metavar="N", type=_whole(1), default=0, help=text)
    text = "processes (default: one for each core)"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    add("--workers", metavar="N", type=_whole(1), default=cores or 1, help=text)
    text = "memory of a process in MiB (default: 512)"
    add("--memory", metavar="MIB", type=_whole(MIN_MEMORY_MIB), default=512, help=text)


class _whole:
    """Reads a whole number of at least `least`."""

    def __init__(self, least: int) -> None:
        self._least = least

    def __call__(self, text: str) -> int:
        if re.fullmatch(r"[0-9]{1,18}", text) is None or int(text) < self._least:
            raise argparse.ArgumentTypeError(f"must be a whole number, {self._least} or more")
        return int(text)


def _size(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,12})([KMG]?)", text)
    if found is None or int(found[1]) < 1:
        raise argparse.ArgumentTypeError("must be a number of bytes, as 65536, 64K, 256M or 1G")
    return int(found[1]) * _SIZES[found[2]]


def _cut(text: str) -> int:
    size = _size(text)
    if size < MIN_CUT_BYTES:
        raise argparse.ArgumentTypeError(f"must be at least {MIN_CUT_BYTES} bytes")
    return size


def _share(text: str) -> int:
    """A share as millionths: `0.5%` or `0.005`."""
    try:
        share = Decimal(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        ppm = share * 1_000_000
        is_right = 0 < share < 1 and ppm == int(ppm)
    except (InvalidOperation, ValueError, OverflowError):
        is_right = False
    if not is_right:
        raise argparse.ArgumentTypeError(
            "must be a share between 0 and 1, as 0.5% or 0.005, in whole millionths"
        )
    return int(ppm)


_TEXT = """\
Make a dataset of any number of documents: shuffle them by a seeded hash, hold some out, turn them
into tokens and write shards, a manifest and a data card into a folder, which
`tessera owner publish --data DIR` takes.

A file of text (.txt, .text, .md) is a document; JSON lines (.jsonl, .ndjson, .json, also as .gz and
.zst) hold one in a line, Parquet and `datasets` one in a row. Memory is bounded, whatever the size;
the disk needs room for the unpacked text and twice the tokens. After an interruption, even by
kill -9, start the same command again: it goes on, and the result is the same to the byte."""

_EPILOG = """\
examples:
  {command} --out data --tokenizer llama/tokenizer.json --dedup corpus/
  {command} --out data --train-tokenizer 4096 --cut 16K --page-tokens 256 book.txt
  {command} --out chat --chat --tokenizer data/tokenizer.json --skip-bad conversations.jsonl
  {command} --out data --field content --held-out 0.1% code.jsonl.zst hf:OWNER/NAME:train

exit status:
{statuses}
"""

_DATA_EPILOG = """\
exit status:
{statuses}

`{command} prepare --help` and `{command} mix --help` say more.
"""
