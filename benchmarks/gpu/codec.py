"""Payloads made and added on the device: bytes beside the CPU's, time beside a large copy."""

import time
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from benchmarks.gpu.table import Row
from benchmarks.gpu.world import Bench, World, same_bits
from compression import aggregate, encode_with_feedback, make_plan
from compression.encoder import choose, no_tally, select, tally, write

DECAY, FACTOR = 0.95, -0.1
SECTOR_BYTES = 32
"""The least that a GPU's memory reads or writes at once."""
AWKWARD: Mapping[str, tuple[int, ...]] = {
    "scalar": (), "none": (0, 5), "one": (1,), "row": (1, 200), "column": (200, 1),
    "edge": (65, 130), "corner": (130, 70), "whole": (128, 192), "experts": (65, 3, 7),
    "tail": (4097,), "long": (10_000,),
}  # fmt: skip
"""Shapes that reach every branch of the layout."""
KINDS: Mapping[str, Callable[[torch.Generator, tuple[int, ...]], Tensor]] = {
    "usual values": lambda draw, shape: torch.randn(shape, generator=draw) * 1e-3,
    "equal magnitudes": lambda draw, shape: (
        torch.randint(-2, 3, shape, generator=draw).float() * 1e-3
    ),
    "subnormal numbers": lambda draw, shape: torch.randn(shape, generator=draw) * 1e-40,
    "all sizes": lambda draw, shape: (
        torch.randn(shape, generator=draw) * torch.exp(torch.randn(shape, generator=draw) * 9 - 30)
    ).clamp(-99, 99),
    "zeros": lambda draw, shape: torch.randn(shape, generator=draw).sign() * 0.0,
}
HOSTILE = {
    "NaN": 0x7FC00000, "NaN with a sign": -0x400000, "infinity": 0x7F800000, "2^8": 0x43800000,
}  # fmt: skip
TOP_KS = (1, 64, 700)


def compare_awkward(bench: Bench) -> Iterator[Row]:
    """Small tensors of every kind: the bytes of the compiled loops, or refused as by them."""
    differing = [
        f"{kind}, top_k {top_k}"
        for kind in KINDS
        for top_k in TOP_KS
        if not _agree(bench, kind, top_k)
    ]
    note = f"{len(KINDS) * len(TOP_KS)} models of {len(AWKWARD)} shapes, two windows each"
    if differing:
        note = "differ: " + "; ".join(differing)
    yield Row(what="codec, awkward tensors", holds=not differing, note=note)
    accepted = [name for name, bits in HOSTILE.items() if not _refuses(bench, bits)]
    note = f"accepted: {', '.join(accepted)}" if accepted else ", ".join(HOSTILE)
    yield Row(what="codec, values that are refused", holds=not accepted, note=note)


def _agree(bench: Bench, kind: str, top_k: int) -> bool:
    plan, draw = make_plan(AWKWARD, top_k), torch.Generator().manual_seed(top_k)

    def drawn() -> dict[str, Tensor]:
        return {name: KINDS[kind](draw, shape) for name, shape in AWKWARD.items()}

    here, theta = drawn(), drawn()
    there, theta_there = (_moved(tensors, bench.device) for tensors in (here, theta))
    updates = []
    for _ in range(2):
        delta = drawn()
        body = encode_with_feedback(delta, here, plan, DECAY, by_torch=False)
        moved = _moved(delta, bench.device)
        if encode_with_feedback(moved, there, plan, DECAY, by_torch=True) != body:
            return False
        updates.append((body, dict.fromkeys(AWKWARD, FACTOR)))
    aggregate(theta, updates, plan, by_torch=False)
    aggregate(theta_there, updates, plan, by_torch=True)
    pairs = ((here, there), (theta, theta_there))
    return all(same_bits(own[n], other[n]) for own, other in pairs for n in AWKWARD)


