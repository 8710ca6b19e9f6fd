"""Replaying a run from a published state by lineage and payloads alone, up to the current votes.

A replay takes no part in past votes and reads buckets alone. The source of a step does not matter:
a chain of steps counts if it leads to the root with most of the voting stake.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from template.audit.auditor import Auditor
from template.audit.logs import audit_windows, logs_in_bucket
from template.chain.ballots import read_ballot, read_records
from template.context import ReadContext
from template.errors import (
    ChainError,
    ConsensusError,
    NodeTrouble,
    NotFound,
    SubnetError,
    Unavailable,
)
from template.peers.blobs import validators_by_stake
from template.peers.client import Peers
from template.protocol.lineage import LineageStep
from template.protocol.quorum import decide
from template.protocol.record import ROOT_BYTES, Vote
from template.protocol.root import sample_digest
from template.sync.bootstrap import Bootstrap
from template.sync.lineage import read_lineage_to, voted_state, wait_for_voted_root
from template.sync.payload_cache import PayloadCache
from template.sync.recovery import retake_steps
from template.training.outer import OuterState, outer_step

log = logging.getLogger(__name__)

Say = Callable[[str], None]


@dataclass(kw_only=True, slots=True)
class Replayed:
    """The progress of a replay from theta_start. `wrong`: hotkey -> votes and logs that differ."""

    start: int
    state: OuterState
    num_payloads: int = 0
    wrong: dict[str, list[str]] = field(default_factory=dict)


def replay_run(context: ReadContext, peers: Peers, since: int, say: Say) -> Replayed:
    """Replay to the state of the current votes, from the oldest usable state since theta_since.

    A state is usable if buckets hold every later payload. Raises NotFound without a usable state,
    NodeTrouble if this node could not ask, and ConsensusError if the replayed parameters differ
    from the parameters voted.
    """
    peers.refresh()
    vote = wait_for_voted_root(context)
    steps = read_lineage_to(context, peers, vote)
    for start in _find_starts(context, steps, since):
        replayed = Replayed(start=start.window, state=start)
        say(f"replaying from theta_{start.window} to theta_{voted_state(context, vote)}")
        try:
            _replay_steps(context, peers, replayed, steps, say)
        except NodeTrouble:
            raise
        except Unavailable as error:
            say(f"cannot replay from theta_{start.window}: {error}")
            continue
        _check_final_state(context, replayed.state, vote)
        _replay_last_window(context, peers, replayed, say)
        return replayed
    raise NotFound(
        f"no published state of theta_{since} or later leads to root {vote.root.hex()}, voted for "
        f"window {vote.window}: too few buckets answer, or payloads in between have been deleted"
    )


def _replay_last_window(context: ReadContext, peers: Peers, replayed: Replayed, say: Say) -> None:
    """Take the step of the window with the current votes, if the votes are final.

    The votes on chain decide the step: its root is voted a window later. The votes after the
    run's end prove the last state, and decide no step.
    """
    state, schedule = replayed.state, context.schedule
    window, cache = state.window - 1, PayloadCache(context, peers)
    if window >= context.run.num_windows:
        return
    if context.chain.finalized() < schedule.vote_block(window):
        return
    try:
        ballot = read_ballot(context.chain, context.run, window)
    except ChainError as error:
        say(f"window {window} is left out: the chain no longer has its votes: {error}")
        return
    decision = decide(ballot, state.reference_rao, context.run.at(window).outer.quorum_rules())
    if missing := cache.ask_for_missing(window, decision.members, decision.namers):
        uids = [member.uid for member in missing]
        say(f"window {window} is left out: no bucket has the payloads of uids {uids}")
        return
    payloads = cache.open_frames(window, decision.members)
    replayed.state = outer_step(state, decision, payloads, context.run.at(window))
    replayed.num_payloads += len(decision.members)
    say(f"window {window}: {len(decision.members)} payloads, by its votes on chain")


def _find_starts(
    context: ReadContext, steps: Sequence[LineageStep], since: int
) -> Iterator[OuterState]:
    """Published states at the start of a step, oldest first: theta_0 and checkpoints."""
    for step in steps:
        window = step.window + 1
        if window < since or (step.window and not context.run.is_checkpoint(window)):
            continue
        state = Bootstrap(context, Peers(context)).published_state(step)
        if state is not None:
            yield state


def _replay_steps(
    context: ReadContext,
    peers: Peers,
    replayed: Replayed,
    steps: Sequence[LineageStep],
    say: Say,
) -> None:
    cache = PayloadCache(context, peers)
    ahead = [step for step in steps if step.window >= replayed.state.window - 1]
    _compare_votes(context, replayed)
    for step, after in retake_steps(replayed.state, ahead, cache.obtain_past_payloads, context.run):
        replayed.state = after
        replayed.num_payloads += len(step.members)
        say(f"window {step.window}: {len(step.members)} payloads, root {after.root[:8].hex()}")
        _compare_votes(context, replayed)


def _compare_votes(context: ReadContext, replayed: Replayed) -> None:
    """Record the hotkeys whose vote differs from the replayed state.

    Skips a window whose votes the chain has pruned, or whose majority voted another root: a stuck
    or divided majority leaves open which votes were right.
    """
    window, state = replayed.state.window - 1, replayed.state
    schedule, chain = context.schedule, context.chain
    if chain.finalized() < schedule.vote_block(window):
        return
    try:
        ballot = read_ballot(chain, context.run, window)
    except ChainError as error:
        log.debug("window %d: the chain no longer has its votes: %s", window, error)
        return
    sample = sample_digest(state.params, ballot.seed)
    if (
        decide(ballot, state.reference_rao, context.run.at(window).outer.quorum_rules()).root
        != state.root[:ROOT_BYTES]
    ):
        return
    for voter in ballot.voters:
        if voter.vote.root != state.root[:ROOT_BYTES]:
            found = f"window {window}: root {voter.vote.root.hex()}, not {state.root.hex()[:32]}"
        elif voter.vote.sample_digest != sample:
            found = f"window {window}: tensors {voter.vote.sample_digest.hex()}, not {sample.hex()}"
        else:
            continue
        replayed.wrong.setdefault(voter.hotkey, []).append(found)


def _check_final_state(context: ReadContext, state: OuterState, vote: Vote) -> None:
    seed = context.chain.block_hash(context.schedule.stake_block(vote.window))
    sample = sample_digest(state.params, seed)
    if state.root[:ROOT_BYTES] != vote.root or sample != vote.sample_digest:
        raise ConsensusError(
            f"window {vote.window}: the replay ends at root {state.root.hex()[:32]} with tensors "
            f"{sample.hex()}, the stake majority votes {vote.root.hex()} with "
            f"{vote.sample_digest.hex()}"
        )


def audit_validators(context: ReadContext, replayed: Replayed, say: Say) -> None:
    """Audit the verdict logs of every validator, from the newest checkpoint proven by votes.

    Adds the differences to `replayed.wrong`.
    """
    last = replayed.state.window - 2
    records = read_records(context.chain, context.chain.finalized(), context.run.run_id)
    for hotkey in validators_by_stake(context):
        if hotkey not in records or records[hotkey].vote is None:
            continue  # miners with enough stake have a permit too, and cast no vote
        try:
            auditor = Auditor(context, hotkey, last)
            source = logs_in_bucket(context, auditor.peers, hotkey)
            first = auditor.next_window
            for found in audit_windows(auditor, source, first, last):
                say(f"{hotkey}: {found.window_label}, {found.num_losses} losses computed again")
                if found.wrong:
                    replayed.wrong.setdefault(hotkey, []).extend(found.wrong)
                for line in found.unknown:
                    say(f"{hotkey}: cannot tell: {line}")
        except NodeTrouble:
            raise
        except SubnetError as error:
            say(f"{hotkey}: its verdicts cannot be audited: {error}")
