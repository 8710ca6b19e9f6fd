"""What to prepare, and what follows from it: the settings of the card, and the layout of shards."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from template.data.folder import Layout
from template.data.manifest import MAX_SHARD_BYTES, MAX_SHARD_SEGMENTS, Manifest, token_bytes_of
from template.data.preparing.settings import Bounds, Choices
from template.data.preparing.vocabulary import TokenizerChoice

SHARD_TOKENS: Final = 2**28


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What to prepare. `shard_segments` 0: as many as make 2^28 tokens. `is_chat`: documents are
    conversations; their form, `choices.chat`, follows from the tokenizer.
    """

    inputs: tuple[str, ...]
    out: Path
    choices: Choices
    tokenizer: TokenizerChoice
    page_tokens: int
    segment_pages: int
    shard_segments: int = 0
    licence: str = ""
    bounds: Bounds = field(default_factory=Bounds)
    workers: int = 1
    is_chat: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A finished dataset and its card."""

    manifest: Manifest
    card: dict[str, Any]


def settings_of(order: Order) -> dict[str, Any]:
    """Everything that decides the bytes, by the names of the flags."""
    choices, tokenizer = order.choices, order.tokenizer
    chat = {} if choices.chat is None else {"chat": True}
    reserved = {"reserve_chat": True} if tokenizer.reserves_chat else {}
    return {
        **chat,
        **reserved,
        "field": choices.field,
        "seed": choices.seed,
        "held_out_ppm": choices.held_out_ppm,
        "dedup": choices.dedup,
        "cut_bytes": choices.cut_bytes,
        "skip_bad": choices.skip_bad,
        "tokenizer": tokenizer.shown,
        "train_tokenizer_bytes": tokenizer.train_bytes if tokenizer.train_vocab_size else 0,
        "page_tokens": order.page_tokens,
        "segment_pages": order.segment_pages,
        "shard_segments": order.shard_segments,
    }


def layout_of(order: Order, vocab_size: int) -> Layout:
    token_bytes = token_bytes_of(vocab_size)
    segment_tokens = max(1, order.page_tokens * order.segment_pages)
    most = min(
        SHARD_TOKENS // segment_tokens,
        MAX_SHARD_SEGMENTS,
        MAX_SHARD_BYTES // (segment_tokens * token_bytes),
    )
    return Layout(
        page_tokens=order.page_tokens,
        segment_pages=order.segment_pages,
        shard_segments=order.shard_segments or max(1, most),
        token_bytes=token_bytes,
    )


def held_out_layout(layout: Layout) -> Layout:
    return Layout(
        page_tokens=layout.page_tokens,
        segment_pages=layout.segment_pages,
        shard_segments=min(MAX_SHARD_SEGMENTS, MAX_SHARD_BYTES // layout.segment_bytes),
        token_bytes=layout.token_bytes,
    )