def _moved(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copies on the device, also where the tensors lie there already."""
    return {name: tensor.clone().to(device) for name, tensor in tensors.items()}


def _refuses(bench: Bench, bits: int) -> bool:
    shapes = {"a": (128, 128)}
    delta = torch.full((128, 128), 255.0)
    delta.view(-1).view(torch.int32)[5000] = bits
    residual = {"a": torch.zeros(128, 128, device=bench.device)}
    try:
        select({"a": delta.to(bench.device)}, residual, make_plan(shapes), DECAY, by_torch=True)
    except ValueError:
        return True
    return False


def measure(bench: Bench, world: World) -> Iterator[Row]:
    """A whole model: encode, then add, each beside the CPU."""
    delta = world.drawn(bench.device, 1)
    residual = world.drawn(bench.device, 2)
    body, row = _encode(bench, world, delta, residual)
    yield row
    del delta, residual
    bench.release()
    yield _add(bench, world, body)


def _encode(
    bench: Bench, world: World, delta: dict[str, Tensor], residual: dict[str, Tensor]
) -> tuple[bytes, Row]:
    plan, found = world.form.plan, list[bytes]()
    delta_here, residual_here = (
        {n: t.cpu().clone() for n, t in x.items()} for x in (delta, residual)
    )
    peak = bench.peak_of(
        lambda: found.append(encode_with_feedback(delta, residual, plan, DECAY, by_torch=True))
    )
    begin_s = time.perf_counter()
    expected = encode_with_feedback(delta_here, residual_here, plan, DECAY, by_torch=False)
    cpu_s = time.perf_counter() - begin_s
    holds = found[0] == expected
    holds &= all(same_bits(residual[name], residual_here[name]) for name in residual)
    seconds = bench.timed(lambda: encode_with_feedback(delta, residual, plan, DECAY, by_torch=True))
    # Residual and pseudo-gradient are read, and the residual is written.
    moved = 12 * world.num_parameters + plan.num_bytes
    return expected, Row(
        what=f"encode with feedback, {world.size.name}",
        seconds=seconds,
        rate=moved / seconds / 1e9,
        unit="GB/s",
        share=moved / seconds / bench.copy_rate if bench.copy_rate else None,
        of="copy",
        peak_bytes=peak,
        holds=holds,
        note=_encode_note(bench, world, delta, residual, cpu_s),
    )


def _encode_note(
    bench: Bench,
    world: World,
    delta: dict[str, Tensor],
    residual: dict[str, Tensor],
    cpu_s: float,
) -> str:
    plan = world.form.plan
    selecting_s = bench.timed(lambda: select(delta, residual, plan, DECAY, by_torch=True), 1)
    selected = select(delta, residual, plan, DECAY, by_torch=True)
    begin_s = time.perf_counter()
    scales = choose(tally(selected, no_tally(plan)), plan)
    choosing_s = time.perf_counter() - begin_s
    writing_s = bench.timed(lambda: write(selected, scales), 1)
    return (
        f"select {selecting_s:.3g} s, choose {choosing_s:.3g} s, write {writing_s:.3g} s; the CPU "
        f"{cpu_s:.3g} s with {torch.get_num_threads()} threads. A share below 50 %: kernels of "
        "Triton are the next step"
    )


def _add(bench: Bench, world: World, body: bytes) -> Row:
    plan = world.form.plan
    theta = world.drawn(bench.device, 3)
    theta_here = {name: tensor.cpu().clone() for name, tensor in theta.items()}
    updates = [(body, dict.fromkeys(theta, FACTOR))]
    peak = bench.peak_of(lambda: aggregate(theta, updates, plan, by_torch=True))
    begin_s = time.perf_counter()
    aggregate(theta_here, updates, plan, by_torch=False)
    cpu_s = time.perf_counter() - begin_s
    holds = all(same_bits(theta[name], theta_here[name]) for name in theta)
    seconds = bench.timed(lambda: aggregate(theta, updates, plan, by_torch=True))
    moved = plan.num_bytes + 2 * SECTOR_BYTES * plan.num_kept
    return Row(
        what=f"add one payload, {world.size.name}",
        seconds=seconds,
        rate=moved / seconds / 1e9,
        unit="GB/s",
        share=moved / seconds / bench.copy_rate if bench.copy_rate else None,
        of="copy",
        peak_bytes=peak,
        holds=holds,
        note=f"the CPU {cpu_s:.3g} s; bytes: the body, and {2 * SECTOR_BYTES} a kept value",
    )


def cost_of(world: World) -> float:
    """Guess of the seconds of `measure`."""
    return 4.0 + 17e-9 * world.num_parameters
