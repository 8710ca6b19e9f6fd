"""Yuma once more, the slow way: lists of integers in the chain's 32.32 fixed point.

Follows the published description step by step (stake, weights, median, bonds, dividends) with
truncating arithmetic and rows that hold only what is there, as the runtime's do. It shares
nothing with the code under test but the types of its inputs; the exponential function is
Python's, rounded to fixed point.
"""

import math
from dataclasses import dataclass

from localnet.chain.yuma import EpochInputs

ONE = 1 << 32
U16 = 65_535
Row = dict[int, int]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """An epoch's results; shares are in units of 2**-32, the rest is u16 as stored."""

    consensus: list[int]
    incentive: list[int]
    dividends: list[int]
    validator_trust: list[int]
    bonds: list[dict[int, int]]
    new_permits: list[bool]
    server_share: list[int]
    validator_share: list[int]


def mul(a: int, b: int) -> int:
    return a * b // ONE


def div(a: int, b: int) -> int:
    return a * ONE // b


def shares(values: list[int]) -> list[int]:
    total = sum(values)
    return [div(value, total) if total else 0 for value in values]


def column_shares(rows: list[Row]) -> list[Row]:
    totals = [sum(row.get(j, 0) for row in rows) for j in range(len(rows))]
    return [{j: div(v, totals[j]) if totals[j] else v for j, v in row.items()} for row in rows]


