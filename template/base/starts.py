"""Where a miner's training of a window starts, and the newer parameters that come meanwhile.

The best known parameters, in this order: theta of the window; what the last window's preview
expects; the theta before, with the own payloads under way. Training moves on from one to the next
as they come, and to the preview of the theta after: a move keeps the progress of the window.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from template.base.preview import Preview
from template.context import NodeContext
from template.protocol.payload import Payload
from template.sync.follower import Follower
from template.training.outer import OuterState, start_of_miner


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """theta of `window` as a preview expects it, made from `state`, the state before."""

    window: int
    state: OuterState
    params: Mapping[str, Tensor]


class Starts:
    """The starts of one inner loop. Called by the thread that trains.

    `preview`: of a window. `under_way`: own readable payloads of earlier windows that this node has
    not settled.
    """

    def __init__(
        self,
        context: NodeContext,
        follower: Follower,
        window: int,
        *,
        preview: Callable[[int], Preview],
        under_way: Callable[[], Sequence[Payload]],
        expected: Expected | None = None,
    ) -> None:
        self._context, self._follower = context, follower
        self._state = follower.state
        self._window = max(window, self._state.window)
        self._make_preview, self._under_way = preview, under_way
        self._preview: Preview | None = None
        self.uids: tuple[int, ...] = ()
        """Uids of the payloads in a finished preview."""
        self._guess: Mapping[str, Tensor] | None = None
        self._expected = expected if expected is not None and self._fits(expected) else None
        self.expects: Expected | None = None
        """theta after this window, once a preview says so."""

    def _fits(self, expected: Expected) -> bool:
        return expected.window == self._window and expected.state is self._state

    def first(self) -> Mapping[str, Tensor]:
        """The start as of now."""
        if self._guess is not None:
            return self._guess
        state = self._state
        if self._expected is not None:
            state = replace(state, window=self._window, params=self._expected.params)
        return self._start_at(state)

    def _start_at(self, state: OuterState) -> Mapping[str, Tensor]:
        # A state may be ahead of what the node has settled: what the state holds is not under way.
        own = [p for p in self._under_way() if p.header.window >= state.window - 1]
        return start_of_miner(state, own, self._context.run.at(state.window - 1))

    @property
    def is_awaiting(self) -> bool:
        """Whether a preview is still possible."""
        if self._preview is not None:
            return self._preview.pending
        return self._state.window < self._window

    @property
    def until_block(self) -> int:
        """The block with which the wait for a preview ends."""
        return (self._preview or self._make_preview(self._window)).until_block

    def poll(self) -> Mapping[str, Tensor] | None:
        """Newer parameters to train from, each returned once; None if there are none."""
        if (state := self._follower.state).window > self._state.window:
            # A guess of this very theta gives way too, and what a preview said of this theta: each
            # keeps the theta before in memory.
            self.close()
            self._state, self._expected, self._guess = state, None, None
            self._preview, self.expects = None, None
            # A slow machine's training goes on in later windows, each with a preview of its own.
            self._window = max(self._window, state.window)
            return self._start_at(state)
        if self._preview is None and self._state.window == self._window:
            self._preview = self._make_preview(self._window)
        if self._preview is None or (found := self._preview.poll()) is None:
            return None
        self.uids = self._preview.uids
        self.expects = Expected(window=self._window + 1, state=self._state, params=found)
        self._guess = found
        return found

    def close(self) -> None:
        """Stop; a running download may continue to its time-out."""
        if self._preview is not None:
            self._preview.close()
