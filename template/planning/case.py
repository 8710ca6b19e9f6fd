"""One question to the planner: a run spec, a machine, a line and a swarm; sizes that follow."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from template.data.assignment import Paging
from template.data.manifest import token_bytes_of
from template.planning.costs import Costs, read_costs
from template.planning.hardware import Line, Machine
from template.planning.ranges import Part, parts_of
from template.protocol.holders import HOLDERS
from template.protocol.spec import RunSpec
from template.protocol.spec.model import count_parameters
from template.training.model import payload_bytes
from template.training.options import Frozen
from template.training.published import checkpoint_limit_bytes
from template.training.theta0 import theta0_bytes

BLOCK_S: Final = 12.0
"""Of a public chain."""
PEERS: Final = 20
VALIDATORS: Final = 8
FLOAT_BYTES: Final = 4
DAY_S: Final = 86_400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Bytes of a run's objects, by the functions of the code that makes and reads them."""

    payload: int
    theta0: int
    checkpoint: int


@lru_cache(maxsize=16)
def sizes_of(spec: RunSpec) -> Sizes:
    """Kept: a search over machines asks again and again."""
    return Sizes(
        payload=payload_bytes(spec),
        theta0=theta0_bytes(spec),
        checkpoint=checkpoint_limit_bytes(spec),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """`peers`: miners, this one included. `validators`: those that vote. `parts` and `frozen`: how
    this machine's miner cuts the model, as in `InnerOptions`; the other miners train all of it.
    """

    spec: RunSpec
    machine: Machine
    line: Line
    peers: int = PEERS
    validators: int = VALIDATORS
    block_s: float = BLOCK_S
    costs: Costs = field(default_factory=read_costs)
    parts: int = 1
    frozen: Frozen = "bf16"

    @property
    def parameters(self) -> int:
        return count_parameters(self.spec.model)

    @property
    def ranges(self) -> tuple[Part, ...]:
        """What this machine's miner trains in turn: the whole model, if that is one part."""
        return parts_of(self.spec, self.parts)

    @property
    def trained_share(self) -> float:
        """Of the model's parameters, in the largest part."""
        return max(part.parameters for part in self.ranges) / self.parameters

    @property
    def payload_bytes(self) -> int:
        """Of a miner of the whole model."""
        return sizes_of(self.spec).payload

    @property
    def own_payload_bytes(self) -> int:
        """Of this machine's miner, at most."""
        return max(part.payload_bytes for part in self.ranges)

    @property
    def params_bytes(self) -> int:
        """theta as float32."""
        return FLOAT_BYTES * self.parameters

    @property
    def theta0_bytes(self) -> int:
        return sizes_of(self.spec).theta0

    @property
    def checkpoint_bytes(self) -> int:
        """A published checkpoint, at most."""
        return sizes_of(self.spec).checkpoint

    @property
    def window_s(self) -> float:
        return self.spec.schedule.blocks_per_window * self.block_s

    @property
    def windows_per_day(self) -> float:
        return DAY_S / self.window_s

    @property
    def drawn(self) -> int:
        """Payloads that a validator reads in a window."""
        return min(self.peers, self.spec.evaluation.max_payloads)

    @property
    def accepted(self) -> int:
        """Payloads of a step, if every payload is good: nobody accepts what nobody read."""
        return min(self.drawn, self.spec.outer.peers_per_step)

    @property
    def holder_share(self) -> float:
        """The share of shared objects that falls to a validator, where all have equal stake."""
        return min(1.0, HOLDERS / self.validators)

    @property
    def segment_bytes(self) -> int:
        data = self.spec.data
        return data.segment_pages * data.page_tokens * token_bytes_of(self.spec.model.vocab_size)

    @property
    def window_segments(self) -> int:
        """Segments that a miner reads in a window."""
        paging = Paging(num_segments=1, segment_pages=self.spec.data.segment_pages)
        return paging.segments_for(self.spec.training.pages_per_window)

    @property
    def window_tokens(self) -> int:
        """Tokens of a miner's inner steps in a window."""
        return self.spec.training.pages_per_window * self.spec.data.page_tokens

    @property
    def device_copy_s(self) -> float:
        """Seconds for theta to go from the host to the devices, or back."""
        return self.params_bytes / self.machine.host_bytes_per_s

    def blocks_s(self, blocks: float) -> float:
        return blocks * self.block_s

    def host_s(self, role: str, phase: str) -> float:
        """Seconds of one run of a recorded phase on this machine's cores."""
        machine = self.machine
        return self.costs.seconds(role, phase, self.parameters, machine.cores, machine.count)

    def write_s(self, role: str, num_bytes: float) -> float:
        """Seconds to save so many bytes: the work of one core as recorded, or the disk's time.

        Ranks write side by side, each its own part.
        """
        work_s = self.host_s(role, "save") / self.machine.count
        return max(work_s, num_bytes / self.machine.disk_bytes_per_s)
