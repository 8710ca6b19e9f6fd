"""A miner's window in seconds: what blocks training in the code of today, and what passes beside.

The lanes are those of `Miner` (`template.base.miner`). One trains: load, train, move to newer
theta, subtract, encode, and begin the next window as soon as its pages and votes are final. Beside
it one saves and commits, one uploads, and the main thread follows. On a CPU, training rests while
theta is made or the moments are written. Training ends `COMMIT_MARGIN_BLOCKS` before the window
does, and earlier by what encoding and saving took lately: the next window's has begun by then.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

from template.base.deadline import COMMIT_MARGIN_BLOCKS
from template.planning.case import Case
from template.planning.costs import NUM_PAYLOADS
from template.planning.memory import CAST_BYTES, MODEL_BYTES, miner_memory
from template.planning.phases import INNER_STEPS, Phase, blocking_s
from template.scoring.window import FETCH_SHARE
from template.training.flops import flops_per_token

ROLE: Final = "miner"
SAVED_BEFORE: Final = 1
"""Copies of theta's size that a commitment waits for: error feedback."""
SAVED_AFTER: Final = 3
"""And those written afterwards: theta and both moments."""
MOMENTS: Final = 2
"""Moments, in copies of theta's size."""
COMMIT_BLOCKS: Final = 1
"""Blocks for the commitment itself to get on chain."""

FINALITY: Final = "finality"
UPLOAD: Final = "upload"
FETCH: Final = "fetch accepted payloads"
OPEN: Final = "open payloads"
STEP: Final = "outer step"
DIGEST: Final = "digest"
ANCHOR: Final = "anchor"
SAVE_AFTER: Final = "save, rest"
LOAD: Final = "load"
PAGES: Final = "fetch pages"
PREVIEW: Final = "preview"
MOVE: Final = "move to theta"
SUBTRACT: Final = "subtract"
COPY: Final = "copy moments"
ENCODE: Final = "encode"
SAVE_BEFORE: Final = "save, new"
COMMIT: Final = "commit"
WAIT: Final = "wait for the draw"
BEFORE_COMMIT: Final = (SUBTRACT, COPY, ENCODE, SAVE_BEFORE)
"""What has to fit between the end of training and the commitment."""
FOLLOW: Final = (FETCH, OPEN, STEP, DIGEST, ANCHOR)
SAVES: Final = (SAVE_BEFORE, SAVE_AFTER)


@dataclass(frozen=True, kw_only=True, slots=True)
class MinerWindow:
    """A window. `steps_s`: the plan's inner steps on this machine; `margin_s`: time from the end of
    training until the digest must be sent, of which `before_commit_s` are needed. `upload_room_s`:
    time for the upload, from the window's end until validators stop reading.
    """

    phases: tuple[Phase, ...]
    window_s: float
    steps_s: float
    margin_s: float
    before_commit_s: float
    upload_room_s: float

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

    def seconds_of(self, names: Sequence[str]) -> float:
        """Seconds of these phases, hidden or not."""
        return sum(phase.seconds for phase in self.phases if phase.name in names)

    @property
    def is_up_in_time(self) -> bool:
        """Whether validators can read the payload."""
        return self.seconds_of((UPLOAD,)) <= self.upload_room_s

    @property
    def keeps_up(self) -> bool:
        """Whether following, and saving, take no longer than a window."""
        return max(map(self.seconds_of, (FOLLOW, SAVES))) <= self.window_s


def miner_window(case: Case) -> MinerWindow:
    """A window of the steady state, with every payload good."""
    schedule = case.spec.schedule
    steps_s = inner_steps_s(case)
    phases = [*_follow(case), *_train(case), *_finish(case)]
    before_s = _sum_of(phases, BEFORE_COMMIT)
    margin_blocks = _margin_blocks(case, before_s)
    reading = schedule.upload_blocks + FETCH_SHARE * schedule.scoring_blocks
    window = MinerWindow(
        phases=(),
        window_s=case.window_s,
        steps_s=steps_s,
        margin_s=case.blocks_s(margin_blocks - COMMIT_BLOCKS),
        before_commit_s=before_s,
        upload_room_s=case.blocks_s(reading - schedule.finality_lag_blocks),
    )
    return _filled(window, [*phases, _wait(case, phases, margin_blocks)])


