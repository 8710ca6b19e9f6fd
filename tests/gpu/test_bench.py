"""What `python -m benchmarks.gpu` compares, at the smallest real size.

pytest -m gpu tests/gpu
"""

from collections.abc import Iterator

import pytest
import torch

from benchmarks.gpu import codec, ranks, scoring, training, yardsticks
from benchmarks.gpu.table import Row
from benchmarks.gpu.world import Bench
from template.training.options import InnerOptions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    made = Bench("cuda", ["150m"])
    yield made
    made.worlds.clear()
    made.release()


def assert_holds(rows: Iterator[Row]) -> None:
    found = list(rows)
    assert any(row.holds for row in found)
    assert [row.line() for row in found if row.holds is False] == []


def test_the_codec_has_the_bytes_of_the_cpu(bench: Bench) -> None:
    assert_holds(codec.compare_awkward(bench))
    assert_holds(codec.measure(bench, bench.first))


def test_a_large_copy_is_a_yardstick(bench: Bench) -> None:
    assert {row.what for row in yardsticks.measure(bench)} > {"machine", "copy"}
    assert bench.copy_rate is not None


def test_bf16_has_the_loss_of_float32(bench: Bench) -> None:
    assert_holds(training.compare_precisions(bench, bench.first))


def test_scoring_restores_theta_and_agrees_with_the_cpu(bench: Bench) -> None:
    assert_holds(scoring.measure(bench, bench.first))


def test_one_rank_takes_a_step(bench: Bench) -> None:
    assert_holds(ranks.measure(bench, bench.first))


@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize("compiles", [False, True])
def test_a_miners_loss_falls(bench: Bench, compiles: bool, checkpoints: bool) -> None:
    options = InnerOptions(compiles=compiles, checkpoints_activations=checkpoints)
    assert_holds(training.measure(bench, bench.first, options))
