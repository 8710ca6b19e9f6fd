"""The lineage in buckets: published by validators in segments, read by any node."""

import hashlib
import logging
from collections.abc import Iterable, Sequence

from template.chain.ballots import read_standing_votes
from template.context import NodeContext, ReadContext
from template.errors import NodeTrouble, ObjectError, SubnetError, TooLarge, Unavailable
from template.peers.blobs import validators_by_stake
from template.peers.client import Peers
from template.protocol.keys import lineage_key
from template.protocol.lineage import (
    LineageStep,
    encode_lineage,
    lineage_limit_bytes,
    parse_lineage,
)
from template.protocol.quorum import VOID_WINDOWS, find_standing_authority
from template.protocol.record import Vote
from template.protocol.run import Run
from template.training.outer import OuterState

log = logging.getLogger(__name__)


def segment_start(window: int, run: Run) -> int:
    """The segment of the step on `window`: the checkpoint window before the step, or 0."""
    return run.checkpoint_before(window + 1)


def group_by_segment(steps: Iterable[LineageStep], run: Run) -> dict[int, list[LineageStep]]:
    """Steps by segment start."""
    found: dict[int, list[LineageStep]] = {}
    for step in steps:
        found.setdefault(segment_start(step.window, run), []).append(step)
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
        context = self._context
        for start, segment in group_by_segment(steps, context.run).items():
            if segment[0].window > max(0, start - 1):
                continue
            data = encode_lineage(segment)
            digest = hashlib.sha256(data).digest()
            if self._published.get(start) == digest:
                continue
            try:
                context.bucket.put(lineage_key(context.run.run_id, start), data)
            except SubnetError as error:
                log.warning("lineage from theta_%d is not in the bucket yet: %s", start, error)
                return
            self._published[start] = digest


class LineageReader:
    """Hands out steps from a state towards the root with authority now."""

    def __init__(self, context: ReadContext, peers: Peers) -> None:
        self._context, self._peers = context, peers
        self._ahead: list[LineageStep] = []

    def next_step(self, state: OuterState) -> LineageStep:
        """The step after `state`; Unavailable while no bucket's lineage leads on from `state`."""
        window = state.window - 1
        if not self._ahead or self._ahead[0].window != window:
            self._peers.refresh()
            vote = wait_for_voted_root(self._context)
            steps = read_lineage_to(self._context, self._peers, vote, window)
            self._ahead = [step for step in steps if step.window >= window]
        if not self._ahead or self._ahead[0].root != state.root:
            raise Unavailable(
                f"window {window}: the chain endpoint no longer has its votes, and no validator's "
                f"lineage leads on from this node's state, root {state.root[:8].hex()}"
            )
        return self._ahead.pop(0)

    def forget(self) -> None:
        """Drop the steps read so far: the node's state has changed."""
        self._ahead = []


def wait_for_voted_root(context: ReadContext) -> Vote:
    """The standing vote with authority (`find_standing_authority`); waits two windows at most.

    Unavailable without such a vote: half of the stake is away, or validators disagree.
    """
    waiter, schedule = context.waiter, context.schedule
    head = context.chain.head()
    last = head + 2 * schedule.blocks_of(schedule.window_of(head))
    while (vote := find_voted_root(context)) is None:
        if waiter.recent_head() > last:
            raise Unavailable(
                "no root has the votes of more than half of the reference stake: half of the "
                "validators' stake is away, or the validators disagree; retry later"
            )
        waiter.pause(
            "a state with the votes of more than half of the validators' stake, to start from or "
            "to go on by, or else an error",
            by_block=last,
        )
    return vote


def find_voted_root(context: ReadContext) -> Vote | None:
    """The standing vote with authority at the newest final vote block, or None."""
    window = context.schedule.last_counted(context.chain.finalized())
    if window < 0:
        return None
    voters = read_standing_votes(context.chain, context.run, window)
    return find_standing_authority(voters, window, context.run.at(window).outer.quorum_rules())


