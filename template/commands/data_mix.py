"""`data mix` and `data upload`: a mixture of prepared datasets, and a dataset in a bucket."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

from template.bucket.own import UPLOAD_DEADLINE_S, open_own_bucket
from template.chain.bittensor import open_wallet
from template.cli.mix_flags import MixConfig, UploadConfig
from template.cli.terminal import say_lines
from template.commands.plan import Dataset, upload_missing
from template.data.chat import chat_table
from template.data.folder import open_folder, write_manifest
from template.data.manifest import Manifest, manifest_digest
from template.data.mixing import Ingredient, mix, open_ingredients
from template.data.preparing.card import (
    CARD_NAME,
    TEXT_NAME,
    card_json,
    mixture_text,
    read_chat,
)
from template.errors import ConfigError
from template.protocol.spec import ChatSpec

Say = Callable[[str], object]


def run_mix(config: MixConfig, say: Say) -> None:
    """Make the mixture; ConfigError for datasets that cannot be one, StateError of the disk.

    The manifest comes last: a dataset that is whole has its card, and so its chat table.
    """
    ingredients = open_ingredients(config.shares, config.segments)
    chat = _chat_of(ingredients)
    held_out = ingredients[0].folder if config.held_out is None else open_folder(config.held_out)
    manifest = mix(ingredients, held_out, config.out, config.seed)
    card = _card(ingredients, config, manifest, chat)
    beside = {CARD_NAME: card_json(card), TEXT_NAME: mixture_text(card)}
    write_manifest(config.out, manifest, ingredients[0].folder.tokenizer_file, beside)
    for each in ingredients:
        _say_ingredient(each, manifest, say)
    say(
        f"{config.out}: {manifest.num_segments:,} segments, held out those of {held_out.folder}; "
        f"manifest {manifest_digest(manifest).hex()}. In a run: `tessera succession draft --data "
        f"{config.out}`"
    )
    if chat is not None:
        say(
            "with conversations: the draft puts this table into the spec, and a page without an "
            "answer counts as a whole:"
        )
        say_lines("\n" + chat_table(chat))


def _say_ingredient(each: Ingredient, manifest: Manifest, say: Say) -> None:
    there = each.folder.manifest.num_segments
    share = each.segments / manifest.num_segments
    words = f"{each.folder.folder}: {each.segments:,} segments, {share:.2%} of the mixture, "
    if each.segments <= there:
        say(f"{words}a sample of its {there:,}")
        return
    say(
        f"{words}each of its {there:,} about {each.repeats:.1f} times: a repeat that a miner was "
        "assigned may also be drawn as a held-out page of the score; take fewer --segments to "
        "repeat less"
    )


def _chat_of(ingredients: Sequence[Ingredient]) -> ChatSpec | None:
    """The chat table of the datasets that have one; ConfigError if two differ."""
    found = [(each.folder.folder, read_chat(each.folder.folder)) for each in ingredients]
    tables = [(folder, chat) for folder, chat in found if chat is not None]
    for folder, chat in tables[1:]:
        if chat != tables[0][1]:
            raise ConfigError(
                f"{folder}: has other tokens in [data.chat] than {tables[0][0]}: prepare both with "
                "the same tokenizer"
            )
    return tables[0][1] if tables else None


def _card(
    ingredients: Sequence[Ingredient], config: MixConfig, manifest: Manifest, chat: ChatSpec | None
) -> dict[str, Any]:
    return {
        **({} if chat is None else {"chat": asdict(chat)}),
        "manifest_sha256": manifest_digest(manifest).hex(),
        "tokenizer": asdict(manifest.tokenizer),
        "seed": config.seed,
        "held_out_sha256": manifest.held_out.sha256,
        "segments": manifest.num_segments,
        "mixture": [
            {
                "name": each.folder.folder.name,
                "manifest_sha256": manifest_digest(each.folder.manifest).hex(),
                "share": str(each.share),
                "segments": each.segments,
                "segments_there": each.folder.manifest.num_segments,
            }
            for each in ingredients
        ],
    }


def run_upload(config: UploadConfig, say: Say) -> None:
    """Put a dataset into the bucket of a hotkey; Unavailable if the bucket does not answer."""
    dataset = Dataset(open_folder(config.folder))
    wallet = open_wallet(config.wallet.name, config.wallet.hotkey, str(config.wallet.path))
    hotkey = wallet.hotkey.ss58_address
    with closing(open_own_bucket(config.bucket, hotkey, deadline_s=UPLOAD_DEADLINE_S)) as bucket:
        say(bucket.where)
        sent = upload_missing(dataset, bucket.writer, bucket.reader, say)
    say(
        f"{config.folder}: {sent:,} bytes sent; a spec with {hotkey} in data.mirrors may name "
        f"manifest {manifest_digest(dataset.manifest).hex()}"
    )
