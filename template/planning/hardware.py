"""Classes of hardware, machines made of them, and lines. Imports no torch: flags name classes.

Sources: bandwidth from the makers' data sheets (NVIDIA's of RTX 4090 and 5090, L40S, A100 80 GB
SXM, H100 SXM, H200 SXM and DGX B200, as of November 2026), of RTX 3060 12 GB, 3090, 4060 and 4060
Ti 16 GB from public tables of specifications alone; memory as the driver reports it (nvidia-smi), a
little off the name's; peaks from `template.training.flops`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from template.training.flops import PEAK_TFLOPS

CPU: Final = "cpu"
GB: Final = 10**9
MIB: Final = 2**20
COUNTS: Final = (1, 2, 4, 8)
"""Devices of the machines that are looked through for the smallest."""
MAX_DEVICES: Final = 1024
BITS: Final = 8

MFU: Final = 0.4
"""Share of the bf16 peak in the model's own arithmetic while training: what the shipped plans
assume. Covenant-72B's published tokens and 20 minutes make 0.24 of eight B200."""
SCORING_MFU: Final = 0.65
"""The same of the float32 peak in forward passes, which have neither optimizer nor
communication."""
MIN_CORES: Final = 16
CORES_PER_DEVICE: Final = 8
DISK_BYTES_PER_S: Final = 2 * GB
"""One NVMe disk, written in sequence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HardwareClass:
    """A kind of device. `peaks`: 10^12 operations a second in bf16 and in float32.

    `memory_bytes` 0: the device computes in the host's memory. `host_bytes_per_s`: between device
    and host.
    """

    name: str
    memory_bytes: int
    peaks: tuple[float, float]
    bandwidth_bytes_per_s: float
    host_bytes_per_s: float

    @property
    def is_cpu(self) -> bool:
        return not self.memory_bytes


def _gpu(
    name: str, label: str, memory_mib: int, bandwidth_gb: float, host_gb: float
) -> HardwareClass:
    return HardwareClass(
        name=name,
        memory_bytes=memory_mib * MIB,
        peaks=PEAK_TFLOPS[label],
        bandwidth_bytes_per_s=bandwidth_gb * GB,
        host_bytes_per_s=host_gb * GB,
    )


PCIE4_GB, PCIE5_GB = 25.0, 50.0
"""What 16 lanes carry in practice: four fifths of 31.5 and 63 GB/s."""
PCIE4_X8_GB = 12.5
"""And 8 lanes."""

CLASSES: Final[Mapping[str, HardwareClass]] = {
    each.name: each
    for each in (
        HardwareClass(
            name=CPU,
            memory_bytes=0,
            peaks=(1.0, 1.0),
            bandwidth_bytes_per_s=50.0 * GB,
            host_bytes_per_s=10.0 * GB,
        ),
        _gpu("rtx4060", "RTX 4060", 8_188, 272, PCIE4_X8_GB),
        _gpu("rtx3060", "RTX 3060", 12_288, 360, PCIE4_GB),
        _gpu("rtx4060ti", "RTX 4060 Ti", 16_380, 288, PCIE4_X8_GB),
        _gpu("rtx3090", "RTX 3090", 24_576, 936, PCIE4_GB),
        _gpu("rtx4090", "RTX 4090", 24_564, 1008, PCIE4_GB),
        _gpu("rtx5090", "RTX 5090", 32_607, 1792, PCIE5_GB),
        _gpu("l40s", "L40S", 46_068, 864, PCIE4_GB),
        _gpu("a100-80", "A100", 81_920, 2039, PCIE4_GB),
        _gpu("h100", "H100", 81_559, 3350, PCIE5_GB),
        _gpu("h200", "H200", 143_771, 4800, PCIE5_GB),
        _gpu("b200", "B200", 183_359, 8000, PCIE5_GB),
    )
}
"""By the name in a flag, the smallest first. A CPU stands for 16 cores of a server: 10^12
operations a second and memory of 50 GB/s are an estimate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """`count` devices of a class in one host. `cores` and `disk_bytes_per_s`: of the host."""

    device: HardwareClass
    count: int
    cores: int
    disk_bytes_per_s: float = DISK_BYTES_PER_S
    mfu: float = MFU
    scoring_mfu: float = SCORING_MFU

    @property
    def name(self) -> str:
        return f"{self.device.name}:{self.count}"

    @property
    def memory_bytes(self) -> int:
        """Of all devices together."""
        return self.count * self.device.memory_bytes

    @property
    def host_bytes_per_s(self) -> float:
        return self.count * self.device.host_bytes_per_s

    def train_flops(self, precision: str) -> float:
        """Operations a second of training, at the assumed share of the peak."""
        bf16, float32 = self.device.peaks
        return self.count * self.mfu * 1e12 * (bf16 if precision == "bf16" else float32)

    @property
    def score_flops(self) -> float:
        """Operations a second of forward passes; these are in float32 on every node."""
        return self.count * self.scoring_mfu * 1e12 * self.device.peaks[1]


def usual_cores(count: int) -> int:
    """Cores of the host of so many devices, where nobody says otherwise."""
    return max(MIN_CORES, CORES_PER_DEVICE * count)


def usual_machine(name: str, count: int) -> Machine:
    """A machine with the usual host. KeyError for an unknown class."""
    return Machine(device=CLASSES[name], count=count, cores=usual_cores(count))


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line to the Internet, in megabits (10^6) a second; both directions run side by side."""

    up_mbps: float
    down_mbps: float

    def up_s(self, num_bytes: float) -> float:
        return num_bytes * BITS / (self.up_mbps * 1e6)

    def down_s(self, num_bytes: float) -> float:
        return num_bytes * BITS / (self.down_mbps * 1e6)
