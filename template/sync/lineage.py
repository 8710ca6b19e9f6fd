"""The lineage in buckets: published by validators in segments, read by any node."""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence

from template.chain.ballots import read_records
from template.context import NodeContext, ReadContext
from template.errors import ConsensusError, NodeTrouble, SubnetError, Unavailable
from template.peers.blobs import validators_by_stake
from template.peers.client import Peers
from template.protocol.keys import lineage_key
from template.protocol.lineage import LineageStep, encode_lineage, parse_lineage
from template.protocol.record import Vote
from template.training.outer import OuterState

log = logging.getLogger(__name__)

MAX_STEP_BYTES = 64 * 2**10
"""Upper bound for a step: 256 members take about 60 KB, 20 members 5 KB."""


def segment_start(window: int, every: int) -> int:
    """The segment of the step on `window`: the checkpoint window before the step, or 0."""
    return (window + 1) // every * every


def group_by_segment(steps: Iterable[LineageStep], every: int) -> dict[int, list[LineageStep]]:
    """Steps by segment start."""
    found: dict[int, list[LineageStep]] = {}
    for step in steps:
        found.setdefault(segment_start(step.window, every), []).append(step)
    return found


class LineagePublisher:
    """Keeps the lineage in a validator's bucket up to date."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._published: dict[int, bytes] = {}

    def publish(self, steps: Sequence[LineageStep]) -> None:
        """Put the changed segments. The next call retries a refused segment.

        A segment with unknown first steps is left to validators with a longer past.
        """
        context, every = self._context, self._context.spec.checkpoint.every_windows
        for start, segment in group_by_segment(steps, every).items():
            if segment[0].window > max(0, start - 1):
                continue
            data = encode_lineage(segment)
            digest = hashlib.sha256(data).digest()
            if self._published.get(start) == digest:
                continue
            try:
                context.bucket.put(lineage_key(context.spec.run_id, start), data)
            except SubnetError as error:
                log.warning("lineage from theta_%d is not in the bucket yet: %s", start, error)
                return
            self._published[start] = digest


class LineageReader:
    """Hands out steps from a state towards the root now voted by the stake majority."""

    def __init__(self, context: ReadContext, peers: Peers) -> None:
        self._context, self._peers = context, peers
        self._ahead: list[LineageStep] = []

    def next_step(self, state: OuterState) -> LineageStep:
        """The step after `state`; ConsensusError if no validator's lineage continues `state`."""
        window = state.window - 1
        if not self._ahead or self._ahead[0].window != window:
            self._peers.refresh()
            vote = wait_for_majority_vote(self._context)
            steps = read_lineage(self._context, self._peers, vote.window + 1, vote.root)
            self._ahead = [step for step in steps if step.window >= window]
        if not self._ahead or self._ahead[0].root != state.root:
            raise ConsensusError(
                f"window {window}: the chain endpoint no longer has its votes, and no validator's "
                "lineage leads on from this node's state. Remove --neuron.state_dir "
                f"{self._context.state_dir} and start again: the node joins by a published "
                "checkpoint"
            )
        return self._ahead.pop(0)

    def forget(self) -> None:
        """Drop the steps read so far: the node's state has changed."""
        self._ahead = []


def wait_for_majority_vote(context: ReadContext) -> Vote:
    """The standing vote with more than half of the voting stake; waits two windows at most.

    Unavailable without such a vote: too many validators are away, or validators disagree.
    """
    waiter, schedule = context.waiter, context.schedule
    last = context.chain.head() + 2 * schedule.blocks_per_window
    while (vote := _majority_vote(context)) is None:
        if waiter.recent_head() > last:
            raise Unavailable("no root has the votes of more than half of the stake: retry later")
        waiter.pause()
    return vote


def _majority_vote(context: ReadContext) -> Vote | None:
    """Votes count as equal by window, root and sample digest alone."""
    chain = context.chain
    block = chain.finalized()
    records = read_records(chain, block)
    stakes_rao: dict[tuple[int, bytes, bytes], int] = {}
    votes: dict[tuple[int, bytes, bytes], Vote] = {}
    for neuron in chain.metagraph(block).neurons:
        record = records.get(neuron.hotkey)
        if record is None or record.vote is None or not neuron.validator_permit:
            continue
        vote = record.vote
        voted = (vote.window, vote.root, vote.sample_digest)
        stakes_rao[voted] = stakes_rao.get(voted, 0) + neuron.total_stake_rao
        votes[voted] = vote
    total_rao = sum(stakes_rao.values())
    return next((votes[v] for v, rao in stakes_rao.items() if 2 * rao > total_rao), None)


def read_lineage(context: ReadContext, peers: Peers, window: int, root: bytes) -> list[LineageStep]:
    """The steps up to root R_window (16 bytes or more), as far back as buckets keep steps.

    The reader follows the hash chain backwards from the root and trusts no publisher: a segment
    counts only if the last step leads to the wanted root. Empty if no bucket has the last segment.
    """
    every, validators = context.spec.checkpoint.every_windows, validators_by_stake(context)
    steps: list[LineageStep] = []
    last = window - 2
    while last >= 0:
        offers = _read_segments(context, peers, validators, segment_start(last, every))
        segment = next((s for offer in offers if (s := _leading_to(offer, last, root))), None)
        if segment is None:
            break
        steps = [*segment, *steps]
        root, last = segment[0].root, segment[0].window - 1
    return steps


def _read_segments(
    context: ReadContext, peers: Peers, validators: Sequence[str], start: int
) -> Iterator[list[LineageStep]]:
    """A segment, as published by each validator. NodeTrouble if this node could not ask."""
    every = context.spec.checkpoint.every_windows
    key, limit = lineage_key(context.spec.run_id, start), (every + 1) * MAX_STEP_BYTES
    for hotkey in validators:
        try:
            yield parse_lineage(peers.bucket(hotkey).get(key, max_bytes=limit))
        except NodeTrouble:
            raise
        except SubnetError as error:
            log.info("no lineage from theta_%d from %s: %s", start, hotkey, error)


def _leading_to(segment: Sequence[LineageStep], last: int, root: bytes) -> list[LineageStep]:
    """The steps of a segment up to window `last` if `root` follows; otherwise empty."""
    found = [step for step in segment if step.window <= last]
    if not found or found[-1].window != last:
        return []
    return found if found[-1].next_root.startswith(root) else []
