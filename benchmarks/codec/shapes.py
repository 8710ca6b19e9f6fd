"""The model on which the codec is timed: shapes and tensors, nothing heavy to import."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]

WIDTH, FEED_FORWARD, NUM_LAYERS, VOCABULARY = 768, 2048, 11, 32_000


def bench_shapes() -> dict[str, tuple[int, ...]]:
    """A Llama of 102.4 M parameters; every side is a multiple of 64, as the peer's model's are."""
    shapes: dict[str, tuple[int, ...]] = {"embed": (VOCABULARY, WIDTH)}
    for layer in range(NUM_LAYERS):
        shapes |= {f"{layer}.{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "o")}
        shapes |= {f"{layer}.{name}": (FEED_FORWARD, WIDTH) for name in ("gate", "up")}
        shapes |= {f"{layer}.down": (WIDTH, FEED_FORWARD)}
        shapes |= {f"{layer}.{name}": (WIDTH,) for name in ("norm1", "norm2")}
    return shapes


def num_params(shapes: Shapes) -> int:
    return sum(map(math.prod, shapes.values()))


def gaussian_model(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator).mul_(0.01) for n, s in shapes.items()}


def rolled(tensors: Mapping[str, Tensor], shift: int) -> dict[str, Tensor]:
    """Another peer's tensors: other positions in every chunk, at the cost of a copy."""
    return {n: t.reshape(-1).roll(shift).view(t.shape) for n, t in tensors.items()}
