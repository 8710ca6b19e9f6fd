"""A miner's window in seconds: what blocks training in the code of today, and what training hides.

The order is that of `Miner.step` (`template.base.miner`), which does all in one thread but the
fetching of pages and of the others' payloads: follow, load, train, encode, save, commit, wait for
the window's end to be final, upload. Training ends `COMMIT_MARGIN_BLOCKS` before the window does,
and earlier by what encoding and saving took lately.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from template.base.deadline import COMMIT_MARGIN_BLOCKS
from template.planning.case import Case
from template.planning.costs import NUM_PAYLOADS
from template.planning.phases import INNER_STEPS, Phase, blocking_s, hide
from template.training.flops import flops_per_token

ROLE: Final = "miner"
SAVED_BEFORE: Final = 3
"""Copies of theta's size that a new payload puts on disk: error feedback and both moments."""
SAVED_AFTER: Final = 1
"""And a decision: theta. What did not change is not written again."""
COMMIT_BLOCKS: Final = 1
"""Blocks for the commitment itself to get on chain."""

FINALITY: Final = "finality"
UPLOAD: Final = "upload"
FETCH: Final = "fetch accepted payloads"
OPEN: Final = "open payloads"
STEP: Final = "outer step"
DIGEST: Final = "digest"
ANCHOR: Final = "anchor"
SAVE_AFTER: Final = "save, decided"
LOAD: Final = "load"
PAGES: Final = "fetch pages"
PREVIEW: Final = "preview"
SUBTRACT: Final = "subtract"
ENCODE: Final = "encode"
SAVE_BEFORE: Final = "save, new"
COMMIT: Final = "commit"
BEFORE_COMMIT: Final = (SUBTRACT, ENCODE, SAVE_BEFORE)
"""What has to fit between the end of training and the commitment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MinerWindow:
    """A window. `steps_s`: the plan's inner steps on this machine; `margin_s`: time from the end of
    training until the digest must be sent, of which `before_commit_s` are needed.
    """

    phases: tuple[Phase, ...]
    window_s: float
    steps_s: float
    margin_s: float
    before_commit_s: float

    @property
    def room_s(self) -> float:
        """Seconds that nothing takes from the inner steps."""
        return max(0.0, self.window_s - blocking_s(self.phases))

    @property
    def training_s(self) -> float:
        return min(self.room_s, self.steps_s)

    @property
    def utilisation(self) -> float:
        """Share of the window in the plan's inner steps."""
        return self.training_s / self.window_s

    @property
    def utilisation_limit(self) -> float:
        """The same for a plan with as many inner steps as fit."""
        return self.room_s / self.window_s

    @property
    def done_share(self) -> float:
        """Share of the plan's inner steps that are done in time."""
        return self.training_s / self.steps_s

    @property
    def is_in_time(self) -> bool:
        """Whether encoding and saving end early enough for the commitment to count."""
        return self.before_commit_s <= self.margin_s


def miner_window(case: Case) -> MinerWindow:
    """A window of the steady state, with every payload good."""
    steps_s = (
        case.window_tokens
        * flops_per_token(case.spec)
        / case.machine.train_flops(case.spec.training.precision)
    )
    before = [*_follow(case), *_train(case), *_before_commit(case)]
    window = MinerWindow(
        phases=(),
        window_s=case.window_s,
        steps_s=steps_s,
        margin_s=case.blocks_s(_margin_blocks(case, before) - COMMIT_BLOCKS),
        before_commit_s=_before_commit_s(before),
    )
    return _filled(window, [*before, _commit(case, before, _margin_blocks(case, before))])


def _filled(window: MinerWindow, phases: Sequence[Phase]) -> MinerWindow:
    """The window with these phases, the inner steps among them."""
    filled = replace(window, phases=tuple(phases))
    steps = Phase(name=INNER_STEPS, seconds=filled.training_s, why="the time that is left")
    place = [phase.name for phase in phases].index(PREVIEW)
    return replace(window, phases=(*phases[:place], steps, *phases[place:]))


def _follow(case: Case) -> list[Phase]:
    """From the end of the last window to theta of this one."""
    spec, blocking = case.spec, "in the loop's one thread"
    opening_s = case.host_s(ROLE, "open payloads") * case.accepted / NUM_PAYLOADS
    every = spec.checkpoint.every_windows
    return [
        Phase(
            name=FINALITY,
            seconds=case.blocks_s(spec.schedule.finality_lag_blocks),
            why="of the last window's end; healthy: 2 or 3 blocks",
        ),
        Phase(
            name=UPLOAD,
            seconds=case.line.up_s(case.payload_bytes),
            up_bytes=case.payload_bytes,
            why=blocking,
        ),
        _fetch(case),
        Phase(name=OPEN, seconds=opening_s, why=blocking),
        Phase(name=STEP, seconds=case.host_s(ROLE, "outer step"), why=blocking),
        Phase(
            name=DIGEST,
            seconds=case.host_s(ROLE, "digest") / spec.checkpoint.digest_every_windows,
            why=blocking,
        ),
        Phase(
            name=ANCHOR,
            seconds=case.write_s("validator", case.params_bytes) / every,
            why=f"a share of one in {every} windows",
        ),
        Phase(
            name=SAVE_AFTER,
            seconds=case.write_s(ROLE, SAVED_AFTER * case.params_bytes),
            why=blocking,
        ),
    ]


