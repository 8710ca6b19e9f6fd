"""The subnet owner's part before a run starts: dataset, theta_0, and the run spec.

A *plan* is a run spec without the derived values: the owner's mirror, the digests of the dataset
and of theta_0, and the start block. Once the blobs lie in the owner's bucket under their digests,
every remaining role of the owner can pass to another hotkey.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from template.commands.warm_start import warm_started
from template.data.assignment import max_barred_pages
from template.data.corpus import Corpus
from template.data.manifest import (
    SHARD_TOKENS,
    Manifest,
    manifest_bytes,
    manifest_digest,
    manifest_limit_bytes,
)
from template.data.shards import build_dataset
from template.data.tokenizer import load_tokenizer
from template.errors import ConfigError, NotFound, TooLarge
from template.protocol.keys import blob_key, run_spec_key
from template.protocol.spec import RunSpec, spec_to_toml
from template.protocol.spec.plan import RunChoices, check_plan, draft_spec, load_plan
from template.store import Store
from template.sync.dataset import check_manifest
from template.training.model import initial_params
from template.training.theta0 import build_theta0

__all__ = [
    "PreparedRun",
    "RunChoices",
    "check_plan",
    "load_plan",
    "prepare_run",
    "upload",
    "upload_missing",
    "upload_spec",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedRun:
    """A spec, and the named blobs by SHA-256."""

    spec: RunSpec
    blobs: Mapping[bytes, bytes]


def prepare_run(
    plan: Mapping[str, Any],
    corpus: Corpus,
    choices: RunChoices,
    say: Callable[[str], None] = lambda _: None,
) -> PreparedRun:
    """Build the dataset and theta_0 and fill in the plan. ConfigError names a wrong key.

    `say` gets a line from time to time during a warm start of theta_0.
    """
    draft = draft_spec(plan, choices)
    dataset = build_dataset(
        corpus,
        load_tokenizer(draft.data.tokenizer),
        page_tokens=draft.data.page_tokens,
        shard_tokens=SHARD_TOKENS // draft.data.page_tokens * draft.data.page_tokens,
    )
    _check_dataset(dataset.manifest, draft, choices.max_hotkeys)
    manifest = manifest_bytes(dataset.manifest)
    params = initial_params(draft, choices.seed)
    theta0 = warm_started(params, draft, dataset, choices.seed, say)
    theta0_digest, parts = build_theta0(theta0, draft.checkpoint.part_bytes)
    blobs = {hashlib.sha256(manifest).digest(): manifest, **parts}
    blobs |= {bytes.fromhex(digest): data for digest, data in dataset.blobs.items()}
    spec = replace(
        draft,
        data=replace(draft.data, manifest_digest=hashlib.sha256(manifest).hexdigest()),
        checkpoint=replace(draft.checkpoint, theta0_digest=theta0_digest.hex()),
    )
    check_manifest(dataset.manifest, spec, manifest_digest(dataset.manifest))
    return PreparedRun(spec=spec, blobs=blobs)


def _check_dataset(manifest: Manifest, spec: RunSpec, max_hotkeys: int) -> None:
    """ConfigError for a run without a way to join, or a text too small for the plan.

    The pages assigned for one window to `max_hotkeys` hotkeys must leave enough held-out pages:
    found here, strangers cannot cause it later.
    """
    num_bytes, limit_bytes = len(manifest_bytes(manifest)), manifest_limit_bytes(spec)
    if num_bytes > limit_bytes:
        raise ConfigError(
            f"run spec: schedule.num_windows: the text makes {len(manifest.shards)} shards and a "
            f"manifest of {num_bytes} bytes, over {limit_bytes}: the run is too short for so much "
            "text; take less text or more windows"
        )
    held_out_pages = manifest.held_out.num_tokens // manifest.page_tokens
    if spec.evaluation.curve_pages > held_out_pages:
        raise ConfigError(
            f"run spec: evaluation.curve_pages is {spec.evaluation.curve_pages}, the text holds "
            f"out {held_out_pages} pages: take at most so many"
        )
    most = max_barred_pages(spec.evaluation.held_out_pages, manifest.num_pages)
    assigned = max_hotkeys * spec.training.pages_per_window
    if assigned > most:
        raise ConfigError(
            f"run spec: training.inner_steps x training.batch_pages is "
            f"{spec.training.pages_per_window}: {max_hotkeys} hotkeys train on up to {assigned} "
            f"pages a window, and evaluation.held_out_pages ({spec.evaluation.held_out_pages}) are "
            f"drawn from the rest and from half of the text at least, so the text of "
            f"{manifest.num_pages} pages bears {max(0, most)}: take a larger text, shorter "
            "data.page_tokens, or fewer inner_steps or batch_pages"
        )


def upload(run: PreparedRun, bucket: Store) -> None:
    """Put every blob of the run into the owner's bucket."""
    for digest, data in run.blobs.items():
        bucket.put(blob_key(digest), data)


def upload_spec(spec: RunSpec, bucket: Store) -> str:
    """Put the run spec where a newcomer looks for an offered run; returns the text."""
    text = spec_to_toml(spec)
    bucket.put(run_spec_key(spec.run_id), text.encode())
    return text


def upload_missing(
    run: PreparedRun, writer: Store, reader: Store, say: Callable[[str], None]
) -> int:
    """Put the missing blobs into the bucket; returns the number of bytes sent.

    Present blobs are read back with the published read key and compared.
    """
    sent_bytes = 0
    for number, (digest, data) in enumerate(run.blobs.items(), start=1):
        key = blob_key(digest)
        there = _holds(reader, key, data)
        if not there:
            writer.put(key, data)
            sent_bytes += len(data)
        done = "there already" if there else "sent"
        say(f"object {number} of {len(run.blobs)}: {len(data):,} bytes, {done}")
    return sent_bytes


def _holds(reader: Store, key: str, data: bytes) -> bool:
    try:
        return reader.get(key, max_bytes=len(data)) == data
    except (NotFound, TooLarge):
        return False
