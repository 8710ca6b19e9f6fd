"""Entropy of a text's unigram distribution: the loss of a model of token counts alone.

The loss of a model that has learnt more than token frequencies is below the entropy.
"""

import numpy as np
import numpy.typing as npt


def unigram_entropy(tokens: npt.NDArray[np.integer]) -> float:
    """Entropy in nats per token of the empirical distribution of `tokens` (any shape).

    Between 0 (a single token repeated) and ln(number of distinct tokens). Raises ValueError on an
    empty array.
    """
    if tokens.size == 0:
        raise ValueError("the entropy of no tokens is undefined")
    _, counts = np.unique(tokens, return_counts=True)
    shares = counts / tokens.size
    return float(-(shares * np.log(shares)).sum())
