"""What decides the bytes of a prepared dataset, and what only decides the memory and the time."""

from dataclasses import dataclass
from typing import Final

from template.data.chat import ChatForm

MIB: Final = 2**20
MAX_DOCUMENT_BYTES: Final = 64 * MIB
"""A longer text is no document: a worker holds one document beyond its bound."""
PER_MILLION: Final = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """Settings that decide which documents enter, on which side and in which order.

    `field`: the text's name in JSON lines, Parquet and `datasets`. `held_out_ppm`: share of the
    documents to hold out, in millionths. `cut_bytes`: longest piece of a document, 0 for whole
    documents. `chat`: documents are conversations, and `field` is their messages.
    """

    field: str = "text"
    seed: int = 0
    held_out_ppm: int = 5_000
    dedup: bool = False
    cut_bytes: int = 0
    skip_bad: bool = False
    chat: ChatForm | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Memory of a worker: text that it gathers before writing a run, and text of a bucket.

    `min_buckets`: enough for all workers, however small the input.
    """

    run_bytes: int = 128 * MIB
    bucket_bytes: int = 64 * MIB
    part_bytes: int = 64 * MIB
    max_document_bytes: int = MAX_DOCUMENT_BYTES
    min_buckets: int = 16
