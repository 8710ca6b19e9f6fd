"""A miner of one rank under torchrun: FSDP2, and NCCL on a GPU, take a step."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from benchmarks.evaluation.loss_tolerance import ROOT
from benchmarks.gpu.table import Row
from benchmarks.gpu.world import Bench, World

LIMIT_S = 180


def measure(bench: Bench, world: World) -> Iterator[Row]:
    """The row of one rank under torchrun: `benchmarks.gpu.rank` measures it."""
    size = world.size.name
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    rank = ["--nproc-per-node", "1", "-m", "benchmarks.gpu.rank", size, bench.device.type]
    with tempfile.TemporaryDirectory(prefix="tessera-gpu-") as folder:
        # Away from the run's own output, in which torchrun's word would break the table.
        try:
            done = subprocess.run(
                [*torchrun, *rank, folder],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"the rank has not ended within {LIMIT_S} s") from error
    if done.returncode:
        raise RuntimeError(f"status {done.returncode}: {done.stderr[-300:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    yield Row(
        what=f"one rank, {size}, FSDP2 over {found['library']}",
        rate=found["tokens_per_s"],
        unit="tokens/s",
        peak_bytes=found["peak_bytes"],
        holds=found["frame_is_equal"] and found["digest_is_equal"] and found["loss_is_finite"],
        note=f"loss {found['loss']:.3f}; frame as one process's: {found['frame_is_equal']}, digest "
        f"after an outer step on the device: {found['digest_is_equal']}",
    )
