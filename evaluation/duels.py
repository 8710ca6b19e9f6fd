"""Duels: a part of the pay that only a validator that measured the payloads can compute.

Off in the shipped plans (D166).

Weights that follow from work alone hardly change from one epoch to the next, so a validator that
copies old weights, or scores nothing, earns the dividends of one that scores. Duels move pay
between miners by a figure that nobody knows beforehand and nobody can guess:

    gap_i   = sum over the period's windows of (gain on one half of the held-out pages
              less the gain on the other half)
    moved   = duel_share * min(share_i, share_j, max_share - max(share_i, share_j))
              * clip((gap_i - gap_j) / sure, -1, 1)                            from j to i

for pairs (i, j) that a hash draws. The halves are drawn after the payloads are committed: the gap
of a window is as often above zero as below, whatever the payload holds. So the sum stays, and the
mean pay of a miner that does not play for the duel. A miner that computes the gaps of the period's
first windows, and sends a short payload when ahead and a long one when behind, wins more than it
loses: 3 to 7 % in a simulation (D166). A gap shows in the losses alone, and logs with losses are
published once the weights of the next period have been set.

`sure` is a small part of the usual difference of a pair, so that honest validators, whose losses
differ in the last digits, set the same weights but for a rare pair that is all but even.
"""

import hashlib
import math
import statistics
from collections.abc import Iterable, Mapping
from itertools import combinations

SURE = 0.01
"""Of the usual difference of a pair: from here on a duel moves all that it may."""


def duelled(
    shares: Mapping[int, float],
    gaps: Mapping[int, float],
    window: int,
    duel_share: float,
    max_share: float,
) -> dict[int, float]:
    """uid -> share after the duels of one set of weights, in the order of `shares`.

    `shares`: at most `max_share` each. `gaps`: uid -> gap in nats per token, of the same uids.
    `window`: the newest window behind the weights, which draws the pairs. Of an odd number of
    miners one has no duel, and a pair without a difference moves nothing.
    """
    after = dict(shares)
    pairs = drawn_pairs(shares, window)
    differences = [gaps[one] - gaps[other] for one, other in pairs]
    known = [abs(difference) for difference in differences if difference != 0]
    sure = SURE * statistics.median(known) if known else 0.0
    if duel_share == 0.0 or not math.isfinite(sure) or sure == 0.0:
        return after
    for (one, other), difference in zip(pairs, differences, strict=True):
        room = max_share - max(shares[one], shares[other])
        stake = duel_share * max(0.0, min(shares[one], shares[other], room))
        moved = stake * min(max(difference / sure, -1.0), 1.0)
        after[one] += moved
        after[other] -= moved
    return after


def drawn_pairs(uids: Iterable[int], window: int) -> list[tuple[int, int]]:
    """Pairs of uids, each in one pair at most: the pair of the smallest hash first, then the
    smallest of the rest. So a uid that one validator pays and another does not changes few pairs.
    """

    def place(pair: tuple[int, int]) -> bytes:
        return hashlib.sha256(f"duel {window} {pair[0]} {pair[1]}".encode("ascii")).digest()

    found: list[tuple[int, int]] = []
    taken: set[int] = set()
    for pair in sorted(combinations(sorted(set(uids)), 2), key=place):
        if taken.isdisjoint(pair):
            found.append(pair)
            taken.update(pair)
    return found
