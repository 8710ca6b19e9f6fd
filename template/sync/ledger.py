"""The run as known to a node: the state, past steps and decisions ahead.

Values in, values out: no chain, no bucket, no disk, no clock. `template.sync.follower` reads and
hands in ballots and payloads; every method returns a new ledger or an answer, and the old ledger
stays valid, even after an error.

    votes final -> count_ballot -> compare_with_majority -> apply_window -> find_new_void
                        |                  |                                     |
                   payloads_given_up       heal (recovery.py)                    take back
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from template.protocol.lineage import Accepted, LineageStep, newly_void
from template.protocol.payload import Payload
from template.protocol.quorum import VOID_WINDOWS, Ballot, Decision, decide, is_void
from template.protocol.record import ROOT_BYTES
from template.protocol.run import Run
from template.sync.recovery import step_from
from template.training.outer import OuterState, outer_step
from template.training.spread import sample_of


class Standing(Enum):
    """A node's state compared with the state voted by the stake majority."""

    NO_MAJORITY = "no majority"
    EQUAL = "equal"
    AHEAD = "ahead"
    """The majority voted an earlier root of this node: the majority lacks payloads so far."""
    OTHER_ROOT = "another root"
    OTHER_TENSORS = "the same root, other tensors"

    @property
    def contradicts(self) -> bool:
        """Whether the node has to recover before the next step."""
        return self in (Standing.OTHER_ROOT, Standing.OTHER_TENSORS)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLedger:
    """The run at theta_window. Immutable.

    `steps`: the kept steps up to `state`, oldest first. `decisions`: window -> counted ballot,
    for windows from `next_window` on, without a gap. `last_accepted`: hotkeys of the last applied
    window with an accepted payload. `keeps_step_start`: hold `step_start`, a second theta in
    memory: the state before the newest step, None unless this ledger took that step with a payload,
    and while votes move alpha.
    """

    run: Run
    state: OuterState
    steps: tuple[LineageStep, ...] = ()
    decisions: Mapping[int, Decision] = field(default_factory=dict)
    last_accepted: frozenset[str] = frozenset()
    keeps_step_start: bool = False
    step_start: OuterState | None = None

    @property
    def _keeps_this_start(self) -> bool:
        """Whether the votes of the window scored at the next state move alpha."""
        return (
            self.keeps_step_start
            and self.state.window < self.run.at(self.state.window).outer.alpha_windows
        )

    @property
    def next_window(self) -> int:
        """The window whose decision moves the state."""
        return self.state.window - 1

    @property
    def root(self) -> bytes:
        """The root of the state in the length of a vote: `ROOT_BYTES`."""
        return self.state.root[:ROOT_BYTES]

    def count_ballot(self, ballot: Ballot) -> "RunLedger":
        """Decide `ballot.window`: the next window, or a later window with decided predecessors.

        The reference stake follows from the windows before, so a window cannot be decided before
        all predecessors: ValueError. A repeated ballot changes
        the ledger no more.
        """
        # Votes at a final block never change: a second count could only repeat the first.
        if ballot.window in self.decisions:
            return self
        if ballot.window >= self.run.num_windows:
            # Votes after the run's end settle which payloads stand; nothing is accepted any more.
            ballot = replace(ballot, candidates={})
        between = range(self.next_window, ballot.window)
        if ballot.window < self.next_window or not self.decisions.keys() >= set(between):
            raise ValueError(
                f"window {ballot.window} cannot be decided from theta_{self.state.window}: the "
                "windows before it are not"
            )
        before = self.decisions.get(ballot.window - 1)
        reference_rao = self.state.reference_rao if before is None else before.reference_rao
        decision = decide(ballot, reference_rao, self.run.at(ballot.window).outer.quorum_rules())
        return replace(self, decisions={**self.decisions, ballot.window: decision})

    def window_to_count_for_void(self) -> int | None:
        """The next window whose votes could still void `next_window`; None once settled.

        `next_window` is void when the majority votes this node's root in each of the
        `VOID_WINDOWS` windows after.
        """
        for window in range(self.next_window + 1, self.next_window + 1 + VOID_WINDOWS):
            decision = self.decisions.get(window)
            if decision is None:
                return window
            if decision.root != self.root:
                # A majority for another root, or none, settles the question: the payloads stand.
                return None
        return None

    def payloads_given_up(self) -> bool:
        """Whether the votes counted so far have voided the next window."""
        later = range(self.next_window + 1, self.next_window + 1 + VOID_WINDOWS)
        # Ballots are counted in order, so an uncounted window ends the list and never gaps it.
        votes = [self.decisions[window].root for window in later if window in self.decisions]
        return is_void(self.root, votes)

    def compare_with_majority(
        self, decision: Decision, stake_block_hash: bytes, state: OuterState | None = None
    ) -> Standing:
        """The standing of `state` (default: this ledger's) beside the majority of `decision`.

        `stake_block_hash` draws the sampled elements of theta: the hash of block (w+1)B.
        """
        state = self.state if state is None else state
        if decision.root is None:
            return Standing.NO_MAJORITY
        if decision.root != state.root[:ROOT_BYTES]:
            # An earlier root of this node is no contradiction: the majority waits for payloads.
            earlier_roots = {step.root[:ROOT_BYTES] for step in self.steps}
            return Standing.AHEAD if decision.root in earlier_roots else Standing.OTHER_ROOT
        own = sample_of(state.params, stake_block_hash)
        # No majority for one sample digest: too many voters differ to say who is right.
        agrees = decision.sample_digest in (None, own)
        return Standing.EQUAL if agrees else Standing.OTHER_TENSORS

    def apply_window(
        self, accepted: Accepted, payloads: Mapping[int, Payload], voted_root: bytes
    ) -> "RunLedger":
        """Take the outer step of the next window.

        `payloads`: the accepted payloads by uid, without undecodable payloads. `voted_root`: the
        root of the majority's votes on the window, or empty; kept for `find_new_void`. ValueError
        if `accepted` is of another window.
        """
        after = outer_step(self.state, accepted, payloads, self.run.at(accepted.window))
        # The step records the root and checkpoint digest from before the update.
        step = step_from(self.state, accepted, voted_root)
        members = frozenset(member.hotkey for member in accepted.members)
        return replace(
            self,
            state=after,
            steps=(*self.steps, step),
            decisions={w: d for w, d in self.decisions.items() if w > accepted.window},
            # A no-op says nothing about whose payloads come next: keep the previous hotkeys.
            last_accepted=members or self.last_accepted,
            step_start=self.state if payloads and self._keeps_this_start else None,
        )

    def find_new_void(self) -> LineageStep | None:
        """The applied step made void by the votes on the last `VOID_WINDOWS` windows, or None."""
        window = newly_void(self.steps)
        return next((step for step in self.steps if step.window == window), None)

    def find_late_void(self) -> LineageStep | None:
        """An applied step made void by the votes counted ahead, or None: at the run's end."""
        ahead = [self.decisions[window].root for window in sorted(self.decisions)]
        for place, step in enumerate(self.steps):
            later = [other.voted_root or None for other in self.steps[place + 1 :]]
            if step.members and is_void(step.root[:ROOT_BYTES], (later + ahead)[:VOID_WINDOWS]):
                return step
        return None

    def recover(self, state: OuterState, steps: tuple[LineageStep, ...]) -> "RunLedger":
        """The same ledger at another state of the same window, with the steps up to the state.

        Decisions ahead stay: ballots do not depend on this node's state.
        """
        if state.window != self.state.window:
            raise ValueError(f"theta_{state.window} is not theta_{self.state.window}")
        return replace(self, state=state, steps=steps, step_start=None)