def inner_steps_s(case: Case) -> float:
    """Seconds of the plan's inner steps; of a block range the mean of the parts, drawn alike.

    The copies of frozen layers from the host hide behind nothing.
    """
    if case.parts == 1:
        flops: float = flops_per_token(case.spec)
    else:
        flops = fmean(part.flops_per_token for part in case.ranges)
    computing_s = (
        case.window_tokens * flops / case.machine.train_flops(case.spec.training.precision)
    )
    return computing_s + _streaming_s(case)


def _streaming_s(case: Case) -> float:
    """Seconds in which frozen layers come from the host, in all passes of a window."""
    if case.parts == 1 or case.frozen != "host" or case.machine.device.is_cpu:
        return 0.0
    training = case.spec.training
    passes = math.ceil(training.batch_pages / max(1, miner_memory(case).micro_batch))
    per_parameter = CAST_BYTES if training.precision == "bf16" else MODEL_BYTES
    moved = fmean(part.streamed + part.streamed_again for part in case.ranges)
    num_bytes = training.inner_steps * passes * per_parameter * moved
    return num_bytes / case.machine.host_bytes_per_s


def _filled(window: MinerWindow, phases: Sequence[Phase]) -> MinerWindow:
    """The window with these phases, the inner steps among them."""
    filled = replace(window, phases=tuple(phases))
    steps = Phase(name=INNER_STEPS, seconds=filled.training_s, why="the time that is left")
    place = [phase.name for phase in phases].index(PREVIEW)
    return replace(window, phases=(*phases[:place], steps, *phases[place:]))


def _beside(name: str, seconds: float, why: str, *, down: float = 0.0, up: float = 0.0) -> Phase:
    return Phase(
        name=name, seconds=seconds, hidden_s=seconds, why=why, down_bytes=down, up_bytes=up
    )


def _shared(case: Case, name: str, seconds: float, why: str) -> Phase:
    """Beside training; on a CPU training rests meanwhile."""
    if case.machine.device.is_cpu:
        return Phase(name=name, seconds=seconds, why="training rests: one memory")
    return _beside(name, seconds, why)


def _follow(case: Case) -> list[Phase]:
    """From the end of the last window to theta of this one, and the upload."""
    spec, main = case.spec, "in the main thread"
    opening_s = case.host_s(ROLE, "open payloads") * case.accepted / NUM_PAYLOADS
    every = spec.checkpoint.every_windows
    others = max(0, case.accepted - 1)
    num_bytes = others * case.payload_bytes
    digest_s = case.host_s(ROLE, "digest") / spec.checkpoint.digest_every_windows
    anchor_s = case.write_s("validator", case.params_bytes) / every
    lag_s = case.blocks_s(spec.schedule.finality_lag_blocks)
    upload_s = case.line.up_s(case.own_payload_bytes)
    return [
        _beside(FINALITY, lag_s, "of the last window's end, before the upload"),
        _beside(UPLOAD, upload_s, "a lane of its own", up=case.own_payload_bytes),
        _beside(
            FETCH, case.line.down_s(num_bytes), "other threads; the rest " + main, down=num_bytes
        ),
        _beside(OPEN, opening_s, main),
        _shared(case, STEP, case.host_s(ROLE, "outer step"), main),
        _beside(DIGEST, digest_s, main),
        _beside(ANCHOR, anchor_s, f"a share of one in {every} windows"),
    ]


def _train(case: Case) -> list[Phase]:
    opening_s = case.host_s(ROLE, "open payloads") * case.accepted / NUM_PAYLOADS
    pages_bytes = case.window_segments * case.segment_bytes
    moved_s = case.host_s(ROLE, "outer step") + case.device_copy_s
    return [
        Phase(name=LOAD, seconds=case.device_copy_s, why="theta to the devices"),
        _beside(PAGES, case.line.down_s(pages_bytes), "ahead, in other threads", down=pages_bytes),
        Phase(
            name=PREVIEW,
            seconds=opening_s + moved_s,
            why="the expected theta, between two inner steps",
        ),
        Phase(name=MOVE, seconds=moved_s, why="the decided theta, between two inner steps"),
    ]


