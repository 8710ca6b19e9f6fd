"""Taking steps again: how a node comes back to the parameters that the majority has.

Pure but for the payloads, which `obtain` gets by whatever way.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from template.protocol.lineage import Accepted, LineageStep
from template.protocol.payload import Payload
from template.protocol.spec import RunSpec
from template.sync.anchors import Past
from template.training.outer import OuterState, outer_step

Obtain = Callable[[LineageStep], Mapping[int, Payload]]
"""The accepted payloads of a step by uid, less those that no node can admit."""


def step_from(state: OuterState, accepted: Accepted, voted_root: bytes) -> LineageStep:
    """The lineage's word on the step that `state` takes next."""
    return LineageStep(
        window=accepted.window,
        root=state.root,
        members=accepted.members,
        voting_stake_rao=accepted.voting_stake_rao,
        checkpoint=state.checkpoint_digest,
        voted_root=voted_root,
    )


def retaken(
    state: OuterState, steps: Iterable[LineageStep], obtain: Obtain, spec: RunSpec
) -> Iterator[tuple[LineageStep, OuterState]]:
    """Take the steps again from `state`: each as it comes out now, and the state after it.

    Roots and checkpoint digests are computed anew: those in `steps` may be of what went wrong.
    """
    for step in steps:
        taken = step_from(state, step, step.voted_root)
        state = outer_step(state, step, obtain(step), spec)
        yield taken, state


def replay(
    state: OuterState, steps: Iterable[LineageStep], obtain: Obtain, spec: RunSpec
) -> tuple[list[LineageStep], OuterState]:
    """All of them at once: the steps as they came out, and where they lead."""
    taken = []
    for step, after in retaken(state, steps, obtain, spec):
        taken.append(step)
        state = after
    return taken, state


def heal(
    past: Past, obtain: Obtain, spec: RunSpec, is_right: Callable[[OuterState], bool]
) -> OuterState | None:
    """The state from the newest anchor from which it comes out right; None if from none."""
    for start in past.anchors():
        taken, state = replay(start, past.steps_from(start), obtain, spec)
        if is_right(state):
            past.restart(start, taken)
            return state
    return None


def take_back(past: Past, window: int, obtain: Obtain, spec: RunSpec) -> OuterState | None:
    """The state without the payloads of `window`; None if no anchor is from before them."""
    for start in past.anchors():
        if start.window <= window + 1:
            steps = [
                replace(s, members=()) if s.window == window else s for s in past.steps_from(start)
            ]
            taken, state = replay(start, steps, obtain, spec)
            past.restart(start, taken)
            return state
    return None
