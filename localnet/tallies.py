"""Counts per hotkey, read from chain, buckets and logs.

Owns a function for each number of a neuron's report. Every function only reads.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from evaluation.verdict import NAMED
from localnet.events import NodeEvents, read_jsonl
from template.chain import Chain, Metagraph
from template.chain.ballots import read_candidates
from template.errors import NotFound
from template.protocol.run import Run
from template.protocol.spec import RunSpec
from template.store import Store


def mean_weights(weights: Mapping[int, Mapping[int, float]], graph: Metagraph) -> dict[int, float]:
    """uid -> share, the stake-weighted mean over validators; leaves uids without weight out.

    `weights`: validator uid -> destination uid -> share of the validator's weights, in any
    unit. Validators without weights or without stake at the block of `graph` do not count.
    """
    stakes_rao = {n.uid: n.total_stake_rao for n in graph.neurons}
    rows = {uid: row for uid, row in weights.items() if sum(row.values()) > 0}
    total_rao = sum(stakes_rao.get(uid, 0) for uid in rows)
    mean: dict[int, float] = {}
    for uid, row in rows.items():
        for destination, share in row.items():
            if total_rao and share:
                part = stakes_rao.get(uid, 0) / total_rao * share / sum(row.values())
                mean[destination] = mean.get(destination, 0.0) + part
    return mean


def committed_counts(chain: Chain, spec: RunSpec, num_windows: int) -> Counter[str]:
    """hotkey -> number of windows with the hotkey among the candidates (`read_candidates`).

    Leaves windows without a finalised stake block out.
    """
    counts: Counter[str] = Counter()
    run, finalized = Run(spec), chain.finalized()
    schedule = run.schedule
    for window in range(num_windows):
        if schedule.stake_block(window) <= finalized:
            candidates = read_candidates(chain, run, window)
            counts.update(member.hotkey for member in candidates.values())
    return counts


def refusal_counts(verdict_files: Iterable[Path]) -> dict[str, Counter[str]]:
    """hotkey -> status -> count of all verdicts but "named", summed over the validators' files.

    A validator's last verdict on a hotkey and window replaces earlier verdicts, as after a
    restart.
    """
    counts: dict[str, Counter[str]] = {}
    for path in verdict_files:
        rows = [row for row in read_jsonl(path) if row.get("kind") == "verdict"]
        last = {(row["hotkey"], row["window"]): row["status"] for row in rows}
        for (hotkey, _), status in last.items():
            if status != NAMED:
                counts.setdefault(hotkey, Counter())[status] += 1
    return counts


def claimed_pages(verdict_files: Iterable[Path]) -> Counter[str]:
    """hotkey -> pages claimed in all payloads that some validator opened, each counted once."""
    claims: dict[tuple[str, int], int] = {}
    for path in verdict_files:
        for row in read_jsonl(path):
            if row.get("kind") == "verdict" and row.get("pages_consumed"):
                claims[row["hotkey"], row["window"]] = row["pages_consumed"]
    counts: Counter[str] = Counter()
    for (hotkey, _), pages in claims.items():
        counts[hotkey] += pages
    return counts


def final_digests(
    events: Mapping[str, NodeEvents], survivors: Collection[str]
) -> dict[str, tuple[int, str] | None]:
    """Name -> (state window, digest of all tensors) to compare at the end of a run.

    Survivors with digests are read at their last common state window. Every other node, and
    every survivor without a common window, is read at the node's last state window. None for a
    node without any digest.
    """
    reached = [set(events[name].digests) for name in survivors if events[name].digests]
    common = max(set.intersection(*reached), default=None) if reached else None
    finals: dict[str, tuple[int, str] | None] = {}
    for name, node in events.items():
        window = max(node.digests, default=None)
        if name in survivors and common in node.digests:
            window = common
        finals[name] = None if window is None else (window, node.digests[window])
    return finals


def bucket_bytes(bucket: Store | None) -> int:
    """Bytes of all objects of a bucket after the last write; 0 without a bucket."""
    if bucket is None:
        return 0
    try:
        return sum(bucket.size(key) for key in bucket.list(""))
    except NotFound:
        return 0
