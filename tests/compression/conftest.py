"""Shapes that reach every branch of the layout."""

import pytest

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


@pytest.fixture(params=SHAPES, ids=str)
def shape(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return request.param
