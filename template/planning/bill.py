"""What a bucket costs a day.

Prices: Cloudflare R2, standard storage, https://developers.cloudflare.com/r2/pricing/, read on 29
November 2026. Bytes to the Internet and deletions are free; the free allowance of an account (10
GB, a million and ten million requests a month) is left out.
"""

import math
from dataclasses import dataclass
from typing import Final

from template.bucket.budget import Storage, miner_storage, validator_storage
from template.data.manifest import (
    MAX_SHARDS,
    Manifest,
    Shard,
    TokenizerEntry,
    token_bytes_of,
)
from template.errors import ConfigError
from template.planning.case import Case
from template.store.multipart import PART_BYTES

STORAGE_USD_PER_GB_MONTH: Final = 0.015
WRITE_USD: Final = 4.50 / 1e6
"""Of a request of class A: put, part of a put, list."""
READ_USD: Final = 0.36 / 1e6
"""Of a request of class B: get, head."""
MONTH_DAYS: Final = 30.0
YEAR_DAYS: Final = 365.0
GB: Final = 1e9
CALLS_OF_PARTS: Final = 3
"""An upload in parts is looked for, begun and completed."""
LISTS: Final = 2
"""A sweep lists the run's keys and all keys, at 1,000 a call."""
SMALL_OBJECTS: Final = 2
"""Verdict log and lineage of a validator's window."""
SHARD_TOKENS: Final = 2**28
"""As `tessera data prepare` cuts by default."""
HELD_OUT_SHARE: Final = 0.001
NO_DIGEST: Final = "00" * 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """A bucket's bytes at most, and requests a day."""

    storage: Storage
    writes: float
    reads: float

    @property
    def usd_per_day(self) -> float:
        kept = self.storage.total_bytes / GB * STORAGE_USD_PER_GB_MONTH / MONTH_DAYS
        return kept + self.writes * WRITE_USD + self.reads * READ_USD


def put_calls(num_bytes: float) -> int:
    """Requests to put an object."""
    parts = math.ceil(num_bytes / PART_BYTES)
    return 1 if parts <= 1 else parts + CALLS_OF_PARTS


def run_windows(case: Case) -> int:
    """Windows of the whole run; of a run without a planned end those of a year."""
    schedule = case.spec.schedule
    return schedule.num_windows if schedule.has_end else math.ceil(YEAR_DAYS * case.windows_per_day)


def run_tokens(case: Case) -> int:
    """Tokens of the whole run (see `run_windows`) if no page is read twice."""
    return run_windows(case) * case.peers * case.window_tokens


def run_manifest(case: Case, tokens: int) -> Manifest:
    """The manifest of a dataset of so many tokens in the usual shards, without digests.

    ConfigError for more shards than any manifest lists.
    """
    data, vocab = case.spec.data, case.spec.model.vocab_size
    segment_tokens = data.segment_pages * data.page_tokens
    of_shard = max(1, SHARD_TOKENS // segment_tokens)
    segments = max(1, math.ceil(tokens / segment_tokens))
    if segments > MAX_SHARDS * of_shard:
        raise ConfigError(
            f"--dataset-tokens: a dataset of {tokens:,} tokens has a manifest longer than a node "
            f"reads: name at most {MAX_SHARDS * of_shard * segment_tokens:,} tokens (without the "
            "flag: all that the run reads)"
        )
    whole, rest = divmod(segments, of_shard)
    sizes = [of_shard] * whole + [rest] * bool(rest)
    shards = tuple(Shard(sha256=NO_DIGEST, num_segments=size) for size in sizes)
    held_out = min(of_shard, max(1, round(HELD_OUT_SHARE * segments)))
    return Manifest(
        tokenizer=TokenizerEntry(
            name=data.tokenizer, sha256="", num_bytes=0, vocab_size=vocab, end_of_document=0
        ),
        token_bytes=token_bytes_of(vocab),
        page_tokens=data.page_tokens,
        segment_pages=data.segment_pages,
        shards=shards,
        held_out=Shard(sha256=NO_DIGEST, num_segments=held_out),
    )


def miner_bill(case: Case) -> Bill:
    """Every other miner and validator reads the payload once."""
    day, readers = case.windows_per_day, case.peers - 1 + case.validators
    return Bill(
        storage=miner_storage(case.spec),
        writes=day * (put_calls(case.own_payload_bytes) + LISTS),
        reads=day * readers,
    )


def validator_bill(case: Case, manifest: Manifest) -> Bill:
    """A share of named payloads and of checkpoints, logs; miners read the logs' lineage alone.

    The bucket has room for all that may be named: a validator may have to step in for others.
    """
    share = case.holder_share
    every = case.spec.checkpoint.every_windows
    small = share * case.accepted * put_calls(case.payload_bytes) + SMALL_OBJECTS + LISTS
    writes = small + share * case.checkpoint_bytes / PART_BYTES / every
    return Bill(
        storage=validator_storage(case.spec, manifest),
        writes=case.windows_per_day * writes,
        reads=case.windows_per_day * case.peers,
    )


def owner_bill(case: Case, manifest: Manifest) -> Bill:
    """theta_0 and the dataset. Each miner asks for a segment at a time, at most."""
    shards = (*manifest.shards, manifest.held_out)
    num_bytes = sum(manifest.shard_bytes(s) + s.list_bytes for s in shards) + case.theta0_bytes
    return Bill(
        storage=Storage(payload_bytes=0, dataset_bytes=num_bytes),
        writes=0.0,
        reads=case.windows_per_day * case.peers * case.window_segments,
    )
