"""The outer learning rate: alpha = outer.outer_lr * 2^(exponent / 8), the exponent moved by votes.

An integer in the state of the run, so that alpha is the same double on every node. Pure.
"""

import math

STEPS_PER_DOUBLING = 8
MAX_EXPONENT = 64
"""Alpha stays within a factor of 256 of the run spec's."""

_ROOT = math.sqrt(math.sqrt(math.sqrt(2.0)))


def alpha_at(exponent: int, first: float) -> float:
    """`first` * 2^(exponent / 8) by products and `ldexp`: the last bit of `pow` differs between
    platforms.
    """
    doublings, eighths = divmod(exponent, STEPS_PER_DOUBLING)
    factor = 1.0
    for _ in range(eighths):
        factor *= _ROOT
    return first * math.ldexp(factor, doublings)


def next_exponent(exponent: int, pace: int) -> int:
    """The exponent after a window in which most of the stake voted `pace`: -1, 0 or 1."""
    return max(-MAX_EXPONENT, min(MAX_EXPONENT, exponent + pace))
