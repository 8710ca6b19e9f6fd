"""The caps on lengths and on energy: exact where nobody exceeds, elsewhere to a level."""

import math
import statistics
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from template.training.energy import (
    allowed_share,
    cap_energy,
    cap_lengths,
    energy,
    energy_level,
)

positive = st.floats(1e-12, 1e12)
shares = st.floats(0.01, 1.0)
energies = st.lists(positive, min_size=1, max_size=40)


def _exact_level(values: list[float], share: float) -> Fraction:
    """The level in rational numbers, by bisection over how many of the largest are cut."""
    ordered = sorted(map(Fraction, values), reverse=True)
    allowed = Fraction(allowed_share(len(values), share))
    for count in range(len(ordered)):
        if allowed * count >= 1:
            break
        level = allowed * sum(ordered[count:]) / (1 - allowed * count)
        if ordered[count] <= level:
            return level
    raise AssertionError("no level holds")


def _payloads(values: list[float]) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Coefficients and norms of two tensors with such energies, split unevenly."""
    factors = [{"a": 0.6 * math.sqrt(v), "b": 0.8 * math.sqrt(v) / 8} for v in values]
    return factors, [{"a": 1.0, "b": 8.0}] * len(values)


def test_energy_is_the_sum_of_squared_lengths() -> None:
    assert energy({"a": 2.0, "b": 0.5}, {"a": 3.0, "b": 8.0}) == 36.0 + 16.0
    assert energy({}, {}) == 0.0


@pytest.mark.parametrize(
    ("values", "share", "level"),
    [
        ([5.0], 0.25, 10.0),
        ([5.0, 1e-9], 0.25, 5.0 + 1e-9),
        ([8.0, 1.0, 1.0], 0.25, 4.0),
        ([8.0, 1.0, 1.0, 1.0], 0.25, 3.0),
        ([9.0, *[1.0] * 9], 0.25, 3.0),
        ([9.0, 8.0, *[1.0] * 8], 0.25, 4.0),
        ([9.0, 8.0, 7.0, *[1.0] * 7], 0.25, 7.0),
        ([100.0, 80.0, 70.0, *[1.0] * 7], 0.25, 7.0),
        ([9.0, *[1.0] * 9], 1.0, 18.0),
    ],
)
def test_levels(values, share, level) -> None:
    """One and two payloads: no cap; three: 2/3, four: half; from 2/s on: s."""
    assert energy_level(values, share) == pytest.approx(level)


@given(energies, shares)
def test_the_level_solves_its_equation(values, share) -> None:
    level = energy_level(values, share)
    exact = _exact_level(values, share)
    assert level == pytest.approx(float(exact), rel=1e-9)


@given(energies, shares, st.data())
def test_no_coldkey_keeps_more_than_its_share_and_order_is_nothing(values, share, data) -> None:
    owners = [data.draw(st.integers(0, len(values) - 1)).to_bytes(2, "little") for _ in values]
    factors, norms = _payloads(values)
    capped = cap_energy(factors, norms, owners, share)
    kept: dict[bytes, list[float]] = {}
    for owner, factor, norm in zip(owners, capped, norms, strict=True):
        kept.setdefault(owner, []).append(energy(factor, norm))
    totals = [math.fsum(parts) for parts in kept.values()]
    allowed = allowed_share(len(totals), share)
    assert max(totals) <= allowed * math.fsum(totals) * (1 + 1e-9)
    assert all(c[name] <= f[name] for c, f in zip(capped, factors, strict=True) for name in f)
    order = data.draw(st.permutations(range(len(values))))
    again = cap_energy(
        [factors[i] for i in order], [norms[i] for i in order], [owners[i] for i in order], share
    )
    assert again == [capped[i] for i in order]


@given(energies, shares)
def test_nothing_changes_where_nobody_exceeds(values, share) -> None:
    factors, norms = _payloads(values)
    spent = [Fraction(energy(f, n)) for f, n in zip(factors, norms, strict=True)]
    assume(
        max(spent)
        <= Fraction(allowed_share(len(values), share)) * sum(spent) * (1 - Fraction(1, 10**9))
    )
    capped = cap_energy(factors, norms, [bytes([i]) for i in range(len(values))], share)
    assert all(c is f for c, f in zip(capped, factors, strict=True))


@settings(max_examples=50)
@given(positive, st.integers(1, 20), st.data(), shares)
def test_no_minority_cuts_a_majority_of_equals(value, count, data, share) -> None:
    """However small the others' payloads are."""
    minority = data.draw(st.lists(positive, max_size=count))
    assume(all(other <= value for other in minority))
    factors, norms = _payloads([value] * count + minority)
    owners = [bytes([i]) for i in range(len(factors))]
    capped = cap_energy(factors, norms, owners, share)
    for before, after in zip(factors[:count], capped, strict=False):
        assert after["a"] == pytest.approx(before["a"], rel=1e-12)


