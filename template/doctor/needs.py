"""What a plan needs of line, memory and disk, by the planner's arithmetic. Pure."""

from dataclasses import dataclass, replace
from typing import Final

from template.doctor.judge import LineNeed
from template.planning.case import Case
from template.planning.hardware import CLASSES, CPU, HardwareClass, Line, Machine
from template.planning.memory import Memory, miner_memory, owner_memory, validator_memory
from template.planning.miner import miner_window
from template.planning.validator import validator_window
from template.protocol.spec import RunSpec
from template.training.flops import PEAK_TFLOPS
from template.training.options import InnerOptions

BITS: Final = 8
MBPS: Final = 1e6
_UNIT_LINE: Final = Line(up_mbps=1.0, down_mbps=1.0)
_UNKNOWN_PEAKS: Final = (1.0, 1.0)
_UNKNOWN_BYTES_PER_S: Final = 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class Around:
    """What a plan's needs depend on beside the plan: this machine, the swarm and the chain.

    `device_bytes` None: the device computes in the host's memory.
    """

    device_name: str
    device_bytes: int | None
    cores: float
    peers: int
    validators: int
    block_s: float
    inner: InnerOptions


def case_of(spec: RunSpec, around: Around) -> Case:
    """The planner's case for this machine, with a line of 1 Mb/s both ways."""
    return Case(
        spec=spec,
        machine=Machine(
            device=hardware_of(around.device_name, around.device_bytes),
            count=1,
            cores=max(1, int(around.cores)),
        ),
        line=_UNIT_LINE,
        peers=max(1, around.peers),
        validators=max(1, around.validators),
        block_s=around.block_s,
        parts=around.inner.parts,
        frozen=around.inner.frozen,
    )


def hardware_of(device_name: str, device_bytes: int | None) -> HardwareClass:
    """The planner's class of a device, with the memory that the driver reports.

    A device of no known class gets a class of its own, whose speeds nothing here uses.
    """
    if device_bytes is None:
        return CLASSES[CPU]
    peaks = next((p for label, p in PEAK_TFLOPS.items() if label in device_name), _UNKNOWN_PEAKS)
    like = next((c for c in CLASSES.values() if c.peaks == peaks), None)
    if like is not None:
        return replace(like, memory_bytes=device_bytes)
    return HardwareClass(
        name=device_name,
        memory_bytes=device_bytes,
        peaks=peaks,
        bandwidth_bytes_per_s=_UNKNOWN_BYTES_PER_S,
        host_bytes_per_s=_UNKNOWN_BYTES_PER_S,
    )


def memory_of(role: str, case: Case) -> Memory:
    """Bytes on device, host and disk."""
    makers = {"miner": miner_memory, "validator": validator_memory, "owner": owner_memory}
    return makers[role](case)


def line_need(role: str, case: Case) -> LineNeed:
    """Megabits a second each way.

    A miner's payload has to be up before validators stop reading; the rest of a miner's and all of
    a validator's traffic is spread over a window. An owner's upload has no deadline.
    """
    if role == "miner":
        window = miner_window(case)
        down_bytes = sum(phase.down_bytes for phase in window.phases)
        up_mbps = _mbps(case.own_payload_bytes, window.upload_room_s)
        what = (
            f"a payload of {case.own_payload_bytes / 1e6:,.2f} MB within "
            f"{window.upload_room_s:,.0f} s, {down_bytes / 1e6:,.1f} MB down in a window of "
            f"{case.window_s:,.0f} s"
        )
        return LineNeed(up_mbps=up_mbps, down_mbps=_mbps(down_bytes, case.window_s), what=what)
    if role == "validator":
        phases = validator_window(case).phases
        up_bytes = sum(phase.up_bytes for phase in phases)
        down_bytes = sum(phase.down_bytes for phase in phases)
        what = (
            f"{up_bytes / 1e6:,.1f} MB up and {down_bytes / 1e6:,.1f} MB down in a window of "
            f"{case.window_s:,.0f} s"
        )
        up_mbps, down_mbps = _mbps(up_bytes, case.window_s), _mbps(down_bytes, case.window_s)
        return LineNeed(up_mbps=up_mbps, down_mbps=down_mbps, what=what)
    return LineNeed(up_mbps=0.0, down_mbps=0.0, what="an owner's upload has no deadline")


def _mbps(num_bytes: float, seconds: float) -> float:
    return num_bytes * BITS / max(seconds, 1e-9) / MBPS
