"""Models of random shapes and densities, and bodies of strangers, through every compiled loop."""

import random

import torch

from compression import (
    CodecError,
    aggregate,
    check,
    decode,
    encode,
    encode_with_feedback,
    make_plan,
)

SHAPES: tuple[tuple[int, ...], ...] = (
    (),
    (0,),
    (1,),
    (2,),
    (63,),
    (4095,),
    (4096,),
    (4097,),
    (10_000,),
    (0, 5),
    (5, 0),
    (1, 1),
    (1, 200),
    (200, 1),
    (63, 63),
    (64, 64),
    (64, 65),
    (65, 64),
    (65, 65),
    (128, 192),
    (130, 70),
    (3, 5, 7),
    (70, 3, 30),
    (64, 8, 8),
    (2, 0, 3),
    (5, 2, 3, 11),
    (66, 4, 4, 5),
)
"""Shapes that reach every branch of the layout."""
EDGES = (0, 1, 2, 63, 64, 65, 130)


def random_shapes(generator: random.Random) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for name in "abc"[: generator.randint(1, 3)]:
        sides = [generator.choice(EDGES) for _ in range(generator.randint(0, 2))]
        shapes[name] = tuple(sides) if generator.randrange(4) else (generator.randrange(9000),)
    return shapes


def spoilt(body: bytes, generator: random.Random) -> bytes:
    data = bytearray(body)
    for _ in range(generator.randint(1, 6)):
        if data:
            start = generator.randrange(len(data))
            length = min(generator.choice((1, 2, 16, 500)), len(data) - start)
            data[start : start + length] = generator.choice(
                (generator.randbytes(length), b"\xff" * length, bytes(length))
            )
    return bytes(data)


def main(num_models: int) -> None:
    """Prints how many bodies were good and how many were refused."""
    generator, good, refused = random.Random(9), 0, 0
    for number in range(num_models):
        shapes = random_shapes(generator)
        plan = make_plan(shapes, generator.choice((1, 3, 64, 100, 700, 4096)))
        torch.manual_seed(number)
        tensors = {name: torch.randn(shape) * 0.01 for name, shape in shapes.items()}
        body = encode(tensors, plan)
        left = {name: torch.zeros(shape) for name, shape in shapes.items()}
        assert encode_with_feedback(tensors, left, plan, 0.5) == body
        for data in (body, *(spoilt(body, generator) for _ in range(4))):
            try:
                check(data, plan)
            except CodecError:
                refused += 1
                continue
            good += 1
            decode(data, plan)
            aggregate(left, [(data, dict.fromkeys(shapes, 0.1))] * 2, plan)
    print(good, refused)  # noqa: T201
