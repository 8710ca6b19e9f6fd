"""The cap on what one coldkey may have of an update's energy.

A payload's energy is the sum over tensors of (coefficient * norm) squared; that of an update
is the sum over its payloads, and that of a coldkey over its own. Coldkeys with more than their
share are brought down to a common level, the others are left as they are, bit for bit.

Pure, and the same bits on every node: doubles with + - * / and square root, sums by
`math.fsum`, which rounds once whatever the order.
"""

import math
from collections.abc import Mapping, Sequence

Factors = Mapping[str, float]
Norms = Mapping[str, float]


def energy(factors: Factors, norms: Norms) -> float:
    """Of one payload, from its coefficients and norms by tensor."""
    lengths = [factor * norms[name] for name, factor in factors.items()]
    return math.fsum(length * length for length in lengths)


def allowed_share(num_coldkeys: int, share: float) -> float:
    """Of the update's energy: `share`, or twice an equal part where that is more.

    With one or two coldkeys nothing is left to compare with, and only n_min bounds them. Twice:
    were it an equal part, the smallest payload of a few would bring all others down to itself.
    So no coldkey of a majority that are alike is ever cut.
    """
    return max(share, 2.0 / num_coldkeys)


def energy_level(energies: Sequence[float], share: float) -> float:
    """The most energy that a coldkey keeps: the L for which L is the allowed share of
    sum(min(e, L)); of positive energies, at least one. If nobody exceeds its share, some L
    above them all.

    With the k largest cut to L, L = share * (k L + rest). k is the first for which the next
    one is below that; it stays under 1 / share, so that the division is by more than 0.
    """
    ordered = sorted(energies, reverse=True)
    allowed = allowed_share(len(ordered), share)
    count = 0
    while True:
        level = allowed * math.fsum(ordered[count:]) / (1.0 - allowed * count)
        if allowed * (count + 1) >= 1.0 or ordered[count] <= level:
            return level
        count += 1


def cap_energy(
    factors: Sequence[Factors], norms: Sequence[Norms], coldkeys: Sequence[bytes], share: float
) -> list[Factors]:
    """The payloads' coefficients, times sqrt(L / energy) where their coldkey has more than L.

    One entry a payload in all three, in any order. Coldkeys without energy count nowhere.
    """
    parts: dict[bytes, list[float]] = {}
    for factor, norm, coldkey in zip(factors, norms, coldkeys, strict=True):
        parts.setdefault(coldkey, []).append(energy(factor, norm))
    energies = {coldkey: math.fsum(part) for coldkey, part in parts.items()}
    positive = [value for value in energies.values() if value > 0]
    if not positive:
        return list(factors)
    level = energy_level(positive, share)
    return [
        _scaled(factor, energies[coldkey], level)
        for factor, coldkey in zip(factors, coldkeys, strict=True)
    ]


def _scaled(factors: Factors, owned: float, level: float) -> Factors:
    if owned <= level:
        return factors
    scale = math.sqrt(level / owned)
    return {name: factor * scale for name, factor in factors.items()}