def _fetch(case: Case) -> Phase:
    """The others' payloads: behind training until the preview ends, the rest after the votes."""
    others = max(0, case.accepted - 1)
    seconds = case.line.down_s(others * case.payload_bytes)
    ahead_s = case.blocks_s(case.spec.schedule.scoring_blocks // 2)
    return Phase(
        name=FETCH,
        seconds=seconds,
        hidden_s=min(seconds, ahead_s),
        down_bytes=others * case.payload_bytes,
        why="the preview has half of scoring_blocks",
    )


def _train(case: Case) -> list[Phase]:
    opening_s = case.host_s(ROLE, "open payloads") * case.accepted / NUM_PAYLOADS
    pages_bytes = case.window_segments * case.segment_bytes
    pages_s = case.line.down_s(pages_bytes)
    return [
        Phase(name=LOAD, seconds=case.device_copy_s, why="theta to the devices"),
        Phase(
            name=PAGES,
            seconds=pages_s,
            hidden_s=pages_s,
            down_bytes=pages_bytes,
            why="ahead, in other threads",
        ),
        Phase(
            name=PREVIEW,
            seconds=opening_s + case.host_s(ROLE, "outer step") + case.device_copy_s,
            why="newer theta between two inner steps",
        ),
    ]


def _before_commit(case: Case) -> list[Phase]:
    return [
        Phase(
            name=SUBTRACT,
            seconds=case.device_copy_s + case.host_s(ROLE, "outer step"),
            why="start - end; the start is made again",
        ),
        Phase(name=ENCODE, seconds=case.host_s(ROLE, "encode"), why="after the last inner step"),
        Phase(
            name=SAVE_BEFORE,
            seconds=case.write_s(ROLE, SAVED_BEFORE * case.params_bytes),
            why="on disk before its digest is on chain",
        ),
    ]


def _before_commit_s(phases: Iterable[Phase]) -> float:
    return sum(phase.blocking_s for phase in phases if phase.name in BEFORE_COMMIT)


def _margin_blocks(case: Case, phases: Iterable[Phase]) -> int:
    """Blocks from the end of training to the end of the window, as `template.base.work` keeps."""
    finish = math.floor(_before_commit_s(phases) / case.block_s)
    return COMMIT_MARGIN_BLOCKS + min(finish, case.spec.schedule.blocks_per_window // 2)


def _commit(case: Case, phases: Iterable[Phase], margin_blocks: int) -> Phase:
    """What is left of the margin after the work in it; a block at least."""
    needed_s = _before_commit_s(phases)
    return Phase(
        name=COMMIT,
        seconds=max(case.blocks_s(COMMIT_BLOCKS), case.blocks_s(margin_blocks) - needed_s),
        why=f"{margin_blocks} blocks are left for it, less the above",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A change of the code, and the share of a window left for inner steps with it and with the
    changes before it.
    """

    name: str
    utilisation_limit: float


_CHANGES: Final = (
    ("saves beside training", (SAVE_BEFORE, SAVE_AFTER, ANCHOR)),
    ("upload beside training", (UPLOAD,)),
    ("the next window begins without waiting for finality", (FINALITY,)),
    ("fetch the rest, open, step and digest beside training", (FETCH, OPEN, STEP, DIGEST)),
)
ON_DEVICE: Final = frozenset({PREVIEW, SUBTRACT, ENCODE})
"""Work on theta that the devices can do, each on its shard."""
TOUCHED_BYTES: Final = 24
"""For each parameter of such a phase: four float32 read and two written."""
DEVICE_SHARE: Final = 0.5
"""Of the memory bandwidth, which the codec on a device is meant to reach."""


def changes(case: Case) -> list[Change]:
    """What would change the share of inner steps, one thing after another; none is in the code."""
    phases = [p for p in miner_window(case).phases if p.name not in (INNER_STEPS, COMMIT)]
    found = []
    for name, hidden in _CHANGES:
        phases = hide(phases, hidden)
        found.append(_change(name, case, phases))
    if not case.machine.device.is_cpu:
        phases = [_on_devices(phase, case) for phase in phases]
        name = "load, preview and encoding on the devices' shards, at half their bandwidth"
        found.append(_change(name, case, phases))
    name = "training ends as late as encoding allows"
    found.append(_change(name, case, phases, COMMIT_BLOCKS))
    return found


def _on_devices(phase: Phase, case: Case) -> Phase:
    if phase.name == LOAD:
        return phase.behind()  # theta stays where it is
    if phase.name not in ON_DEVICE:
        return phase
    device, count = case.machine.device, case.machine.count
    moved_bytes = TOUCHED_BYTES * case.parameters / count
    return replace(phase, seconds=moved_bytes / (DEVICE_SHARE * device.bandwidth_bytes_per_s))


def _change(
    name: str, case: Case, phases: Sequence[Phase], margin_blocks: int | None = None
) -> Change:
    if margin_blocks is None:
        margin_blocks = _margin_blocks(case, phases)
    lost_s = blocking_s([*phases, _commit(case, phases, margin_blocks)])
    return Change(name=name, utilisation_limit=max(0.0, 1.0 - lost_s / case.window_s))
