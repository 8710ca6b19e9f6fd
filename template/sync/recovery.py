"""Recovery: taking past steps again, from an earlier state, to the parameters of the majority.

Pure but for `obtain`: the caller's way to the payloads of a step.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from template.protocol.lineage import Accepted, LineageStep
from template.protocol.payload import Payload
from template.protocol.run import Run
from template.training.outer import OuterState, outer_step

Obtain = Callable[[LineageStep], Mapping[int, Payload]]
"""The accepted payloads of a step by uid, without undecodable payloads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recovered:
    """A state reached again. `start_window`: of the anchor; `steps`: retaken from there on."""

    start_window: int
    steps: tuple[LineageStep, ...]
    state: OuterState


def step_from(state: OuterState, accepted: Accepted, voted_root: bytes) -> LineageStep:
    """The lineage's record of the next step from `state`."""
    return LineageStep(
        window=accepted.window,
        root=state.root,
        members=accepted.members,
        voting_stake_rao=accepted.voting_stake_rao,
        checkpoint=state.checkpoint_digest,
        voted_root=voted_root,
        pace=accepted.pace,
        adopted=accepted.adopted,
    )


def retake_steps(
    state: OuterState, steps: Iterable[LineageStep], obtain: Obtain, run: Run
) -> Iterator[tuple[LineageStep, OuterState]]:
    """Take the steps again from `state`; yields each retaken step and the state after.

    Roots and checkpoint digests are computed anew: the recorded digests may carry the very fault
    under repair.
    """
    for step in steps:
        taken = step_from(state, step, step.voted_root)
        state = outer_step(state, step, obtain(step), run.at(step.window))
        yield taken, state


def replay_steps(
    state: OuterState, steps: Iterable[LineageStep], obtain: Obtain, run: Run
) -> Recovered:
    """All steps taken again from `state`, and the state at their end."""
    taken, start_window = [], state.window
    for step, after in retake_steps(state, steps, obtain, run):
        taken.append(step)
        state = after
    return Recovered(start_window=start_window, steps=tuple(taken), state=state)


def heal(
    anchors: Iterable[OuterState],
    steps: Sequence[LineageStep],
    obtain: Obtain,
    run: Run,
    is_right: Callable[[OuterState], bool],
) -> Recovered | None:
    """Replay `steps` from the newest anchor with a right state at the end, or None.

    `anchors`: newest first.
    """
    for anchor in anchors:
        recovered = replay_steps(anchor, steps_after(anchor, steps), obtain, run)
        if is_right(recovered.state):
            return recovered
    return None


def take_back(
    anchors: Iterable[OuterState],
    steps: Sequence[LineageStep],
    window: int,
    obtain: Obtain,
    run: Run,
) -> Recovered | None:
    """Replay `steps` without the payloads of `window`; None if every anchor contains them."""
    emptied = [step.emptied() if step.window == window else step for step in steps]
    for anchor in anchors:
        if anchor.window <= window + 1:
            return replay_steps(anchor, steps_after(anchor, emptied), obtain, run)
    return None


def steps_after(anchor: OuterState, steps: Iterable[LineageStep]) -> list[LineageStep]:
    """The steps after an anchor."""
    return [step for step in steps if step.window >= anchor.window - 1]