def test_what_is_cut_keeps_its_direction_and_the_others_their_bits() -> None:
    factors, norms = _payloads([100.0, *[1.0] * 9])
    capped = cap_energy(factors, norms, [bytes([i]) for i in range(10)], 0.25)
    assert capped[1:] == factors[1:]
    scale = math.sqrt(3.0 / 100.0)
    assert capped[0] == pytest.approx({n: f * scale for n, f in factors[0].items()})


def test_payloads_of_one_coldkey_count_together_and_empty_ones_nowhere() -> None:
    values = [1.0] * 5 + [1.0] * 5
    factors, norms = _payloads(values)
    owners = [b"one"] * 5 + [bytes([i]) for i in range(5)]
    capped = cap_energy(factors, norms, owners, 0.25)
    kept = [energy(f, n) for f, n in zip(capped, norms, strict=True)]
    assert kept[0] == pytest.approx(kept[4]) == pytest.approx(0.5)
    assert sum(kept[:5]) == pytest.approx(sum(kept) * 2 / 6)
    alone = cap_energy(factors, norms, [b"one"] * 10, 0.25)
    assert alone == factors, "one coldkey: only n_min bounds it"
    empty = [{"a": 0.0, "b": 0.0}] * 6
    padded = cap_energy([*factors[:4], *empty], norms, [bytes([i]) for i in range(10)], 0.1)
    assert padded == [*factors[:4], *empty], "six coldkeys without energy do not lower the share"
    assert cap_energy(empty, norms[:6], [bytes([i]) for i in range(6)], 0.25) == empty


SIZES = dict.fromkeys("pqrs", 25)
"""Of a model of four quarters."""

Parts = tuple[list[dict[str, float]], list[dict[str, float]]]


def _of_parts(payloads: list[tuple[str, float]]) -> Parts:
    """Coefficients and norms of payloads: the names of the quarters held, and the energy of each
    quarter.
    """
    factors = [dict.fromkeys(names, math.sqrt(value)) for names, value in payloads]
    return factors, [dict.fromkeys(names, 1.0) for names, _ in payloads]


def test_a_whole_payload_beside_six_quarters_is_not_cut_and_long_quarters_are() -> None:
    """Honest payloads have energies about in proportion to what of the model they hold."""
    owners = [bytes([i]) for i in range(7)]
    factors, norms = _of_parts([("pqrs", 1.0), *[(name, 1.0) for name in "pqrspq"]])
    assert cap_energy(factors, norms, owners, 0.25, SIZES) == factors
    assert cap_energy(factors, norms, owners, 0.25) != factors, "without sizes it is cut"
    factors, norms = _of_parts([("pqrs", 1.0), ("p", 100.0), *[(n, 1.0) for n in "qrspq"]])
    capped = cap_energy(factors, norms, owners, 0.25, SIZES)
    assert capped[0] == factors[0]
    assert capped[2:] == factors[2:]
    # 24 of density from the others, and a share of 2/7 of all: so much is left to the long one.
    scale = math.sqrt(24.0 * (2 / 7) / (5 / 7) / 400.0)
    assert capped[1] == pytest.approx({n: f * scale for n, f in factors[1].items()})


def test_parts_of_one_coldkey_count_by_what_they_hold_together() -> None:
    """Four different quarters are a model; more of them hold no more than all of it."""
    owners = [b"one"] * 4 + [bytes([i]) for i in range(7)]
    wholes = [("pqrs", 1.0)] * 7
    factors, norms = _of_parts([*[(name, 1.0) for name in "pqrs"], *wholes])
    assert cap_energy(factors, norms, owners, 0.25, SIZES) == factors
    many = [b"one"] * 40 + [bytes([i]) for i in range(7)]
    factors, norms = _of_parts([*[(name, 1.0) for name in "pqrs" * 10], *wholes])
    capped = cap_energy(factors, norms, many, 0.25, SIZES)
    assert capped[40:] == factors[40:]
    kept = [energy(f, n) for f, n in zip(capped, norms, strict=True)]
    assert sum(kept[:40]) == pytest.approx(sum(kept) / 4)


def test_hotkeys_of_one_coldkey_on_one_part_share_the_cap_of_one_part() -> None:
    """A miner chooses the number of parts when the draw is known: all its hotkeys find one part."""
    owners = [b"one"] * 4 + [bytes([i]) for i in range(8)]
    wholes = [("pqrs", 1.0)] * 8
    factors, norms = _of_parts([("p", 1.0)] * 4 + wholes)
    capped = cap_energy(factors, norms, owners, 0.25, SIZES)
    assert capped[4:] == factors[4:]
    # As dense as two and two thirds of a whole payload: a quarter of all, over a quarter of it.
    kept = math.fsum(energy(f, n) for f, n in zip(capped[:4], norms, strict=False))
    assert kept == pytest.approx(8 * 4 / 3 / 4)


