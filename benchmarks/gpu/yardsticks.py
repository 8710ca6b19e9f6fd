"""The device's own measure: bytes a second of a large copy, operations a second of a product."""

from collections.abc import Iterator

import torch

from benchmarks.gpu.table import Row
from benchmarks.gpu.world import Bench


def measure(bench: Bench) -> Iterator[Row]:
    """Copy, then products in bf16 and float32."""
    machine = ", ".join(f"{name} {value}" for name, value in bench.machine().items())
    yield Row(what="machine", note=machine)
    yield _copy(bench, bench.first.size.copy_bytes)
    for name, dtype in (("bf16", torch.bfloat16), ("float32", torch.float32)):
        yield _product(bench, name, dtype, bench.first.size.matmul_side)


def _copy(bench: Bench, num_bytes: int) -> Row:
    source = torch.ones(num_bytes // 4, device=bench.device)
    target = torch.empty_like(source)
    target.copy_(source)
    seconds = bench.timed(lambda: target.copy_(source), repeats=5)
    bench.copy_rate = 2 * num_bytes / seconds
    note = f"{num_bytes / 1e9:.3g} GB read and written: the yardstick of the codec"
    return Row(what="copy", seconds=seconds, rate=bench.copy_rate / 1e9, unit="GB/s", note=note)


def _product(bench: Bench, name: str, dtype: torch.dtype, side: int) -> Row:
    one, other = (torch.randn(side, side, device=bench.device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(one)
    torch.matmul(one, other, out=out)
    seconds = bench.timed(lambda: torch.matmul(one, other, out=out), repeats=5)
    rate, peak = 2 * side**3 / seconds, bench.peak_flops("bf16" if name == "bf16" else "no")
    return Row(
        what=f"matrix product, {name}",
        seconds=seconds,
        rate=rate / 1e12,
        unit="TFLOP/s",
        share=rate / peak if peak else None,
        of="the maker's peak",
        note=f"{side} x {side}",
    )
