"""Counting per hotkey what chain, buckets and logs hold of a run.

Owns one function for each number of a neuron's report. All of them read; none judges.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from evaluation.verdict import NAMED
from localnet.events import NodeEvents, read_jsonl
from template.chain import Chain, Metagraph
from template.chain.ballots import read_candidates
from template.errors import NotFound
from template.protocol.schedule import Schedule
from template.store import Store


def mean_weights(weights: Mapping[int, Mapping[int, float]], graph: Metagraph) -> dict[int, float]:
    """uid -> share, the mean over validators by stake; uids that nobody weighs are left out.

    `weights`: validator uid -> destination uid -> share of that validator's weights, in any
    unit. Who set none, or holds no stake at the block of `graph`, does not count.
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


def committed_counts(chain: Chain, schedule: Schedule, num_windows: int) -> Counter[str]:
    """hotkey -> windows for which a payload of it stood on chain when payloads were counted.

    Windows whose stake block is not finalised are left out.
    """
    counts: Counter[str] = Counter()
    finalized = chain.finalized()
    for window in range(num_windows):
        if schedule.stake_block(window) <= finalized:
            candidates = read_candidates(chain, schedule, window)
            counts.update(member.hotkey for member in candidates.values())
    return counts


def refusal_counts(verdict_files: Iterable[Path]) -> dict[str, Counter[str]]:
    """hotkey -> status -> verdicts other than "named", summed over the validators' files.

    A validator that judged a window again after a restart counts once, with its last word.
    """
    counts: dict[str, Counter[str]] = {}
    for path in verdict_files:
        rows = [row for row in read_jsonl(path) if row.get("kind") == "verdict"]
        last = {(row["hotkey"], row["window"]): row["status"] for row in rows}
        for (hotkey, _), status in last.items():
            if status != NAMED:
                counts.setdefault(hotkey, Counter())[status] += 1
    return counts


def final_digests(
    events: Mapping[str, NodeEvents], survivors: Collection[str]
) -> dict[str, tuple[int, str] | None]:
    """Name -> (state window, digest of all tensors) to compare at the end of a run.

    Survivors are read at the last state window that all of them digested, so that they can be
    compared; every other node, and all of them if there is no such window, at its own last
    one. None for a node that never took a digest, which does not hold up the others.
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
    """Length of all objects of a bucket that nobody writes to any more; 0 if there is none."""
    if bucket is None:
        return 0
    try:
        return sum(bucket.size(key) for key in bucket.list(""))
    except NotFound:
        return 0
