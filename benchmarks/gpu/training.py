"""A miner's steps by the project's own trainer: tokens a second, utilization, memory, loss."""

import math
from collections.abc import Iterator

import torch

from benchmarks.gpu.table import Row
from benchmarks.gpu.world import Bench, World, with_batch
from template.training.inner import InnerTrainer
from template.training.options import InnerOptions
from template.training.scorer import Scorer

STEPS = 3
"""Of the first window, in which the trainer finds how many pages fit, and of the second."""
WINDOW = 1
COMPARED_PAGES = 8
MOST_APART = 0.02
"""Nats between the loss in the run's precision and in float32: rounding, and no more."""


def measure(bench: Bench, world: World, options: InnerOptions) -> Iterator[Row]:
    """Two windows of a few steps, the second timed."""
    spec, theta = world.spec, world.theta
    trainer = InnerTrainer(spec, str(bench.device), options)
    pages = spec.training.batch_pages
    batches = [world.pages(pages, seed) for seed in range(2 * STEPS)]
    first = trainer.train(theta, WINDOW, batches[:STEPS], lambda: False)
    moved = {name: theta[name] - delta for name, delta in first.pseudo_gradient.items()}
    second = trainer.train(moved, WINDOW, batches[STEPS:], lambda: False)
    if options.compiles:
        torch.compiler.reset()
    losses = first.mean_loss, second.mean_loss
    if second.speed is None:
        raise RuntimeError("the trainer took no step")
    speed = second.speed
    yield Row(
        what=f"step, {world.size.name}, {_named(options)}",
        seconds=pages * spec.data.page_tokens / speed.tokens_per_s,
        rate=speed.tokens_per_s,
        unit="tokens/s",
        share=speed.utilization,
        of="peak (MFU)",
        peak_bytes=speed.peak_bytes,
        holds=all(map(math.isfinite, losses)) and losses[1] < losses[0],
        note=f"{spec.training.precision}, {pages} pages a step, {speed.micro_batch} a pass; mean "
        f"loss of {STEPS} steps {losses[0]:.3f}, of the next {losses[1]:.3f}",
    )


def _named(options: InnerOptions) -> str:
    words = [
        "compiled" if options.compiles else "",
        "checkpointing" if options.checkpoints_activations else "",
    ]
    return " and ".join(filter(None, words)) or "plain"


def compare_precisions(bench: Bench, world: World) -> Iterator[Row]:
    """The loss of the first step in the run's precision, and of the scorer in float32."""
    spec = with_batch(world.spec, COMPARED_PAGES)
    pages = world.pages(COMPARED_PAGES, 7)
    trainer = InnerTrainer(spec, str(bench.device))
    trained = trainer.train(world.theta, WINDOW, [pages], lambda: False).mean_loss
    del trainer
    bench.release()
    scorer = Scorer(spec, str(bench.device))
    scorer.load(world.theta)
    scored = float(scorer.losses(pages).mean())
    yield Row(
        what=f"loss, {world.size.name}, {spec.training.precision} and float32",
        holds=abs(trained - scored) < MOST_APART,
        note=f"{trained:.5f}, {scored:.5f} on {COMPARED_PAGES} pages; under {MOST_APART} apart",
    )
