"""The pace of a localnet: measured on this machine, then given to the chain by its pace file.

Before the first window the chain runs at the launcher's convenience; from there on at the block
time that `--block-time` asks for, or that the machine can keep.
"""

import json
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from typing import Final, TypedDict

from evaluation.verdict import MISSING, NOT_DRAWN, NOT_SCORED
from localnet.chain.pace import Pace, write_pace
from localnet.commands import measure_command, pace_path
from localnet.config import LocalnetConfig
from localnet.events import Row, accepted_uids
from localnet.machine import Machine, cpu_s, demand_disk, demand_memory, look_at_machine
from localnet.pacing import (
    MARGIN,
    Arrival,
    Costs,
    Load,
    Strain,
    choose_block_s,
    costs_of,
    least_block_s,
    load_of,
)
from localnet.processes import Child, Children, wait_for_line
from localnet.roster import HONEST, Participant
from template.base.preflight import least_state_bytes
from template.protocol.parts import FLOAT_BYTES
from template.protocol.spec import RunSpec
from template.protocol.spec.model import count_parameters

MEASURE_LIMIT_S: Final = 600.0
"""Catches a hang; a measurement takes 8 s on two idle cores."""
REGISTERING_BLOCK_S: Final = 0.1
STARTING_BLOCK_S: Final = 0.5
"""While neurons start: their first records get into a block soon."""
STARTING_LIMIT_S: Final = 600.0
STARTING_MARGIN: Final = 6.0
"""Neurons may take so many times what their start takes of the CPU, or STARTING_LIMIT_S."""
LEAD_BLOCKS: Final = 8
"""Between the last block in a hurry and the draw of the pages of window 0."""
BUSIER: Final = 0.7
"""A start of the neurons at less than this share of the measured cores lowers the cores."""
FIXED_DISK_BYTES: Final = 200_000_000
"""Logs, dataset and journal of a small run: measured 0.09 GB in 8 windows."""
KEPT_CHECKPOINTS: Final = 3


class PaceReport(TypedDict):
    """How the run was paced. `block_time_s`: at the end of the run; `asked_s`: by --block-time,
    None for auto. `least_block_s`: what the measurement demands, without margin. `costs` and
    `load`: as in `pacing`, seconds of CPU. `startup_s`: until all neurons were ready;
    `startup_cores`: their CPU over that time. `changes`: [block, new block time] in the run.
    """

    block_time_s: float
    window_s: float
    asked_s: float | None
    least_block_s: float
    costs: dict[str, float]
    load: dict[str, float]
    startup_s: float
    startup_cores: float
    changes: list[tuple[int, float]]


