"""The caps on the length of a payload's tensors, and on a coldkey's share of an update's energy.

The length of a tensor is coefficient * norm. The clip compares norms with those of windows before,
which are two to five times as large once the learning rate has decayed; so a tensor is also cut to
a multiple of its usual length among the payloads of the step.

A payload's energy is the sum over tensors of squared lengths. The energy of a coldkey or an update
is the sum over the payloads. Coldkeys above the allowed share are scaled down to a common level;
all payloads of smaller coldkeys stay unchanged, bit for bit. A coldkey that sends parts of the
model is compared by its energy over the share of the model that its payloads hold together, so that
parts neither make whole payloads look large nor are large themselves. A tensor in several of its
payloads counts once, or hotkeys of one coldkey on one part would escape the cap.

Pure, and the same bits on every node: doubles with + - * / and square root; `math.fsum` rounds a
sum once, for any order.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence

Factors = Mapping[str, float]
Norms = Mapping[str, float]


def energy(factors: Factors, norms: Norms) -> float:
    """Energy of a payload, from coefficients and norms by tensor."""
    lengths = [factor * norms[name] for name, factor in factors.items()]
    return math.fsum(length * length for length in lengths)


def cap_lengths(
    factors: Sequence[Factors], norms: Sequence[Norms], coldkeys: Sequence[bytes], ratio: float
) -> list[Factors]:
    """The payloads' coefficients, cut where a tensor is longer than `ratio` times the usual length
    of the tensor among these payloads; 0: no cut.

    `factors`, `norms`, `coldkeys`: as of `cap_energy`. The usual length is the upper median over
    the coldkeys that hold the tensor with a length, each with its longest: an honest length while
    fewer than half of those are dishonest, and no cut for one or two, where a comparison is
    impossible. Tensor by tensor, since one tensor has most of a payload's length (the embedding),
    and would hide long ones.
    """
    if ratio == 0:
        return list(factors)
    lengths: dict[str, dict[bytes, float]] = {}
    for factor, norm, coldkey in zip(factors, norms, coldkeys, strict=True):
        for name, value in factor.items():
            length, held = value * norm[name], lengths.setdefault(name, {})
            if length > held.get(coldkey, 0.0):
                held[coldkey] = length
    limits = {
        name: ratio * statistics.median_high(held.values())
        for name, held in lengths.items()
        if held
    }
    return [_within(factor, norm, limits) for factor, norm in zip(factors, norms, strict=True)]


def _within(factors: Factors, norms: Norms, limits: Mapping[str, float]) -> Factors:
    lengths = {name: factor * norms[name] for name, factor in factors.items()}
    long = {name for name, length in lengths.items() if length > limits.get(name, 0.0)}
    # Payloads within the limits keep their factors bit for bit.
    return factors if not long else {
        name: factor * (limits[name] / lengths[name]) if name in long else factor
        for name, factor in factors.items()
    }  # fmt: skip


def allowed_share(num_coldkeys: int, share: float) -> float:
    """Allowed share of the update's energy: max(share, 2 / num_coldkeys).

    With one or two coldkeys a comparison is impossible, and n_min alone is the bound. Twice an
    equal part, since with an equal part the smallest of a few payloads would scale all others
    down. So a coldkey among a majority of equals is never cut.
    """
    return max(share, 2.0 / num_coldkeys)


def energy_level(energies: Sequence[float], share: float) -> float:
    """L, the maximum energy of a coldkey: the solution of L = share * sum(min(e, L)).

    `energies` are positive, at least one. Without a coldkey above the allowed share, L lies above
    all energies. With the k largest cut to L, L = share * (k L + rest); k is the smallest number
    for which the next energy lies below L. k stays under 1 / share, so the divisor is positive.
    """
    ordered = sorted(energies, reverse=True)
    allowed = allowed_share(len(ordered), share)
    count = 0
    while True:
        # A sum from the sorted energies each time: a running difference would lose bits.
        level = allowed * math.fsum(ordered[count:]) / (1.0 - allowed * count)
        if allowed * (count + 1) >= 1.0 or ordered[count] <= level:
            return level
        count += 1


def cap_energy(
    factors: Sequence[Factors],
    norms: Sequence[Norms],
    coldkeys: Sequence[bytes],
    share: float,
    sizes: Mapping[str, int] | None = None,
) -> list[Factors]:
    """The payloads' coefficients, times sqrt(L / energy) for a coldkey with energy above L.

    `factors`, `norms` and `coldkeys` have an entry for each payload, in any common order. `sizes`:
    parameters of each tensor of the model, of which a payload holds those with a norm; None: every
    payload holds all. Coldkeys without energy are left out of the count.
    """
    parts: dict[bytes, list[float]] = {}
    held: dict[bytes, set[str]] = {}
    for factor, norm, coldkey in zip(factors, norms, coldkeys, strict=True):
        parts.setdefault(coldkey, []).append(energy(factor, norm))
        held.setdefault(coldkey, set()).update(norm)
    energies = {}
    for coldkey, part in parts.items():
        total = math.fsum(part)
        # A part without parameters has no energy, and no share to divide by.
        energies[coldkey] = total / _share_of(held[coldkey], sizes) if total else 0.0
    positive = [value for value in energies.values() if value > 0]
    if not positive:
        return list(factors)
    level = energy_level(positive, share)
    return [
        _scale_down(factor, energies[coldkey], level)
        for factor, coldkey in zip(factors, coldkeys, strict=True)
    ]


def _share_of(names: Collection[str], sizes: Mapping[str, int] | None) -> float:
    if sizes is None:
        return 1.0
    # Of integers, so the order of the names is nothing to the quotient.
    return sum(sizes[name] for name in names) / sum(sizes.values())


def _scale_down(factors: Factors, owned: float, level: float) -> Factors:
    # Small coldkeys keep their factors bit for bit; the ratio below would scale them up.
    if owned <= level:
        return factors
    scale = math.sqrt(level / owned)
    return {name: factor * scale for name, factor in factors.items()}
