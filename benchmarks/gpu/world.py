"""The device, and models of the plans in `runs/` with random theta, pages and pseudo-gradients."""

import gc
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.evaluation.loss_tolerance import OWNER, ROOT
from simulation.swarm import small_plan
from template.protocol.payload import PayloadFormat, PayloadHeader
from template.protocol.spec import RunSpec
from template.protocol.spec.model import count_parameters
from template.protocol.spec.plan import RunChoices, draft_spec, load_plan
from template.training.devices import device_name, peak_bytes, reset_peak
from template.training.flops import peak_tflops
from template.training.model import Params, initial_params, tensor_shapes

HEADER = PayloadHeader(window=1, base_window=1, pages_consumed=8, public_key=bytes(32))
SKEW = 1.5
"""Exponent of the words' frequencies: soon learnt, by any model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A model. `plan`: in runs/, or None for the one of the tests. `copy_bytes`, `matmul_side`: of
    the yardsticks. `cpu_pages`: scored on the CPU too. `scale`: of the guesses of time.
    """

    name: str
    plan: str | None
    copy_bytes: int
    matmul_side: int
    cpu_pages: int
    compiles: bool
    scale: float


SIZES = {
    size.name: size
    for size in (
        Size(
            name="tiny",
            plan=None,
            copy_bytes=2**22,
            matmul_side=128,
            cpu_pages=2,
            compiles=False,
            scale=0.01,
        ),
        Size(
            name="150m",
            plan="150m.toml",
            copy_bytes=2**32,
            matmul_side=8192,
            cpu_pages=2,
            compiles=True,
            scale=1.0,
        ),
        Size(
            name="1b",
            plan="1b.toml",
            copy_bytes=2**32,
            matmul_side=8192,
            cpu_pages=1,
            compiles=True,
            scale=4.0,
        ),
    )
}


class World:
    """A model of one size; what takes long to make is made once."""

    def __init__(self, size: Size) -> None:
        self.size = size

    @cached_property
    def spec(self) -> RunSpec:
        """Of the plan as it is."""
        if self.size.plan is None:
            plan = small_plan(model__hidden_size=96, model__intermediate_size=200)
        else:
            plan = load_plan(ROOT / "runs" / self.size.plan)
        return draft_spec(plan, RunChoices(owner_hotkey=OWNER, start_block=1000))

    @cached_property
    def form(self) -> PayloadFormat:
        """The layout of payloads."""
        spec = self.spec
        return PayloadFormat(
            run_id=spec.run_id, shapes=tensor_shapes(spec), top_k=spec.compression.top_k
        )

    @cached_property
    def theta(self) -> Params:
        """Random parameters, on the host."""
        return initial_params(self.spec, 0)

    @property
    def num_parameters(self) -> int:
        """Of the model."""
        return count_parameters(self.spec.model)

    def drawn(self, device: torch.device, seed: int, scale: float = 1e-3) -> dict[str, Tensor]:
        """A pseudo-gradient on the device, whose rows differ in size."""
        torch.manual_seed(seed)
        made = {}
        for name, shape in self.form.shapes.items():
            rows = torch.rand(shape[:1], device=device).view(-1, *[1] * (len(shape) - 1))
            made[name] = torch.randn(shape, device=device).mul_(rows).mul_(scale)
        return made

    def pages(self, count: int, seed: int) -> np.ndarray:
        """Pages of words of very different frequency, int64 [count, page_tokens]."""
        draw = np.random.default_rng(seed).zipf(SKEW, size=(count, self.spec.data.page_tokens))
        pages: np.ndarray = draw % self.spec.model.vocab_size
        return pages


def with_batch(spec: RunSpec, batch_pages: int) -> RunSpec:
    """The same run with other batches."""
    return replace(spec, training=replace(spec.training, batch_pages=batch_pages))


class Bench:
    """The device, its yardsticks, and the models by name."""

    def __init__(self, device: str, sizes: list[str]) -> None:
        self.device = torch.device(device)
        self.worlds = {name: World(SIZES[name]) for name in sizes}
        self.copy_rate: float | None = None
        """Bytes a second that a large copy reads and writes; measured by the first part."""

    @property
    def is_gpu(self) -> bool:
        """Whether results are of a GPU."""
        return self.device.type != "cpu"

    @property
    def first(self) -> World:
        """The smallest model."""
        return next(iter(self.worlds.values()))

    def peak_flops(self, precision: str) -> float | None:
        """Operations a second of the maker's data sheet; None for an unknown device."""
        found = peak_tflops(device_name(self.device), precision)
        return found * 1e12 if found else None

    def sync(self) -> None:
        """Wait for the device."""
        if self.is_gpu:
            torch.accelerator.synchronize(self.device)

    def timed(self, work: Callable[[], object], repeats: int = 3) -> float:
        """Median of the seconds of a repeated work, from device idle to device idle."""
        taken = []
        for _ in range(repeats):
            self.sync()
            begin_s = time.perf_counter()
            work()
            self.sync()
            taken.append(time.perf_counter() - begin_s)
        return statistics.median(taken)

    def peak_of(self, work: Callable[[], object]) -> int | None:
        """Bytes that a work takes on the device beside what lies there."""
        if peak_bytes(self.device) is None:
            work()
            return None
        before = int(torch.accelerator.memory_allocated(self.device))
        reset_peak(self.device)
        work()
        self.sync()
        return (peak_bytes(self.device) or 0) - before

    def release(self) -> None:
        """Free what nobody refers to."""
        gc.collect()
        if self.is_gpu:
            torch.accelerator.empty_cache()

    def machine(self) -> dict[str, object]:
        """What the figures are of."""
        return {
            "device": device_name(self.device),
            "driver": driver_version() if self.device.type == "cuda" else "none",
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "threads": torch.get_num_threads(),
        }


def driver_version() -> str:
    """The version of NVIDIA's driver, as its own tool says."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "not told: no nvidia-smi"
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return (done.stdout.splitlines() or ["not told"])[0].strip()


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Of float32 tensors anywhere; of zeros the signs too."""
    bits = [tensor.detach().cpu().contiguous().view(torch.int32) for tensor in (one, other)]
    return torch.equal(*bits)


def record_path(folder: Path) -> Path:
    """Where a GPU's results go."""
    return folder / "gpu.json"
