"""A validator's measurement of some payloads, by the project's own scorer."""

from collections.abc import Iterator
from typing import cast

import numpy as np
import torch

from benchmarks.gpu.table import Row
from benchmarks.gpu.world import HEADER, Bench, World, same_bits
from compression import encode
from evaluation.judge import Measured
from evaluation.work import QUARTERS
from template.data.pages import PageReader
from template.protocol.payload import Payload, decode_payload, frame_of
from template.scoring.measure import Measurement, Step, scored_step
from template.scoring.pool import Pool, pool_of
from template.training.flops import flops_per_token
from template.training.outer import OuterState, first_state, scored_references
from template.training.scorer import Scorer

NUM_PAYLOADS = 8


class DrawnPages:
    """Pages by id, as `PageReader.pages` gives them, drawn instead of read."""

    def __init__(self, world: World, count: int) -> None:
        self._pages = world.pages(count, 11)

    def pages(self, page_ids: np.ndarray) -> np.ndarray:
        """int64 [pages, page_tokens]."""
        return self._pages[page_ids]


def measure(bench: Bench, world: World) -> Iterator[Row]:
    """Time, restored theta, repeated losses, and losses against the CPU's."""
    state = first_state(world.theta, world.spec.run_id)
    steps = _steps(bench, world, state)
    pool = pool_of(np.arange(world.spec.evaluation.held_out_pages), {})
    pages = DrawnPages(world, pool.ids_S.size)
    measured, row = _measure(bench, world, state, steps, pool, pages)
    yield row
    bench.release()
    found = [measured.held_out_H, measured.held_out_after_H(0)]
    yield _beside_cpu(world, steps, pages.pages(pool.ids_S), found)


def _measure(
    bench: Bench,
    world: World,
    state: OuterState,
    steps: dict[int, Step],
    pool: Pool,
    reader: DrawnPages,
) -> tuple[Measured, Row]:
    spec, found = world.spec, list[Measured]()
    scorer = Scorer(spec, str(bench.device))
    measurement = Measurement(scorer, cast(PageReader, reader), state, None, None)
    pages = reader.pages(pool.ids_S)
    scorer.load(state.params)
    # The first pass chooses kernels, too.
    again = scorer.part_losses(pages[: scorer.batch_pages], QUARTERS)
    peak = bench.peak_of(lambda: scorer.losses(pages[: scorer.batch_pages]))
    seconds = bench.timed(lambda: found.append(measurement.finish(pool, steps)), repeats=1)
    measured, restored = found[0], scorer.params()
    holds = all(same_bits(restored[name], state.params[name]) for name in restored)
    is_repeated = again.tobytes() == measured.before_SQ[: len(again)].tobytes()
    tokens = pages.size * (1 + len(steps))
    # A backward pass is twice a forward pass.
    rate, most = tokens * flops_per_token(spec) / 3 / seconds, bench.peak_flops("no")
    return measured, Row(
        what=f"scoring {len(steps)} payloads, {world.size.name}",
        seconds=seconds,
        rate=seconds / (1 + len(steps)),
        unit="s/payload",
        share=rate / most if most else None,
        of="float32's peak",
        peak_bytes=peak,
        holds=holds and is_repeated,
        note=f"{len(pages)} pages each, and at theta; theta restored bit for bit: {holds}; losses "
        f"of a second pass equal: {is_repeated}; memory beside the model's",
    )


def _steps(bench: Bench, world: World, state: OuterState) -> dict[int, Step]:
    payloads: list[Payload] = []
    for uid in range(NUM_PAYLOADS):
        body = encode(world.drawn(bench.device, 20 + uid), world.form.plan)
        payloads.append(decode_payload(frame_of(HEADER, body, world.form), world.form))
    outer = world.spec.outer
    references = scored_references(state, [payload.norms for payload in payloads], outer)
    return {
        uid: scored_step(payload, references, state, world.spec)
        for uid, payload in enumerate(payloads)
    }


def _beside_cpu(
    world: World, steps: dict[int, Step], pages: np.ndarray, found: list[np.ndarray]
) -> Row:
    count, tolerance = world.size.cpu_pages, world.spec.evaluation.loss_tolerance
    scorer = Scorer(world.spec, "cpu")
    scorer.load(world.theta)
    expected = [scorer.part_losses(pages[:count], QUARTERS).mean(axis=1)]
    with scorer.stepped(steps[0].payload.tensors, steps[0].coefficients):
        expected.append(scorer.part_losses(pages[:count], QUARTERS).mean(axis=1))
    pairs = zip(found, expected, strict=True)
    worst = max(float(np.abs(own[:count] - other).max()) for own, other in pairs)
    return Row(
        what=f"losses and the CPU's, {world.size.name}",
        holds=worst <= tolerance,
        note=f"{worst:.2e} nats apart at most on {count} pages, before and after a payload; the "
        f"audit bears {tolerance:.0e}. TF32: {torch.backends.cuda.matmul.allow_tf32}",
    )
