"""What one GPU does with the project's own parts, in one table, within eight minutes.

    python -m benchmarks.gpu [--device cuda] [--sizes 150m 1b] [--parts codec ...]

Nothing is asserted about time: a row says what it compared (bytes, bits, losses), and the exit
status is 1 if one of these does not hold. Rows that would pass the limit are left out with a line.
Writes gpu.json if the device is a GPU; `--device cpu --sizes tiny` only proves that all of it runs.
"""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.gpu import codec, ranks, scoring, training, yardsticks
from benchmarks.gpu.table import Clock, Part, run_parts, say, write_record
from benchmarks.gpu.world import SIZES, Bench, World, record_path
from benchmarks.size.report import RESULTS
from compression import load_kernels
from template.errors import ConfigError
from template.training.devices import find_device
from template.training.options import InnerOptions

LIMIT_S = 480.0
PARTS = ("codec", "loss", "scoring", "ranks", "step")
COMPILING_S = 45.0


def main(argv: list[str]) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--device", default="cuda", help="a GPU; cpu for a trial (default: cuda)")
    parser.add_argument("--sizes", choices=SIZES, nargs="+", default=["150m", "1b"])
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--limit_s", type=float, default=LIMIT_S)
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER")
    arguments = parser.parse_args(argv)
    try:
        bench = Bench(find_device(arguments.device), arguments.sizes)
    except ConfigError:
        parser.error(f"--device {arguments.device}: not on this machine; a trial: --device cpu")
    load_kernels()
    clock = Clock(arguments.limit_s)
    rows = run_parts(list(parts_of(bench, arguments.parts)), clock, bench.release, say)
    if bench.is_gpu:
        write_record(record_path(arguments.out), rows, bench.machine())
    return int(any(row.holds is False for row in rows))


def parts_of(bench: Bench, wanted: tuple[str, ...]) -> Iterator[Part]:
    """The parts in the order of what is known least; steps last, the longest ones at the end."""
    first, scale = bench.first, bench.first.size.scale
    yield Part(name="yardsticks", guess_s=5.0 * scale, run=partial(yardsticks.measure, bench))
    if "codec" in wanted:
        guess_s = 4.0 * scale
        yield Part(name="codec", guess_s=guess_s, run=partial(codec.compare_awkward, bench))
        for name, world in bench.worlds.items():
            work = partial(codec.measure, bench, world)
            yield Part(name=f"codec, {name}", guess_s=codec.cost_of(world), run=work)
    if "loss" in wanted:
        work = partial(training.compare_precisions, bench, first)
        yield Part(name="loss", guess_s=15.0 * scale, run=work)
    if "scoring" in wanted:
        work = partial(scoring.measure, bench, first)
        yield Part(name="scoring", guess_s=30.0 * scale, run=work)
    if "ranks" in wanted:
        yield Part(name="ranks", guess_s=40.0 * scale, run=partial(ranks.measure, bench, first))
    if "step" in wanted:
        yield from _steps(bench)


def _steps(bench: Bench) -> Iterator[Part]:
    for compiles, checkpoints in product((False, True), (False, True)):
        options = InnerOptions(compiles=compiles, checkpoints_activations=checkpoints)
        for name, world in bench.worlds.items():
            if compiles and not world.size.compiles:
                continue
            guess_s = _step_s(world) + (COMPILING_S if compiles else 0.0)
            work = partial(training.measure, bench, world, options)
            yield Part(name=f"step, {name}, {options}", guess_s=guess_s, run=work)


def _step_s(world: World) -> float:
    """Making the trainer, and six steps."""
    return 16.0 * world.size.scale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
