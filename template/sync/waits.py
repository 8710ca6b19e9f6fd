"""What may be waited for: payloads that buckets keep. Unavailable, with the reason, otherwise."""

from template.bucket.retention import oldest_start
from template.context import ReadContext
from template.errors import Unavailable
from template.protocol.quorum import VOID_WINDOWS, Decision
from template.protocol.run import Run
from template.sync.ledger import RunLedger
from template.sync.lineage import find_voted_root


def first_kept_window(window: int, run: Run) -> int:
    """The first window of which buckets keep payloads and a state to start from, at theta_window.

    By the rule of retention: a bucket may keep more.
    """
    return max(0, oldest_start((), window, run) - 1)


def demand_hope(context: ReadContext, ledger: RunLedger, decision: Decision) -> None:
    """Unavailable if the missing payloads of `decision` can neither come nor be given up."""
    _demand_time_left(context, decision)
    _demand_kept(context, ledger, decision)


def _demand_time_left(context: ReadContext, decision: Decision) -> None:
    """Unavailable once no vote can give the payloads up any more: the run is over."""
    last_window = context.run.num_windows + VOID_WINDOWS - 1
    if context.chain.finalized() >= context.schedule.vote_block(last_window):
        uids = [member.uid for member in decision.members]
        raise Unavailable(
            f"window {decision.window}: the run is over, and no bucket has the accepted payloads "
            f"of all uids {uids}; the run's last state lies in the published checkpoints"
        )


def _demand_kept(context: ReadContext, ledger: RunLedger, decision: Decision) -> None:
    """Unavailable once buckets have deleted the payloads, and the majority has gone on."""
    newest = context.schedule.window_of(context.chain.finalized())
    if decision.window >= oldest_start((), newest, context.run) - 1:
        return
    vote = find_voted_root(context)
    if vote is not None and vote.root != ledger.root:
        raise Unavailable(
            f"window {decision.window}: buckets have deleted the accepted payloads, and the "
            f"majority votes on window {vote.window}"
        )
