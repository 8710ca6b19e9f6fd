"""Real processes encode by bands: the bytes of one process, and few bytes between them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from compression import encode_with_feedback, make_plan
from compression.bands import chunk_bytes
from tests.support.band_encoding import bands_of, plans_of
from tests.support.band_ranks import DECAY, HANG_S, SHAPES, WINDOWS, delta_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_encode_what_one_process_encodes(ranks: int, tmp_path: Path) -> None:
    module = "tests.support.band_ranks"
    running = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(rank), str(ranks), str(tmp_path)], cwd=ROOT
        )
        for rank in range(ranks)
    ]
    plan = make_plan(SHAPES)
    residual = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    expected = [
        encode_with_feedback(delta_of(window), residual, plan, DECAY, 1)
        for window in range(WINDOWS)
    ]
    try:
        assert [process.wait(HANG_S) for process in running] == [0] * ranks
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert [(tmp_path / f"body-{window}").read_bytes() for window in range(WINDOWS)] == expected
    for rank in range(ranks):
        for name, rows in bands_of(residual, rank, ranks).items():
            left = (tmp_path / f"residual-{name}-{rank}").read_bytes()
            assert left == rows.numpy().tobytes(), (name, rank)
    bands = plans_of(plan, ranks)
    tally_bytes = 88 * len(plan.runs) + 44 * len(SHAPES)
    for rank, band in enumerate(bands):
        sent = json.loads((tmp_path / f"sent-{rank}.json").read_text())
        # A rank hands the tally on, and the last rank hands it to all others.
        times = 1 if rank < ranks - 1 else ranks - 1
        assert sent["tally"] == WINDOWS * times * tally_bytes
        assert sent["chunks"] == (WINDOWS * chunk_bytes(band) if rank else 0)
    assert sum(map(chunk_bytes, bands)) < plan.num_bytes