def test_a_share_of_nothing_divides_nothing() -> None:
    factors, norms = _of_parts([("pqrs", 1.0), ("pqrs", 1.0), ("", 0.0)])
    owners = [bytes([i]) for i in range(3)]
    assert cap_energy(factors, norms, owners, 0.25, SIZES) == factors


@given(energies, shares)
def test_whole_payloads_are_capped_as_without_sizes_bit_for_bit(values, share) -> None:
    factors, norms = _payloads(values)
    owners = [bytes([i % 5]) for i in range(len(values))]
    sizes = {"a": 3, "b": 40}
    assert cap_energy(factors, norms, owners, share, sizes) == cap_energy(
        factors, norms, owners, share
    )


def _own(payloads: list[dict[str, float]]) -> list[bytes]:
    """A coldkey for each payload."""
    return [bytes([index]) for index in range(len(payloads))]


@pytest.mark.parametrize(
    ("lengths", "kept"),
    [
        ([5.0], [5.0]),
        ([1e-9, 5.0], [1e-9, 5.0]),
        ([1.0, 2.0, 100.0], [1.0, 2.0, 2.5]),
        ([1.0, 1.0, 9.0, 9.0], [1.0, 1.0, 9.0, 9.0]),
        ([1.0, 1.0, 1.0, 9.0], [1.0, 1.0, 1.0, 1.25]),
        ([0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 9.0], [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.25]),
        ([1.0, 1.0, 1.25], [1.0, 1.0, 1.25]),
        ([0.0, 0.0], [0.0, 0.0]),
        ([], []),
    ],
)
def test_a_tensor_is_cut_to_a_multiple_of_its_usual_length(lengths, kept) -> None:
    """1.25 times the upper median; one payload, two, or half of all have nothing above them."""
    norms = [{"a": 4.0, "b": 1.0} for _ in lengths]
    factors = [{"a": length / 4.0, "b": 3.0} for length in lengths]
    capped = cap_lengths(factors, norms, _own(factors), 1.25)
    assert [f["a"] * 4.0 for f in capped] == pytest.approx(kept)
    for before, after, length, left in zip(factors, capped, lengths, kept, strict=True):
        assert (after is before) == (length == left)
        assert after["b"] == 3.0, "the other tensor is as it was"
    off = cap_lengths(factors, norms, _own(factors), 0.0)
    assert all(after is before for after, before in zip(off, factors, strict=True))


@given(energies, st.floats(1.0, 10.0), st.data())
def test_a_minority_lengthens_no_tensor_beyond_the_ratio_of_an_honest_one(
    honest, ratio, data
) -> None:
    """Nor does it cut the shortest honest one, whatever it sends; order is nothing."""
    others = data.draw(st.lists(st.floats(0.0, 1e12), max_size=len(honest) - 1))
    lengths = [*honest, *others]
    factors, norms = [{"a": length} for length in lengths], [{"a": 1.0}] * len(lengths)
    capped = cap_lengths(factors, norms, _own(factors), ratio)
    shortest = honest.index(min(honest))
    assert capped[shortest] is factors[shortest]
    level = ratio * statistics.median_high([length for length in lengths if length > 0])
    assert level <= ratio * max(honest)
    for length, after in zip(lengths, capped, strict=True):
        assert after["a"] == (length if length <= level else pytest.approx(level))
    order = data.draw(st.permutations(range(len(lengths))))
    moved = [factors[i] for i in order]
    assert cap_lengths(moved, norms, _own(moved), ratio) == [capped[i] for i in order]


def test_a_tensor_is_compared_among_those_who_hold_it() -> None:
    factors, norms = _of_parts([("p", 1.0), ("p", 1.0), ("pq", 1.0), ("pq", 100.0), ("q", 1.0)])
    capped = cap_lengths(factors, norms, _own(factors), 1.25)
    assert capped[:3] + capped[4:] == factors[:3] + factors[4:]
    assert capped[3] == {"p": 1.25, "q": 1.25}
    nothing, none = _of_parts([("", 0.0)])
    assert cap_lengths(nothing, none, _own(nothing), 1.25) == nothing


def test_many_short_payloads_of_one_coldkey_cut_nobody() -> None:
    """A coldkey counts once, with its longest payload."""
    lengths = [1.0, 1.0, 0.9, *[0.01] * 9, 0.02]
    factors, norms = [{"a": length} for length in lengths], [{"a": 1.0}] * len(lengths)
    owners = [b"x", b"y", b"z", *[b"many"] * 10]
    assert cap_lengths(factors, norms, owners, 1.25) == factors
    assert cap_lengths(factors, norms, _own(factors), 1.25)[0] == {"a": 0.0125}
