"""`python -m localnet.measure`: one JSON line on what a neuron's work costs on this machine.

The launcher starts as many of these at once as there are cores for neurons, each in the
environment of a neuron: what one gets of a core under all other load is what neurons will get. The
work is a neuron's own: everything that a neuron loads, inner steps of the trainer, a pass of the
scorer; the pages are random, which costs the same.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from template.errors import ConfigError

ENOUGH_S: Final = 1.0
"""Seconds of CPU after which a measurement ends, once it has two rounds."""
MIN_ROUNDS: Final = 2
FAR_BLOCK: Final = 1_000_000
"""A first block that no plan minds."""
_KIB: Final = 1024


def main(argv: list[str]) -> int:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m localnet.measure")
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--owner", required=True, help="SS58 address")
    arguments = parser.parse_args(argv)
    try:
        figures = _measure(arguments.plan, arguments.owner)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"measured {json.dumps(figures)}\n")
    return 0


def _measure(plan: Path, owner: str) -> dict[str, float]:
    from template.protocol.spec.plan import RunChoices, draft_spec, load_plan

    spec = draft_spec(load_plan(plan), RunChoices(owner_hotkey=owner, start_block=FAR_BLOCK))
    # A wrong plan does not wait for these; loading them is part of what is measured.
    import numpy as np

    import template.commands.neuron  # noqa: F401
    from template.base.preflight import load_codec
    from template.training.inner import InnerTrainer
    from template.training.model import initial_params
    from template.training.scorer import Scorer

    compiling_s = time.process_time()
    load_codec()  # may compile, which a machine does once and no neuron does again
    compiling_s = time.process_time() - compiling_s
    params = initial_params(spec, seed=0)
    trainer, scorer = InnerTrainer(spec, "cpu"), Scorer(spec, "cpu")
    trainer.begin(params)
    scorer.load(params)
    generator = np.random.default_rng(0)

    def pages(count: int) -> np.ndarray:
        shape = (count, spec.data.page_tokens)
        return generator.integers(spec.model.vocab_size, size=shape, dtype=np.int64)

    batch, held_out = pages(spec.training.batch_pages), pages(spec.evaluation.held_out_pages)
    trainer.take_step(batch, 0.0)  # the first allocates
    loaded_cpu_s, begun_s = time.process_time(), time.monotonic()
    step_cpu_s = _cpu_each(lambda: float(trainer.take_step(batch, 0.0)))
    pass_cpu_s = _cpu_each(lambda: scorer.losses(held_out))
    worked_s = time.monotonic() - begun_s
    return {
        "loaded_cpu_s": loaded_cpu_s - compiling_s,
        "step_cpu_s": step_cpu_s,
        "page_cpu_s": pass_cpu_s / len(held_out),
        "share": min(1.0, (time.process_time() - loaded_cpu_s) / worked_s),
        "memory_bytes": _memory_bytes(),
    }


def _cpu_each(work: Callable[[], object]) -> float:
    """Seconds of CPU that a round of `work` takes."""
    begun_s, rounds = time.process_time(), 0
    while rounds < MIN_ROUNDS or time.process_time() - begun_s < ENOUGH_S:
        work()
        rounds += 1
    return (time.process_time() - begun_s) / rounds


def _memory_bytes() -> int:
    """Memory that this process shares with no other; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * _KIB for line in lines if line.startswith("RssAnon:"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