def _finish(case: Case) -> list[Phase]:
    """From the last inner step to the saved payload, and what is saved after it."""
    share = case.trained_share
    copy_s = 0.0 if case.machine.device.is_cpu else MOMENTS * share * case.device_copy_s
    before_s = case.write_s(ROLE, SAVED_BEFORE * case.params_bytes)
    after_s = case.write_s(ROLE, SAVED_AFTER * case.params_bytes)
    return [
        Phase(
            name=SUBTRACT,
            seconds=share * case.device_copy_s + case.host_s(ROLE, "outer step"),
            why="start - end; the start is made again",
        ),
        Phase(name=COPY, seconds=copy_s, why="to the host, to be saved beside training"),
        Phase(
            name=ENCODE,
            seconds=share * case.host_s(ROLE, "encode"),
            why="after the last inner step",
        ),
        _shared(case, SAVE_BEFORE, before_s, "error feedback, before its digest is on chain"),
        _beside(COMMIT, case.blocks_s(COMMIT_BLOCKS), "a block"),
        _shared(case, SAVE_AFTER, after_s, "theta and moments, after the commitment"),
    ]


def _sum_of(phases: Sequence[Phase], names: Sequence[str]) -> float:
    return sum(phase.seconds for phase in phases if phase.name in names)


def _margin_blocks(case: Case, before_s: float) -> int:
    """Blocks from the end of training to the end of the window, as `template.base.deadline`."""
    finish = math.floor(before_s / case.block_s)
    return COMMIT_MARGIN_BLOCKS + min(finish, case.spec.schedule.blocks_per_window // 2)


def _wait(case: Case, phases: Sequence[Phase], margin_blocks: int) -> Phase:
    """Between the end of one window's work and the draw of the next one's pages, made final."""
    schedule = case.spec.schedule
    work_s = sum(p.blocking_s for p in phases if p.name in (SUBTRACT, COPY, ENCODE))
    ahead_s = case.blocks_s(schedule.vote_margin_blocks - schedule.finality_lag_blocks)
    return Phase(
        name=WAIT,
        seconds=max(0.0, case.blocks_s(margin_blocks) - work_s - ahead_s),
        why=f"training ends {margin_blocks} blocks early, the draw is final "
        f"{schedule.vote_margin_blocks - schedule.finality_lag_blocks} before the window",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A change of the code, and the share of a window left for inner steps with it and with the
    changes before it.
    """

    name: str
    utilisation_limit: float


ON_DEVICE: Final = frozenset({PREVIEW, MOVE, SUBTRACT, ENCODE})
"""Work on theta that the devices can do, each on its shard."""
TOUCHED_BYTES: Final = 24
"""For each parameter of such a phase: four float32 read and two written."""
DEVICE_SHARE: Final = 0.5
"""Of the memory bandwidth, which the codec on a device is meant to reach."""


def changes(case: Case) -> list[Change]:
    """What would change the share of inner steps, one thing after another."""
    window = miner_window(case)
    phases = [p for p in window.phases if p.name != INNER_STEPS]
    found = []
    if not case.machine.device.is_cpu:
        phases = [_on_devices(phase, case) for phase in phases]
        name = "theta and error feedback on the devices, at half their bandwidth"
        found.append(_change(name, case, phases))
    phases = [phase for phase in phases if phase.name != WAIT]
    found.append(_change("the draw is final when training ends", case, phases))
    return found


def _on_devices(phase: Phase, case: Case) -> Phase:
    if phase.name == LOAD:
        return phase.behind()  # theta stays where it is
    if phase.name not in ON_DEVICE:
        return phase
    device, count = case.machine.device, case.machine.count
    moved_bytes = TOUCHED_BYTES * case.parameters / count
    return replace(phase, seconds=moved_bytes / (DEVICE_SHARE * device.bandwidth_bytes_per_s))


def _change(name: str, case: Case, phases: Sequence[Phase]) -> Change:
    limit = max(0.0, 1.0 - blocking_s(phases) / case.window_s)
    return Change(name=name, utilisation_limit=limit)
