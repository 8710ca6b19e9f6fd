"""A run that has not begun: no votes have applied a payload, so theta_0 still is the model.

Buckets keep a window's payloads for a while, and a chain endpoint keeps its votes. Validators that
come later than that to a run in which nobody has voted lack neither: nothing was there.
"""

from collections.abc import Sequence

from template.chain.ballots import read_standing_votes_of_any_run, read_votes_at
from template.context import ReadContext
from template.peers.client import Peers
from template.protocol.lineage import LineageStep
from template.protocol.quorum import Voter
from template.sync.lineage import read_lineage, segment_before, voted_state
from template.training.outer import OuterState


def steps_before_payloads(context: ReadContext, peers: Peers) -> list[LineageStep] | None:
    """The run's steps so far, from window 0, while none of them has a payload.

    No steps where nobody votes. None once payloads were applied, as long as no bucket has the
    steps behind the root with the most voting stake, and where validators vote in another run
    alone: this one may be over, or its spec was edited.
    """
    window = context.schedule.last_counted(context.chain.finalized())
    voters = read_votes_at(context.chain, context.run, context.chain.finalized())
    if not voters:
        others = read_standing_votes_of_any_run(context.chain, context.run, window)
        return None if others else []
    peers.refresh()  # the voters may have come since
    vote = _leading(voters).vote
    state = voted_state(context, vote)
    steps = read_lineage(context, peers, state, vote.root, since=max(0, state - 2))
    while steps and not any(step.members for step in steps):
        if steps[0].window == 0:
            return steps
        segment = segment_before(context, peers, steps[0])
        steps = [*segment, *steps] if segment else []
    return None


def step_without_votes(state: OuterState) -> LineageStep:
    """The step on the next window if nobody has voted on that window."""
    return LineageStep(
        window=state.window - 1,
        root=state.root,
        members=(),
        voting_stake_rao=0,
        checkpoint=state.checkpoint_digest,
        voted_root=b"",
    )


def _leading(voters: Sequence[Voter]) -> Voter:
    """A voter for the root with the most stake."""
    stake_rao: dict[bytes, int] = {}
    for voter in voters:
        root = voter.vote.root
        stake_rao[root] = stake_rao.get(root, 0) + voter.stake_rao
    return max(voters, key=lambda voter: (stake_rao[voter.vote.root], voter.vote.root))
