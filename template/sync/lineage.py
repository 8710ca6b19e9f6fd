"""The lineage in buckets: published by every validator, segment by segment, and read by anybody."""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence

from template.chain.ballots import read_records
from template.context import NodeContext, ReadContext
from template.errors import SubnetError, Unavailable
from template.peers.blobs import validators_by_stake
from template.peers.client import Peers
from template.protocol.keys import lineage_key
from template.protocol.lineage import LineageStep, encode_lineage, parse_lineage
from template.protocol.record import Vote

log = logging.getLogger(__name__)

MAX_STEP_BYTES = 64 * 2**10
"""Of 256 members there are some 60 KB; 20 have five."""


def segment_of(window: int, every: int) -> int:
    """The segment of the step on a window: the window of the checkpoint it starts from, or 0."""
    return (window + 1) // every * every


def segments(steps: Iterable[LineageStep], every: int) -> dict[int, list[LineageStep]]:
    """Steps by segment."""
    found: dict[int, list[LineageStep]] = {}
    for step in steps:
        found.setdefault(segment_of(step.window, every), []).append(step)
    return found


class LineagePublisher:
    """Keeps a validator's bucket up to what it knows of the lineage."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._published: dict[int, bytes] = {}

    def publish(self, steps: Sequence[LineageStep]) -> None:
        """Put the segments that have changed. One that fails is tried again with the next call.

        A segment whose beginning this node does not know is left to others.
        """
        context, every = self._context, self._context.spec.checkpoint.every_windows
        for start, part in segments(steps, every).items():
            if part[0].window > max(0, start - 1):
                continue
            data = encode_lineage(part)
            digest = hashlib.sha256(data).digest()
            if self._published.get(start) == digest:
                continue
            try:
                context.bucket.put(lineage_key(context.spec.run_id, start), data)
            except SubnetError as error:
                log.warning("the lineage from theta_%d is not in the bucket: %s", start, error)
                return
            self._published[start] = digest


def voted_now(context: ReadContext) -> Vote:
    """The vote that more than half of the voting stake has on chain now; waits a window for it.

    Unavailable if no vote gets there: too many validators are away, or they disagree.
    """
    waiter, schedule = context.waiter, context.schedule
    last = context.chain.head() + 2 * schedule.blocks_per_window
    while (vote := _majority_vote(context)) is None:
        if waiter.recent_head() > last:
            raise Unavailable("no root is voted by more than half of the stake: try again later")
        waiter.pause()
    return vote


def _majority_vote(context: ReadContext) -> Vote | None:
    """Only window, root and sample digest are compared: what else it says is each voter's own."""
    chain = context.chain
    block = chain.finalized()
    records = read_records(chain, block)
    stakes: dict[tuple[int, bytes, bytes], int] = {}
    votes: dict[tuple[int, bytes, bytes], Vote] = {}
    for neuron in chain.metagraph(block).neurons:
        record = records.get(neuron.hotkey)
        if record is None or record.vote is None or not neuron.validator_permit:
            continue
        vote = record.vote
        place = (vote.window, vote.root, vote.sample_digest)
        stakes[place] = stakes.get(place, 0) + neuron.total_stake_rao
        votes[place] = vote
    total = sum(stakes.values())
    return next((votes[p] for p, rao in stakes.items() if 2 * rao > total), None)


def read_lineage(context: ReadContext, peers: Peers, window: int, root: bytes) -> list[LineageStep]:
    """The steps that lead to root R_window (16 bytes or more), as far back as buckets have them.

    It is followed backwards from the root, so that nobody's word is taken: a segment counts if it
    leads to the root wanted, whoever it comes from. Empty if no bucket has the last one.
    """
    every, validators = context.spec.checkpoint.every_windows, validators_by_stake(context)
    steps: list[LineageStep] = []
    last = window - 2
    while last >= 0:
        parts = _parts(context, peers, validators, segment_of(last, every))
        part = next((p for q in parts if (p := _leading_to(q, last, root))), None)
        if part is None:
            break
        steps = [*part, *steps]
        root, last = part[0].root, part[0].window - 1
    return steps


def _parts(
    context: ReadContext, peers: Peers, validators: Sequence[str], start: int
) -> Iterator[list[LineageStep]]:
    """A segment as each validator has it."""
    every = context.spec.checkpoint.every_windows
    key, limit = lineage_key(context.spec.run_id, start), (every + 1) * MAX_STEP_BYTES
    for hotkey in validators:
        try:
            yield parse_lineage(peers.bucket(hotkey).get(key, max_bytes=limit))
        except SubnetError as error:
            log.info("no lineage from theta_%d from %s: %s", start, hotkey, error)


def _leading_to(part: Sequence[LineageStep], last: int, root: bytes) -> list[LineageStep]:
    """The steps up to the one on window `last`, if they lead to the root; else none."""
    found = [step for step in part if step.window <= last]
    if not found or found[-1].window != last:
        return []
    return found if found[-1].next_root.startswith(root) else []
