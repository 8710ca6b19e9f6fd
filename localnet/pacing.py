"""The block time that this machine can keep, from what a neuron's work costs here.

Pure: `measure` measures, `launcher` acts. All costs are seconds of CPU, which other programs do not
change much; what others leave of the machine is a number of cores.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from localnet.roster import Participant
from template.errors import ConfigError
from template.protocol.spec import RunSpec

MARGIN: Final = 1.5
"""A window takes so many times what all neurons' CPU takes. Work comes in bursts: at the factor 1
votes come late."""
NEURON_SHARE: Final = 0.04
"""What a neuron does in a window beside training and scoring (chain, bucket, codec), as a share of
its start. Measured: 0.2 s of CPU, and 4.5 s for the start."""
SERVERS_SHARE: Final = 0.13
"""The same for chain and bucket server together: 0.6 s a window."""
MIN_AUTO_S: Final = 0.2
"""Below, waits for a block and not the machine's speed decide."""
MAX_AUTO_S: Final = 60.0
ROUND_S: Final = 0.05
STRETCH: Final = 1.5
"""One window without an accepted payload, or `LATE_WINDOWS`, make the blocks so much longer."""
LATE_WINDOWS: Final = 2
"""So many windows running of which fewer than half of the honest payloads were in time. One may be
an accident: a process that starts again, a bucket that is busy with another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """What one neuron's work costs here, and what is left of the machine.

    `loaded_cpu_s`: a neuron's start. `step_cpu_s`: an inner step. `page_cpu_s`: the loss of a page.
    `core_share`: what one process gets of a core, `cores` what neurons get of the machine.
    """

    loaded_cpu_s: float
    step_cpu_s: float
    page_cpu_s: float
    core_share: float
    cores: float
    memory_bytes: int


def costs_of(rows: Sequence[dict[str, float]], cores: float) -> Costs:
    """The figures of `measure` by processes that ran at once, on a machine of so many cores."""

    def mean(key: str) -> float:
        return sum(row[key] for row in rows) / len(rows)

    share = max(mean("share"), 0.01)
    return Costs(
        loaded_cpu_s=mean("loaded_cpu_s"),
        step_cpu_s=mean("step_cpu_s"),
        page_cpu_s=mean("page_cpu_s"),
        core_share=share,
        # One process for each core ran: together they got what all neurons will get.
        cores=share * cores,
        memory_bytes=int(max(row["memory_bytes"] for row in rows)),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """Seconds of CPU in a window: one miner's inner loop, one validator's scoring before the vote
    and point of the loss curve after the vote, and everything of all processes together.

    `burst_s`: the inner loops of all miners and the scoring of all validators, which may fall
    together.
    """

    inner_s: float
    scoring_s: float
    curve_s: float
    burst_s: float
    total_s: float


def load_of(spec: RunSpec, roster: Sequence[Participant], costs: Costs) -> Load:
    """What a window of this run takes of the CPU; who misbehaves counts as honest."""
    miners = [p for p in roster if p.role == "miner"]
    validators = [p for p in roster if p.role == "validator"]
    evaluation = spec.evaluation
    payloads = min(len(miners), evaluation.max_payloads)
    held_out, claimed = evaluation.held_out_pages, evaluation.claimed_pages
    # On held-out pages at theta, half-way through the last step, and after each payload's; on the
    # claims of each payload at theta and after its step.
    scored = (2 + payloads) * held_out + 2 * payloads * claimed
    inner_s = costs.step_cpu_s * spec.training.inner_steps
    scoring_s, curve_s = (costs.page_cpu_s * pages for pages in (scored, evaluation.curve_pages))
    burst_s = len(miners) * inner_s + len(validators) * scoring_s
    processes = sum(p.ranks for p in (*miners, *validators))
    beside_s = (processes * NEURON_SHARE + SERVERS_SHARE) * costs.loaded_cpu_s
    return Load(
        inner_s=inner_s,
        scoring_s=scoring_s,
        curve_s=curve_s,
        burst_s=burst_s,
        total_s=burst_s + len(validators) * curve_s + beside_s,
    )


def least_block_s(spec: RunSpec, load: Load, costs: Costs) -> float:
    """The block time in seconds below which no neuron could keep up.

    All CPU fits into a window, and one process' work into the process' part of a core.
    """
    alone_s = max(load.inner_s, load.scoring_s + load.curve_s) / costs.core_share
    return max(load.total_s / costs.cores, alone_s) / spec.schedule.blocks_per_window


def voting_block_s(spec: RunSpec, load: Load, costs: Costs) -> float:
    """The block time at which votes come in time even if all miners train meanwhile."""
    voting_s = max(load.burst_s / costs.cores, load.scoring_s / costs.core_share)
    return voting_s / spec.schedule.scoring_blocks


def choose_block_s(spec: RunSpec, load: Load, costs: Costs) -> float:
    """The block time of `--block-time auto`. ConfigError for a machine that is too slow."""
    bound_s = max(MARGIN * least_block_s(spec, load, costs), voting_block_s(spec, load, costs))
    chosen_s = max(MIN_AUTO_S, math.ceil(bound_s / ROUND_S - 1e-9) * ROUND_S)
    if chosen_s > MAX_AUTO_S:
        raise ConfigError(
            f"cores: a window takes {load.total_s:.0f} s of CPU, and {costs.cores:.1f} cores are "
            f"free: blocks would have to take {chosen_s:.0f} s, and take {MAX_AUTO_S:.0f} at most. "
            "End other programs, take fewer --miners and --validators, or a --plan with a smaller "
            "model or fewer inner_steps"
        )
    return round(chosen_s, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """Honest payloads of a window: those committed, and those of them that were read and scored in
    time, by a validator's word. With none committed, nothing is known.
    """

    num_committed: int = 0
    num_in_time: int = 0

    @property
    def is_late(self) -> bool:
        """Whether fewer than half were in time."""
        return 2 * self.num_in_time < self.num_committed


UNKNOWN: Final = Arrival()


class Strain:
    """Notices windows in which no payload was accepted, or too few were in time, and says how long
    blocks have to be.

    A busy machine makes scoring and votes late before anything else shows. `num_windows`: the
    first window and windows after the last are no sign.
    """

    def __init__(self, block_s: float, num_windows: int) -> None:
        self.block_s = block_s
        self._num_windows = num_windows
        self._seen = 0
        self._num_late = 0
        """Late windows running, up to the last one seen."""

    def note(
        self, window: int, num_accepted: int, current_window: int, arrival: Arrival = UNKNOWN
    ) -> float | None:
        """The new block time after a window's decision; None for the same as before.

        Windows that had begun under the old block time say nothing about the new one.
        """
        if not self._seen < window < self._num_windows:
            return None
        is_next, self._seen = window == self._seen + 1, window
        self._num_late = (self._num_late if is_next else 0) + 1 if arrival.is_late else 0
        is_strained = num_accepted == 0 or self._num_late >= LATE_WINDOWS
        if not is_strained or self.block_s >= MAX_AUTO_S:
            return None
        self._seen, self._num_late = max(window, current_window), 0
        self.block_s = round(min(self.block_s * STRETCH, MAX_AUTO_S), 2)
        return self.block_s