class Pacer:
    """Measures, chooses the block time, and is alone in writing the pace file."""

    def __init__(self, config: LocalnetConfig, spec: RunSpec, tell: Callable[[str], None]) -> None:
        """`spec`: the run's, whose digests and first block may still be open."""
        self._config, self._spec, self._tell = config, spec, tell
        self._path = pace_path(config)
        self._startup = (0.0, 0.0)
        self._changes: list[tuple[int, float]] = []
        self._strain: Strain | None = None
        self._verdicts: dict[int, dict[str, str]] = {}
        """Window -> hotkey -> status, of honest miners' payloads without a decision."""

    def measure(self, children: Children, owner: str) -> None:
        """Measure and choose. ConfigError names what this machine lacks, and the remedy."""
        machine, neurons = look_at_machine(self._config.out), _neurons(self._config)
        count = max(1, min(math.ceil(machine.cores), len(neurons)))
        started = [
            children.start(measure_command(self._config, number, owner)) for number in range(count)
        ]
        lines = [wait_for_line(child, "measured ", MEASURE_LIMIT_S) for child in started]
        rows = [json.loads(line.partition(" ")[2]) for line in lines]
        self.take(costs_of(rows, machine.cores), machine)

    def take(self, costs: Costs, machine: Machine) -> None:
        """Choose by a measurement of this machine, and tell. Raises as `measure`."""
        config, neurons = self._config, _neurons(self._config)
        processes = sum(participant.ranks for participant in neurons)
        demand_memory(machine, processes, costs.memory_bytes)
        demand_disk(machine, config.out, needed_disk_bytes(self._spec, neurons))
        self._machine, self._costs = machine, costs
        self._load = load_of(self._spec, neurons, costs)
        self._block_s = config.block_time_s or choose_block_s(self._spec, self._load, costs)
        self._tell(measured_words(self._spec, neurons, costs, self._load, machine))
        self._tell(self._block_words())

    @property
    def block_s(self) -> float:
        """The block time of the run."""
        return self._block_s

    @property
    def starting_limit_s(self) -> float:
        """How long the neurons may take until the last is ready."""
        starts_s = len(_neurons(self._config)) * self._costs.loaded_cpu_s / self._costs.cores
        return max(STARTING_LIMIT_S, STARTING_MARGIN * starts_s)

    def pass_to(self, block: int) -> None:
        """Before the neurons start: make the blocks up to this one at once."""
        write_pace(self._path, Pace(block_time_s=REGISTERING_BLOCK_S, hurry_to=block))

    def await_neurons(self, head: int) -> int:
        """From now on the neurons start; the first block of window 0, far ahead."""
        write_pace(self._path, Pace(block_time_s=STARTING_BLOCK_S))
        lead = self._spec.schedule.vote_margin_blocks + LEAD_BLOCKS
        return head + math.ceil(self.starting_limit_s / STARTING_BLOCK_S) + lead

    def note_start(self, started_s: float, neurons: Sequence[Child]) -> None:
        """All neurons are ready; `started_s`: when they were started, on the monotonic clock."""
        wall_s = max(time.monotonic() - started_s, 0.001)
        cores = sum(cpu_s(child.pid) for child in neurons) / wall_s
        self._startup = (wall_s, cores)
        if self._config.block_time_s is not None or cores <= 0:
            return
        # Fewer neurons leave cores idle while they wait for chain and bucket.
        is_contended = len(neurons) > 2 * self._machine.cores
        is_single = all(participant.ranks == 1 for participant in self._config.roster)
        if is_contended and is_single and cores < BUSIER * self._costs.cores:
            self._costs = replace(self._costs, cores=cores)
            self._block_s = choose_block_s(self._spec, self._load, self._costs)
            self._tell(
                f"the neurons got {cores:.1f} cores while they started: {self._block_words()}"
            )

    def begin(self, start_block: int) -> int:
        """Hurry to shortly before window 0, then keep the run's pace; the block hurried to."""
        block = start_block - self._spec.schedule.vote_margin_blocks - LEAD_BLOCKS
        write_pace(self._path, Pace(block_time_s=self._block_s, hurry_to=block))
        is_honest = any((p.role, p.behaviour) == ("miner", HONEST) for p in self._config.roster)
        if self._config.block_time_s is None and is_honest:
            self._strain = Strain(self._block_s, self._spec.schedule.num_windows)
        return block

    def note_verdicts(self, rows: Sequence[Row], honest: Collection[str]) -> None:
        """A validator's verdicts, which come before the decision; `honest`: the miners' hotkeys."""
        for row in rows:
            is_wanted = row.get("kind") == "verdict" and row["status"] != NOT_DRAWN
            if is_wanted and row["hotkey"] in honest:
                self._verdicts.setdefault(row["window"], {})[row["hotkey"]] = row["status"]

    def note_decisions(self, rows: Sequence[Row], head: int, current_window: int) -> None:
        """Make the blocks longer if a window was decided without any payload, or if too few of the
        payloads were in time, and say so.
        """
        if self._strain is None:
            return
        for row in rows:
            if "state_root" not in row:
                continue
            window, accepted = row["window"], len(accepted_uids(row))
            arrival = self._take_arrival(window)
            longer_s = self._strain.note(window, accepted, current_window, arrival)
            if longer_s is not None:
                self._block_s = longer_s
                self._changes.append((head, longer_s))
                write_pace(self._path, Pace(block_time_s=longer_s))
                what = (
                    f"read and scored {arrival.num_in_time} of {arrival.num_committed} honest "
                    f"payloads in time, and the window before fewer than half too"
                    if accepted
                    else "accepted no payload"
                )
                self._tell(
                    f"window {window} {what}: this machine is busier than measured, so blocks take "
                    f"{longer_s:g} s from here on"
                )

    def _take_arrival(self, window: int) -> Arrival:
        """What is known of a window, once; what is known of windows before is forgotten."""
        statuses = self._verdicts.get(window, {}).values()
        self._verdicts = {w: found for w, found in self._verdicts.items() if w > window}
        late = sum(status == NOT_SCORED or status in MISSING for status in statuses)
        return Arrival(num_committed=len(statuses), num_in_time=len(statuses) - late)

    def report(self) -> PaceReport:
        return {
            "block_time_s": self._block_s,
            "window_s": self._block_s * self._spec.schedule.blocks_per_window,
            "asked_s": self._config.block_time_s,
            "least_block_s": least_block_s(self._spec, self._load, self._costs),
            "costs": asdict(self._costs),
            "load": asdict(self._load),
            "startup_s": self._startup[0],
            "startup_cores": self._startup[1],
            "changes": list(self._changes),
        }

    def _block_words(self) -> str:
        window_s = self._block_s * self._spec.schedule.blocks_per_window
        chosen = f"blocks of {self._block_s:g} s, windows of {window_s:.3g} s"
        asked_s = self._config.block_time_s
        if asked_s is None:
            return f"{chosen}: {MARGIN:g} times what all neurons' CPU needs, or more"
        least_s = least_block_s(self._spec, self._load, self._costs)
        if asked_s >= least_s:
            return f"{chosen}, as --block-time asks for"
        return (
            f"--block-time {asked_s:g}: this machine cannot keep it, and votes may come late: the "
            f"neurons need {least_s:.2g} s; `--block-time auto` takes what they need"
        )


def measured_words(
    spec: RunSpec, neurons: Sequence[Participant], costs: Costs, load: Load, machine: Machine
) -> str:
    """What was measured, in a line."""
    return (
        f"measured: {spec.training.inner_steps} inner steps take {load.inner_s:.2g} s of CPU, a "
        f"validator's scoring {load.scoring_s:.2g} s, a neuron's start {costs.loaded_cpu_s:.2g} s; "
        f"{costs.cores:.1f} of {machine.cores:g} cores are free, and a window of all "
        f"{len(neurons)} neurons takes {load.total_s:.2g} s of CPU"
    )


def needed_disk_bytes(spec: RunSpec, neurons: Sequence[Participant]) -> int:
    """What the folder of a run may take: states, published checkpoints, and the rest."""
    states = sum(least_state_bytes(spec, trains=p.role == "miner") for p in neurons)
    publishers = 1 + sum(p.role == "validator" for p in neurons)
    checkpoint = FLOAT_BYTES * count_parameters(spec.model)
    return FIXED_DISK_BYTES + states + publishers * KEPT_CHECKPOINTS * checkpoint


def _neurons(config: LocalnetConfig) -> list[Participant]:
    return [participant for participant in config.roster if participant.role != "owner"]
