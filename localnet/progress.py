"""Shows a running localnet: a live panel on a terminal, or one line per window.

Owns layout and drawing rate of snapshots. `snapshot` reads the logs.
"""

import time
from collections.abc import Callable, Sequence
from typing import Self

from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from localnet.snapshot import NodeProgress, ProgressSnapshot

MIN_UPDATE_INTERVAL_S = 0.25
LEGEND = """\
held-out loss: nats per token on text outside the training data
theta_w: the params at the start of window w
unigram entropy: the loss of a model with token frequencies alone
accepted: uids whose payloads the outer step applied"""


class LiveProgress:
    """Shows snapshots: a panel redrawn in place on a terminal, else a line when the phase changes.

    A context manager. The clock starts in the constructor. Other prints inside the `with` block
    must go through the same console.
    """

    def __init__(
        self, console: Console | None = None, *, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or Console()
        self._now_s = now_s
        self._started_s = now_s()
        self._drawn_s = float("-inf")
        self._live: Live | None = None
        self._latest = ProgressSnapshot(phase="")
        self._explained = False

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._live is not None:
            self._draw(self._live)
            self._live.stop()
            self._live = None

    def say(self, phase: str) -> None:
        """Show a phase without block numbers, loss or nodes."""
        self.update(ProgressSnapshot(phase=phase))

    def tell(self, event: str) -> None:
        """Print an event on a line above the panel, where later drawing leaves the line."""
        self._print(f"{self._now_s() - self._started_s:6.1f} s  {event}")

    def update(self, snapshot: ProgressSnapshot) -> None:
        """Show a snapshot; in one phase, draw at most four snapshots a second."""
        changed, self._latest = snapshot.phase != self._latest.phase, snapshot
        if self._live is None:
            if changed:
                self._explain(snapshot)
                self._print(line(snapshot, self._now_s() - self._started_s))
        elif changed or self._now_s() - self._drawn_s >= MIN_UPDATE_INTERVAL_S:
            self._draw(self._live)

    def _explain(self, snapshot: ProgressSnapshot) -> None:
        """Print the legend before the first line with numbers."""
        if snapshot.block is not None and not self._explained:
            self._explained = True
            self._print(LEGEND)

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _draw(self, live: Live) -> None:
        self._drawn_s = self._now_s()
        live.update(panel(self._latest, self._drawn_s - self._started_s), refresh=True)


def line(snapshot: ProgressSnapshot, elapsed_s: float) -> str:
    """Time, phase, blocks, loss and the last decision in one line, without unknown parts."""
    parts = [f"{elapsed_s:6.1f} s  {snapshot.phase}"]
    if snapshot.block is not None:
        parts.append(_blocks(snapshot))
    if snapshot.loss_window is not None:
        parts.append(f"held-out loss {_loss(snapshot)}")
    if snapshot.decided_window is not None:
        parts.append(_decided(snapshot))
    return " | ".join(parts)


def panel(snapshot: ProgressSnapshot, elapsed_s: float) -> RenderableType:
    """The panel of a terminal: the run above, the nodes below."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column()
    if snapshot.num_windows:
        done = min(max(snapshot.window or 0, 0), snapshot.num_windows)
        facts.add_row("progress", ProgressBar(total=snapshot.num_windows, completed=done, width=40))
    if snapshot.block is not None:
        facts.add_row("chain", _blocks(snapshot))
    if snapshot.loss_window is not None:
        facts.add_row("held-out loss", _loss(snapshot))
    if snapshot.decided_window is not None:
        facts.add_row("last decision", _decided(snapshot))
    content: list[RenderableType] = [Text(snapshot.phase, style="bold"), facts]
    if snapshot.nodes:
        content.append(_node_table(snapshot.nodes))
    if snapshot.block is not None:
        content.append(Text(LEGEND, style="dim"))
    title = f"localnet, {elapsed_s:.0f} s"
    return Panel(Group(*content), title=title, title_align="left", expand=False)


def _node_table(nodes: Sequence[NodeProgress]) -> Table:
    table = Table(box=SIMPLE, padding=(0, 1), header_style="dim")
    for heading in ("node", "behaviour", "window", "params", "status"):
        table.add_column(heading, justify="right" if heading in ("window", "params") else "left")
    for node in nodes:
        window = "-" if node.window is None else str(node.window)
        params = "-" if node.state_window is None else f"theta_{node.state_window}"
        table.add_row(*map(Text, (node.name, node.kind, window, params, node.status)))
    return table


def _blocks(snapshot: ProgressSnapshot) -> str:
    return f"block {snapshot.block}, finalised {snapshot.finalized_block}"


def _loss(snapshot: ProgressSnapshot) -> str:
    text = "not finite" if snapshot.loss_nats is None else f"{snapshot.loss_nats:.4f}"
    text += f" at theta_{snapshot.loss_window}"
    compared = []
    if snapshot.first_loss_nats is not None:
        compared.append(f"first {snapshot.first_loss_nats:.4f}")
    if snapshot.unigram_nats is not None:
        compared.append(f"unigram entropy {snapshot.unigram_nats:.4f}")
    return f"{text} ({', '.join(compared)})" if compared else text


def _decided(snapshot: ProgressSnapshot) -> str:
    uids = ", ".join(map(str, snapshot.accepted_uids))
    accepted = f"uids {uids}" if uids else "no payload"
    return f"window {snapshot.decided_window} accepted {accepted}"
