"""`data prepare`: make a dataset from an owner's documents."""

from collections.abc import Mapping
from typing import Any

from template.cli.data_flags import PrepareConfig
from template.cli.mix_flags import MixConfig, UploadConfig
from template.cli.terminal import complain, say, say_lines
from template.commands.data_mix import run_mix, run_upload
from template.data.chat import chat_table
from template.data.manifest import manifest_digest
from template.data.preparing.order import Order
from template.data.preparing.prepare import prepare
from template.data.preparing.settings import Bounds, Choices
from template.data.preparing.vocabulary import TokenizerChoice
from template.errors import EXIT_ENDED, EXIT_INTERRUPTED, SubnetError, exit_status
from template.protocol.spec import ChatSpec


def run_data(config: PrepareConfig | MixConfig | UploadConfig) -> int:
    """Run one command: progress on standard error, the result on standard output; exit status."""
    try:
        if isinstance(config, MixConfig):
            run_mix(config, say)
        elif isinstance(config, UploadConfig):
            run_upload(config, say)
        else:
            _prepare(config)
    except SubnetError as error:
        complain(f"data: {error}")
        return exit_status(error)
    except KeyboardInterrupt:
        complain("data: interrupted; start the same command again: it goes on where it stopped")
        return EXIT_INTERRUPTED
    return EXIT_ENDED


def _prepare(config: PrepareConfig) -> None:
    prepared = prepare(order_of(config), complain)
    manifest, counts = prepared.manifest, prepared.card["counts"]
    say(
        f"{config.out}: {counts['train']['tokens_in_shards']:,} tokens to train on in "
        f"{len(manifest.shards):,} shards, {counts['held_out']['tokens_in_shards']:,} held out; "
        f"manifest {manifest_digest(manifest).hex()}"
    )
    tokenizer = manifest.tokenizer
    say(
        f"publish it by `tessera owner publish --data {config.out}` with a plan of "
        f'data.tokenizer = "{tokenizer.name}", data.page_tokens = {manifest.page_tokens}, '
        f"data.segment_pages = {manifest.segment_pages}, model.vocab_size = {tokenizer.vocab_size}"
    )
    if config.is_chat:
        _say_chat(config, prepared.card)


def _say_chat(config: PrepareConfig, card: Mapping[str, Any]) -> None:
    """The table for the spec, and what became of the conversations."""
    counts = card["counts"]
    too_long = sum(counts[side]["too_long"] for side in ("train", "held_out"))
    say(
        f"left out: {too_long:,} conversations longer than a page. In a run: `tessera succession "
        f"draft --changes runs/changes/sft.toml --data {config.out}`, which puts this table into "
        "the spec:"
    )
    say_lines("\n" + chat_table(ChatSpec(**card["chat"])))


def order_of(config: PrepareConfig) -> Order:
    """The order that the flags give. A quarter of the memory is a run's text, an eighth a bucket's.

    Beside its text a worker holds Python's objects, the tokens and the tokenizer.
    """
    return Order(
        inputs=config.inputs,
        out=config.out,
        choices=Choices(
            field=config.field,
            seed=config.seed,
            held_out_ppm=config.held_out_ppm,
            dedup=config.dedup,
            cut_bytes=config.cut_bytes,
            skip_bad=config.skip_bad,
        ),
        bounds=Bounds(
            run_bytes=config.memory_bytes // 4,
            bucket_bytes=config.memory_bytes // 8,
            max_document_bytes=config.memory_bytes // 8,
        ),
        tokenizer=TokenizerChoice(
            path=config.tokenizer,
            end_of_document=config.end_of_document,
            train_vocab_size=config.train_tokenizer,
            train_bytes=config.train_bytes,
            reserves_chat=config.reserve_chat,
        ),
        page_tokens=config.page_tokens,
        segment_pages=config.segment_pages,
        shard_segments=config.shard_segments,
        licence=config.licence,
        workers=config.workers,
        is_chat=config.is_chat,
    )
