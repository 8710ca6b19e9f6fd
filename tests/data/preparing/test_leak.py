"""N-grams found by hash, against sets of tuples."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from template.data.preparing.leak import GramSketch, gram_hashes

TOKENS = st.lists(st.integers(0, 3), max_size=30).map(lambda ids: np.array(ids, np.uint16))


def grams(tokens: np.ndarray, size: int) -> list[tuple[int, ...]]:
    ids = tokens.tolist()
    return [tuple(ids[start : start + size]) for start in range(len(ids) - size + 1)]


@settings(max_examples=30, deadline=None)
@given(TOKENS, TOKENS, st.integers(1, 14))
def test_equal_grams_have_equal_hashes_and_others_have_not(
    first: np.ndarray, second: np.ndarray, size: int
) -> None:
    pairs = [*zip(grams(first, size), gram_hashes(first, size).tolist(), strict=True)]
    pairs += zip(grams(second, size), gram_hashes(second, size).tolist(), strict=True)
    by_gram = dict(pairs)
    assert all(by_gram[gram] == value for gram, value in pairs)
    assert len(set(by_gram.values())) == len(by_gram)


@settings(max_examples=30, deadline=None)
@given(st.lists(TOKENS, max_size=8), st.integers(1, 5), st.randoms(use_true_random=False))
def test_a_sketch_is_the_smallest_hashes_in_whatever_order(documents, limit, random) -> None:
    every = {value for tokens in documents for value in gram_hashes(tokens, 3).tolist()}
    sketches = []
    for _ in range(2):
        sketch = GramSketch(3, limit)
        for tokens in documents:
            sketch.add(tokens)
        sketches.append(sketch.hashes.tolist())
        random.shuffle(documents)
    assert sketches[0] == sketches[1] == sorted(every)[:limit]


def test_sketches_of_parts_make_the_sketch_of_all() -> None:
    generator = np.random.default_rng(1)
    documents = [generator.integers(0, 50, 300, np.uint16) for _ in range(10)]
    whole = GramSketch(5, 200)
    merged = GramSketch(5, 200)
    for tokens in documents:
        whole.add(tokens)
        part = GramSketch(5, 200)
        part.add(tokens)
        merged.add_hashes(part.hashes)
    assert whole.hashes.tolist() == merged.hashes.tolist()
    assert whole.hashes.size == 200


def test_a_sample_of_hashes_is_a_fair_sample() -> None:
    """Half of the n-grams leak, each gram in a document of its own: the sample says a half."""
    generator = np.random.default_rng(2)
    held = generator.integers(0, 1_000, (8_000, 13), np.uint16)
    sketch = GramSketch(13, 2_000)
    for tokens in held:
        sketch.add(tokens)
    leaked = np.concatenate([gram_hashes(tokens, 13) for tokens in held[::2]])
    share = np.isin(sketch.hashes, leaked).mean()
    assert 0.44 < share < 0.56  # five standard deviations of 0.011