def u16(share: int) -> int:
    return min(U16, share * U16 // ONE)


def median(scores: list[int], stake: list[int], kappa: int) -> int:
    """Search by the definition: the smallest score whose supporters from below outweigh."""
    voters = [(score, units) for score, units in zip(scores, stake, strict=True) if units]
    if not voters:
        return 0
    units = shares([units for _, units in voters])
    minority = sum(units) - div(kappa, U16)
    for candidate in sorted({score for score, _ in voters}):
        below = zip(voters, units, strict=True)
        if sum(share for (score, _), share in below if score <= candidate) > minority:
            return candidate
    return max(score for score, _ in voters)


def permits(stake: list[int], owner: int | None, limit: int) -> list[bool]:
    ranked = sorted(range(len(stake)), key=lambda uid: (stake[uid], uid), reverse=True)
    chosen = {uid for uid in ranked[:limit] if stake[uid] > 0} | {owner}
    return [uid in chosen for uid in range(len(stake))]


def weight_rows(inputs: EpochInputs, allowed: list[bool]) -> list[Row]:
    rows: list[Row] = []
    for uid, said in enumerate(inputs.weights):
        commit = inputs.commit_block[uid]
        row: Row = {}
        for other, value in sorted(said.items()):
            if not allowed[uid] or other >= len(inputs.weights):
                continue
            registered = inputs.block_at_registration[other]
            is_stale = inputs.last_update[uid] <= registered
            is_pending = commit is not None and commit < registered
            is_own = uid == other and uid != inputs.owner_uid
            if not (is_stale or is_pending or is_own):
                row[other] = value * ONE
        total = sum(row.values())
        rows.append({other: div(value, total) if total else 0 for other, value in row.items()})
    return rows


def bond_weights(inputs: EpochInputs, rows: list[Row], clipped: list[Row]) -> list[Row]:
    penalty = inputs.params.bonds_penalty
    if penalty == 0:
        return rows
    if penalty == U16:
        return clipped
    ratio = div(penalty, U16)
    mixed = [
        {j: value + mul(ratio, cut.get(j, 0) - value) for j, value in row.items()}
        for row, cut in zip(rows, clipped, strict=True)
    ]
    return [{j: value for j, value in row.items() if value > 0} for row in mixed]


def old_bonds(inputs: EpochInputs) -> list[Row]:
    size = len(inputs.bonds)
    return [
        {
            j: value * ONE
            for j, value in row.items()
            if j < size and inputs.block_at_registration[j] <= inputs.last_epoch_block
        }
        for row in inputs.bonds
    ]


def smoothed(new: list[Row], old: list[Row], alpha: int) -> list[Row]:
    size = range(len(new))
    rows = [
        {j: mul(alpha, n.get(j, 0)) + mul(ONE - alpha, o.get(j, 0)) for j in size}
        for n, o in zip(new, old, strict=True)
    ]
    return [{j: value for j, value in row.items() if value > 0} for row in rows]


def liquid(inputs: EpochInputs, new: list[Row], old: list[Row], consensus: list[int]) -> list[Row]:
    low, high = div(inputs.params.alpha_low, U16), div(inputs.params.alpha_high, U16)
    steepness = inputs.params.alpha_steepness / 100
    rows: list[Row] = []
    for n, o in zip(new, old, strict=True):
        row: Row = {}
        for j, weight in n.items():
            bond = o.get(j, 0)
            change = weight - consensus[j] if weight >= bond else bond - weight
            change = min(ONE, max(0, change))
            sigmoid = int(ONE / (1 + math.exp(-steepness * (change / ONE - 0.5))))
            alpha = min(high, max(low, low + mul(sigmoid, high - low)))
            row[j] = min(ONE, mul(ONE - alpha, bond) + mul(alpha, weight))
        rows.append({j: value for j, value in row.items() if value > 0})
    return rows


def bonds_and_dividends(
    inputs: EpochInputs,
    new: list[Row],
    stake: list[int],
    consensus: list[int],
    incentive: list[int],
) -> tuple[list[Row], list[int]]:
    params = inputs.params
    alpha = ONE - params.bonds_moving_average * ONE // 1_000_000
    old = old_bonds(inputs)
    if params.yuma3:
        old = [{j: value // U16 for j, value in row.items()} for row in old]
        is_liquid = params.liquid_alpha and any(consensus)
        bonds = liquid(inputs, new, old, consensus) if is_liquid else smoothed(new, old, alpha)
        owned = [sum(mul(v, incentive[j]) for j, v in row.items()) for row in column_shares(bonds)]
        return bonds, shares([mul(a, b) for a, b in zip(owned, stake, strict=True)])
    bought = [
        {j: mul(v, units) for j, v in row.items()} for row, units in zip(new, stake, strict=True)
    ]
    bonds = column_shares(smoothed(column_shares(bought), column_shares(old), alpha))
    dividends = shares([sum(mul(v, incentive[j]) for j, v in row.items()) for row in bonds])
    largest = [max((row.get(j, 0) for row in bonds), default=0) for j in range(len(bonds))]
    return [{j: div(v, largest[j]) for j, v in row.items() if v} for row in bonds], dividends


def reference_epoch(inputs: EpochInputs) -> Reference:
    """One epoch, every step truncated to 2**-32."""
    params, owner = inputs.params, inputs.owner_uid
    uids = range(len(inputs.stake_rao))
    counted = [
        rao if rao >= params.stake_threshold_rao or uid == owner else 0
        for uid, rao in enumerate(inputs.stake_rao)
    ]
    stake = shares(counted)
    allowed = [inputs.validator_permit[uid] or uid == owner for uid in uids]
    cutoff = params.activity_cutoff_blocks
    active = [inputs.last_update[uid] + cutoff >= inputs.block for uid in uids]
    voting = shares([stake[uid] if active[uid] and allowed[uid] else 0 for uid in uids])
    rows = weight_rows(inputs, allowed)
    consensus = [median([row.get(j, 0) for row in rows], voting, params.kappa) for j in uids]
    clipped = [
        {j: min(v, consensus[j]) for j, v in row.items() if v <= consensus[j] or consensus[j]}
        for row in rows
    ]
    ranks = [sum(mul(voting[i], clipped[i].get(j, 0)) for i in uids) for j in uids]
    incentive = shares(ranks)
    new = bond_weights(inputs, rows, clipped)
    bonds, dividends = bonds_and_dividends(inputs, new, voting, consensus, incentive)
    kept = permits(stake, owner, params.max_allowed_validators)
    nobody_earns = not any(incentive) and not any(dividends)
    fallback = voting if any(voting) else stake
    return Reference(
        consensus=[u16(share) for share in consensus],
        incentive=[u16(share) for share in incentive],
        dividends=[u16(share) for share in dividends],
        validator_trust=[u16(sum(row.values())) for row in clipped],
        bonds=[
            {j: u16(v) for j, v in row.items() if u16(v)} if kept[uid] else {}
            for uid, row in enumerate(bonds)
        ],
        new_permits=kept,
        server_share=incentive,
        validator_share=fallback if nobody_earns else dividends,
    )
