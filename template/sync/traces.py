"""Traces of a run in the voters' buckets: tells a run from a run spec that nobody follows here.

Every value of a spec is in the run id, and the run id is in every key. Validators vote without a
run id; a file that was edited, or belongs to another run, therefore meets votes with authority and
finds no object. Lineage stays in buckets for ever, so its absence where most of the voting stake
stands proves the file wrong.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from template.chain import Chain
from template.chain.ballots import read_standing_votes, read_standing_votes_of_any_run
from template.context import ReadContext
from template.errors import ChainError, NodeTrouble, NotFound, SubnetError
from template.protocol.keys import lineage_key
from template.protocol.quorum import VOID_WINDOWS, Decision
from template.protocol.run import Run
from template.sync.lineage import segment_start

log = logging.getLogger(__name__)


class Sized(Protocol):
    """The part of a bucket that is asked."""

    def size(self, key: str) -> int:
        """As `Store.size`."""


OpenByHotkey = Callable[[str], Sized]
"""hotkey -> the hotkey's bucket; RecordError without a usable one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Traces:
    """Which voters serve the run's lineage. `faults`: a sentence per voter without an answer.

    `newest_vote`: the newest window with a standing vote. Stakes are those of the voters asked.
    """

    newest_vote: int
    num_voters: int
    voting_stake_rao: int
    holders: tuple[str, ...]
    empty: tuple[str, ...]
    empty_stake_rao: int
    faults: tuple[str, ...]

    @property
    def is_foreign(self) -> bool:
        """Whether most of the voting stake serves no object of the run."""
        return 2 * self.empty_stake_rao > self.voting_stake_rao

    def describe(self, run: Run) -> str:
        """Why a foreign spec is foreign, and the remedy."""
        return (
            f"nobody follows run id {run.run_id.hex()} here: {self.num_voters} validators vote "
            f"(the newest vote is on window {self.newest_vote}), and the buckets of most of their "
            f"stake ({len(self.empty)} asked) have no object of that run. The run spec was edited "
            "or belongs to another run, as any changed value makes another run: get the file "
            "again from the subnet's owner and compare its SHA-256, and check that --netuid and "
            "--subtensor.network are those of the run"
        )


def find_traces(run: Run, chain: Chain, open_bucket: OpenByHotkey) -> Traces | None:
    """Ask the voters' buckets, most stake first, until most of the stake has answered alike.

    None as long as no answer would tell anything: nobody votes, or the run is so young that all
    validators may still wait for its first payloads. NodeTrouble if this node could not ask.
    """
    last = run.schedule.last_counted(chain.finalized())
    if last <= VOID_WINDOWS + 1:
        return None
    # Votes of another run tell of a foreign spec only where nobody votes in this one.
    voters = read_standing_votes(chain, run, last)
    voters = voters or read_standing_votes_of_any_run(chain, run, last)
    if not voters:
        return None
    total = sum(voter.stake_rao for voter in voters)
    keys = _lineage_keys(run, last)
    holders: list[str] = []
    empty: list[str] = []
    faults: list[str] = []
    empty_rao = other_rao = 0
    for voter in sorted(voters, key=lambda v: (-v.stake_rao, v.uid)):
        try:
            is_held = _has_any(open_bucket, voter.hotkey, keys)
        except NodeTrouble:
            raise
        except SubnetError as error:
            faults.append(f"{voter.hotkey}: {error}")
            is_held = True
        else:
            (holders if is_held else empty).append(voter.hotkey)
        empty_rao += 0 if is_held else voter.stake_rao
        other_rao += voter.stake_rao if is_held else 0
        if 2 * max(empty_rao, other_rao) > total:
            break
    return Traces(
        newest_vote=max(voter.vote.window for voter in voters),
        num_voters=len(voters),
        voting_stake_rao=total,
        holders=tuple(holders),
        empty=tuple(empty),
        empty_stake_rao=empty_rao,
        faults=tuple(faults),
    )


def _lineage_keys(run: Run, last: int) -> list[str]:
    """The first segment, which stays for ever, and the newest: a voter may have joined late."""
    newest = min(last, run.num_windows - 1)
    every = run.at(newest).checkpoint.every_windows
    windows = (0, newest - VOID_WINDOWS - 1, newest - every, newest)
    starts = {segment_start(max(0, window), run) for window in windows}
    return [lineage_key(run.run_id, start) for start in sorted(starts)]


def _has_any(open_bucket: OpenByHotkey, hotkey: str, keys: list[str]) -> bool:
    """Whether a bucket has one of the keys; a forbidden or unknown bucket raises."""
    bucket = open_bucket(hotkey)
    for key in keys:
        try:
            bucket.size(key)
        except NotFound:
            continue
        return True
    return False


class OtherRunWatch:
    """Tells a node that follows a run alone while the validators vote in another run.

    A spec with one changed value is another run: its windows end without a vote for ever.
    """

    def __init__(self, context: ReadContext) -> None:
        self._context = context
        self._num_silent = 0

    def note(self, decision: Decision) -> None:
        """Hear of a decision; an error line in the 1st, 2nd, 4th, 8th ... window without a vote."""
        if decision.voting_stake_rao:
            self._num_silent = 0
            return
        self._num_silent += 1
        if self._num_silent & (self._num_silent - 1):
            return
        context, window = self._context, decision.window
        try:
            voters = read_standing_votes_of_any_run(context.chain, context.run, window)
        except ChainError as error:
            log.debug("window %d: votes of other runs are not known: %s", window, error)
            return
        voting = [voter for voter in voters if voter.vote.window == window]
        if voting:
            log.error(
                "window %d: nobody votes in this run (run id %s), and %d validators vote in "
                "another one: --run %s was edited or belongs to another run; get the file again "
                "from the subnet's owner",
                window,
                context.run.run_id.hex(),
                len(voting),
                context.run_file,
            )