def read_lineage_to(
    context: ReadContext, peers: Peers, vote: Vote, since: int = 0
) -> list[LineageStep]:
    """The steps up to the root of a standing vote, as `read_lineage`."""
    return read_lineage(context, peers, voted_state(context, vote), vote.root, since)


def voted_state(context: ReadContext, vote: Vote) -> int:
    """The window of the state that a vote stands behind: theta_{w+1}, or the run's last state."""
    return min(vote.window, context.run.num_windows) + 1


def read_lineage(
    context: ReadContext, peers: Peers, window: int, root: bytes, since: int = 0
) -> list[LineageStep]:
    """The steps up to root R_window (16 bytes or more), back to the segment of window `since`.

    The reader follows the hash chain backwards from the root and trusts no publisher: a segment
    counts only if the last step leads to the wanted root; else the next bucket is asked. Fewer
    steps, or none, if no bucket has a segment.
    """
    steps = _find_voted_end(context, peers, window - 2, root, since)
    while steps and steps[0].window > since:
        segment = segment_before(context, peers, steps[0])
        if not segment:
            break
        steps = [*segment, *steps]
    return steps


def segment_before(context: ReadContext, peers: Peers, step: LineageStep) -> list[LineageStep]:
    """The segment that ends where a step begins; empty if no bucket has it."""
    last = step.window - 1
    segment = _find_segment(context, peers, segment_start(last, context.run), last, step.root)
    return segment if segment and segment[-1].window == last else []


def _find_voted_end(
    context: ReadContext, peers: Peers, last: int, root: bytes, since: int
) -> list[LineageStep]:
    """The segment that leads to a voted root: with window `last`, or up to `VOID_WINDOWS` before.

    A majority that lacks payloads votes the root before them, window after window.
    """
    first = max(since, last - VOID_WINDOWS, 0)
    starts = {segment_start(window, context.run) for window in range(first, last + 1)}
    for start in sorted(starts, reverse=True):
        if segment := _find_segment(context, peers, start, last, root):
            return segment
    return []


def _limit_bytes(run: Run, start: int) -> int:
    """Maximum bytes of the segment from a checkpoint: successions may begin in it."""
    first, end = run.at(start), start + run.at(start).checkpoint.every_windows
    later = (spec for spec in run if start < spec.first_window <= end)
    return sum(map(lineage_limit_bytes, (first, *later)))


def _find_segment(
    context: ReadContext, peers: Peers, start: int, last: int, root: bytes
) -> list[LineageStep]:
    """The steps of a segment up to `root` from the first bucket that leads there.

    Steps after window `last` are left out. A bucket with another root after the step on `last` is
    asked last from then on, as is a bucket without an answer. Empty if no bucket leads to `root`.
    NodeTrouble if this node could not ask.
    """
    key, limit = lineage_key(context.run.run_id, start), _limit_bytes(context.run, start)
    for hotkey in peers.in_order(validators_by_stake(context)):
        try:
            offered = parse_lineage(peers.bucket(hotkey).get(key, max_bytes=limit))
        except NodeTrouble:
            raise
        except ObjectError as error:
            log.warning("lineage from theta_%d of %s: %s", start, hotkey, error)
            peers.ask_last(hotkey)
            continue
        except SubnetError as error:
            log.info("no lineage from theta_%d from %s: %s", start, hotkey, error)
            if isinstance(error, (Unavailable, TooLarge)):
                # A bucket that drips would cost a minute for each of a thousand segments.
                peers.ask_last(hotkey)
            continue
        segment = [step for step in offered if step.window <= last]
        while segment and not segment[-1].next_root.startswith(root):
            segment.pop()
        if segment:
            return segment
        if any(step.window == last for step in offered):
            log.warning("lineage from theta_%d of %s leads to another root", start, hotkey)
            peers.ask_last(hotkey)
    return []
