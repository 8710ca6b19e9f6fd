"""Every test of a shape runs on all of `SHAPES`."""

import pytest

from tests.support.codec_models import SHAPES


@pytest.fixture(params=SHAPES, ids=str)
def shape(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return request.param
