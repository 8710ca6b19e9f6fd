"""Healing: from a state apart from the majority to the state that the majority votes.

The node takes its last steps again from its anchors, or takes the steps of the lineage that leads
to the voted root, from a published state on. The node's own state stays in place unless the new
state is right.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from template.bucket.retention import oldest_start
from template.context import ReadContext
from template.errors import ConfigError, NodeTrouble, NotFound, Unavailable
from template.peers.client import Peers
from template.protocol.lineage import LineageStep
from template.protocol.quorum import Decision
from template.protocol.record import ROOT_BYTES
from template.sync.anchors import AnchorStore
from template.sync.bootstrap import Bootstrap
from template.sync.ledger import RunLedger
from template.sync.lineage import read_lineage
from template.sync.payload_cache import PayloadCache
from template.sync.recovery import Recovered, heal, replay_steps, steps_after
from template.sync.successions import append_claimed
from template.training.outer import OuterState

log = logging.getLogger(__name__)

IsRight = Callable[[OuterState], bool]


class Healer:
    """Finds the way back to the majority, and tries less and less often while there is none.

    A try may cost the download of a checkpoint. The gap between two tries doubles up to the
    distance of two checkpoints, because a longer gap would miss a checkpoint.
    """

    def __init__(
        self,
        context: ReadContext,
        peers: Peers,
        anchors: AnchorStore,
        payloads: PayloadCache,
        *,
        may_join: bool,
    ) -> None:
        self._context, self._peers, self._may_join = context, peers, may_join
        self._anchors, self._payloads = anchors, payloads
        self.reset()

    def reset(self) -> None:
        """Forget all tries: the next window is due."""
        self._next_window, self._gap_windows = 0, 1

    def heal(self, ledger: RunLedger, decision: Decision, is_right: IsRight) -> RunLedger | None:
        """The ledger at a right state of the same window; None without one, or until due."""
        window = decision.window
        if window < self._next_window:
            return None
        self._next_window = window + self._gap_windows
        every = self._context.run.at(window).checkpoint.every_windows
        self._gap_windows = min(2 * self._gap_windows, every)
        log.warning("window %d: taking the last steps again", window)
        healed = self._retake(ledger, is_right) or self._join_anew(ledger, decision, is_right)
        if healed is None:
            log.error("%s", self._describe_fork(ledger, decision))
        return healed

    def _retake(self, ledger: RunLedger, is_right: IsRight) -> RunLedger | None:
        """The last steps again from the node's own anchors."""
        try:
            recovered = heal(
                self._anchors.load_anchors(),
                ledger.steps,
                self._payloads.obtain_past_payloads,
                self._context.run,
                is_right,
            )
        except NodeTrouble:
            raise
        except Unavailable as error:
            log.warning("the last steps cannot be taken again: %s", error)
            return None
        if recovered is None:
            return None
        return ledger.recover(recovered.state, self._anchors.restart_from(recovered, ledger.steps))

    def _join_anew(
        self, ledger: RunLedger, decision: Decision, is_right: IsRight
    ) -> RunLedger | None:
        """The lineage's steps to the voted root, from a published state on."""
        if not self._may_join or decision.root is None:
            return None
        try:
            append_claimed(self._context, self._peers)
            found = self._follow_way(ledger, decision, decision.root)
        except NodeTrouble:
            raise
        except (Unavailable, NotFound, ConfigError) as error:
            # ConfigError: theta_0 is in no bucket, which stops a node without a state alone.
            log.warning("window %d: cannot join anew: %s", decision.window, error)
            return None
        if found is None or not is_right(found[1].state):
            return None
        start, recovered = found
        return ledger.recover(recovered.state, self._anchors.restart_at(start, recovered.steps))

    def _follow_way(
        self, ledger: RunLedger, decision: Decision, root: bytes
    ) -> tuple[OuterState, Recovered] | None:
        """A published state, and the steps from there to `root`; None if no bucket has both."""
        context = self._context
        since = max(0, oldest_start((), decision.window, context.run) - 1)
        steps = read_lineage(context, self._peers, decision.window + 1, root, since)
        start = Bootstrap(context, self._peers).newest_on_the_way(steps)
        if start is None:
            return None
        log.warning("window %d: joining anew at theta_%d", decision.window, start.window)
        ahead = steps_after(start, _with_own_votes(steps, ledger))
        obtain = self._payloads.obtain_past_payloads
        return start, replay_steps(start, ahead, obtain, context.run)

    def _describe_fork(self, ledger: RunLedger, decision: Decision) -> str:
        context = self._context
        voted = b"" if decision.root is None else decision.root
        return (
            f"window {decision.window}: the stake majority votes root {voted.hex()}, this node "
            f"stands on {ledger.state.root[:ROOT_BYTES].hex()}, and neither its past nor a "
            "published checkpoint leads there. This node goes on by its own root, names no "
            f"payload, and looks again from window {self._next_window} on. If it never agreed "
            f"with the others, its --run {context.run_file} (run id {context.run.run_id.hex()}) "
            "is not theirs: get the file again from the subnet's owner. If it did, look for "
            "another build of torch or a fault of the hardware"
        )


def _with_own_votes(steps: Iterable[LineageStep], ledger: RunLedger) -> list[LineageStep]:
    """Steps of strangers with the voted roots that this node counted itself, or none.

    The voted root of a lineage is in no hash: a stranger's word must not void a window.
    """
    counted = {step.window: step.voted_root for step in ledger.steps}
    return [replace(step, voted_root=counted.get(step.window, b"")) for step in steps]
