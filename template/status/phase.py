"""Where a block lies in its window, and what a role has to do next, by when. Pure."""

from dataclasses import dataclass
from typing import Final

from template.protocol.schedule import Schedule

BEFORE: Final = "before the run"
UPLOAD: Final = "upload"
SCORING: Final = "scoring"
COUNTED: Final = "counted"
AFTER: Final = "after the run"


@dataclass(frozen=True, kw_only=True, slots=True)
class Deadline:
    """The last block for something of a window, and what it is."""

    block: int
    window: int
    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """`window`: the one that holds the block, -1 before the run. `name`: of the part of the window;
    `text`: what everybody does in it. `deadlines`: of a role, the next first.
    """

    window: int
    name: str
    text: str
    deadlines: tuple[Deadline, ...]


def phase_at(schedule: Schedule, num_windows: int, block: int, role: str) -> Phase:
    """The phase at a block, with the role's deadlines ahead."""
    window = schedule.window_of(block)
    if window < 0:
        begins = Deadline(block=schedule.first_block(0), window=0, what="window 0 begins")
        return Phase(window=-1, name=BEFORE, text="the run has not begun", deadlines=(begins,))
    if window > num_windows:
        return Phase(window=window, name=AFTER, text="the run has ended", deadlines=())
    before = window - 1
    if block < schedule.held_out_block(before):
        name, text = UPLOAD, f"payloads of window {before} go up, and miners train window {window}"
    elif block < schedule.vote_block(before):
        name = SCORING
        text = f"validators score window {before} and vote, and miners train window {window}"
    else:
        name = COUNTED
        text = f"the votes on window {before} stand, and miners finish window {window}"
    found = sorted(_deadlines(schedule, window, role), key=lambda each: each.block)
    ahead = tuple(each for each in found if each.block >= block and 0 <= each.window < num_windows)
    if window == num_windows:
        text = f"the last window, {before}, is scored and voted on"
    return Phase(window=window, name=name, text=text, deadlines=ahead)


def _deadlines(schedule: Schedule, window: int, role: str) -> list[Deadline]:
    before = window - 1
    if role == "miner":
        return [
            Deadline(
                block=schedule.held_out_block(before),
                window=before,
                what=f"the payload of window {before} must be in the bucket",
            ),
            Deadline(
                block=schedule.commit_block(window),
                window=window,
                what=f"the payload of window {window} must be committed",
            ),
        ]
    if role == "validator":
        return [
            Deadline(
                block=schedule.vote_block(each),
                window=each,
                what=f"the votes on window {each} are counted",
            )
            for each in (before, window)
        ]
    begins = schedule.first_block(window + 1)
    return [Deadline(block=begins, window=window + 1, what=f"window {window + 1} begins")]
