"""Unigram entropy: known values, invariances, boundaries."""

import math

import numpy as np
import pytest

from template.data.unigram import unigram_entropy


def test_known_distributions() -> None:
    assert unigram_entropy(np.zeros(9, dtype=np.uint16)) == 0
    assert unigram_entropy(np.arange(256)) == pytest.approx(math.log(256))
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert unigram_entropy(np.array([5, 5, 7, 5])) == pytest.approx(expected)


def test_order_shape_and_names_of_tokens_do_not_matter() -> None:
    rng = np.random.default_rng(3)
    tokens = rng.choice(50, size=(20, 30), p=rng.dirichlet(np.ones(50)))
    entropy = unigram_entropy(tokens)
    assert 0 < entropy < math.log(50)
    assert unigram_entropy(rng.permutation(tokens.ravel())) == pytest.approx(entropy)
    assert unigram_entropy(49 - tokens) == pytest.approx(entropy)


def test_no_tokens() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        unigram_entropy(np.empty((0, 8), dtype=np.int64))
