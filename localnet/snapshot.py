"""One moment of a running localnet, read from the nodes' logs at little cost.

Owns the facts on a run before the end. `progress` shows a snapshot. The caller polls the chain
and passes the block numbers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from localnet.events import JsonlTail, NodeEvents, Row, accepted_uids
from localnet.report import NodeInfo
from localnet.roster import HONEST, shown_kind
from template.metrics import EVENTS_FILE
from template.protocol.spec import RunSpec


@dataclass(frozen=True, kw_only=True)
class NodeProgress:
    """One node. `window`: of the newest metrics. `state_window`: of the present parameters. Both
    are None before the first metrics. `status`: last activity or exit, in a few words.
    """

    name: str
    kind: str
    window: int | None
    state_window: int | None
    status: str


@dataclass(frozen=True, kw_only=True)
class ProgressSnapshot:
    """A run at one moment; only `phase` is set before the neurons start.

    `window`: the window at the head block, of `num_windows`. `loss_nats`: the newest held-out
    loss, at the parameters of `loss_window`. `accepted_uids` belong to `decided_window`.
    """

    phase: str
    block: int | None = None
    finalized_block: int | None = None
    window: int | None = None
    num_windows: int = 0
    loss_window: int | None = None
    loss_nats: float | None = None
    first_loss_nats: float | None = None
    unigram_nats: float | None = None
    decided_window: int | None = None
    accepted_uids: tuple[int, ...] = ()
    nodes: tuple[NodeProgress, ...] = ()


class ProgressReader:
    """Reads snapshots of a running swarm; each read takes only new lines of the logs."""

    def __init__(self, spec: RunSpec) -> None:
        self._schedule = spec.schedule
        self._tails: dict[str, JsonlTail] = {}
        self._events: dict[str, NodeEvents] = {}

    def read(
        self, nodes: Sequence[NodeInfo], *, block: int, finalized_block: int
    ) -> ProgressSnapshot:
        """The run at the logs' present state. A node keeps the same name in every call."""
        self._read_new(nodes)
        window = self._schedule.schedule().window_of(block)
        curve = self._longest_curve(nodes)
        losses = curve.losses
        decision = self._newest_decision(nodes)
        return ProgressSnapshot(
            phase=_phase(window, self._schedule.num_windows, self._schedule.start_block),
            block=block,
            finalized_block=finalized_block,
            window=window,
            num_windows=self._schedule.num_windows,
            loss_window=max(losses, default=None),
            loss_nats=losses[max(losses)] if losses else None,
            first_loss_nats=losses[min(losses)] if losses else None,
            unigram_nats=curve.unigram_nats,
            decided_window=decision["window"] if decision else None,
            accepted_uids=tuple(accepted_uids(decision)) if decision else (),
            nodes=tuple(self._node(node) for node in nodes),
        )

    def _read_new(self, nodes: Iterable[NodeInfo]) -> None:
        for node in nodes:
            if node.name not in self._tails:
                self._tails[node.name] = JsonlTail(node.state_dir / EVENTS_FILE)
                self._events[node.name] = NodeEvents()
            self._events[node.name].add(self._tails[node.name].read_new())

    def _longest_curve(self, nodes: Iterable[NodeInfo]) -> NodeEvents:
        """The events of the validator with a loss for the newest parameters."""
        measured = [self._events[node.name] for node in nodes if node.role == "validator"]
        return max(measured, key=lambda e: max(e.losses, default=-1), default=NodeEvents())

    def _newest_decision(self, nodes: Iterable[NodeInfo]) -> Row | None:
        """The newest decision in an honest node's log."""
        honest = [self._events[node.name] for node in nodes if node.behaviour == HONEST]
        newest = max((max(e.decisions, default=-1) for e in honest), default=-1)
        return next((e.decisions[newest] for e in honest if newest in e.decisions), None)

    def _node(self, node: NodeInfo) -> NodeProgress:
        events = self._events[node.name]
        decision = events.decisions.get(max(events.decisions, default=-1))
        return NodeProgress(
            name=node.name,
            kind=shown_kind(node.role, node.behaviour),
            window=events.last_row.get("window"),
            state_window=decision["state_window"] if decision else None,
            status=_status(node, events.last_row),
        )


def _phase(window: int, num_windows: int, start_block: int) -> str:
    if window < 0:
        return f"waiting for block {start_block}, the first of window 0"
    if window < num_windows:
        return f"window {window} of {num_windows}"
    return f"all {num_windows} windows are over, waiting for the last votes"


def _status(node: NodeInfo, row: Row) -> str:
    """A node's exit status, or the activity behind the newest metrics."""
    if node.exit is not None:
        return f"ended, status {node.exit}"
    for key, words in _ACTIVITIES.items():
        if key in row:
            return words
    return "running" if row else "nothing logged"


_ACTIVITIES: Mapping[str, str] = {
    "held_out_loss": "measured the loss",
    "state_root": "took the outer step",
    "payload_bytes": "uploaded its payload",
    "committed": "committed its payload",
    "inner_loss": "trained",
    "dissenting_uids": "counted the votes",
    "unigram_entropy": "joined",
}
