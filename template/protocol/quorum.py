"""The accepted set of a window: a pure function of two chain states.

Votes and stakes alone decide; scores and miners' choices take no part. Stakes are integers
(rao), so every node finds the same majority.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from template.protocol.holders import payload_line
from template.protocol.member import Member
from template.protocol.record import PACES, Support, Vote

LEAD_WINDOWS = 6
"""Windows from the ballot that adopts a spec to the spec's first window.

More than a void takes, so that no step before the switch is open by then; and time for operators:
the result is final four windows before the switch.
"""
VOID_WINDOWS = 4
"""Consecutive windows with authority for the root before a window, until the window is void.

A smaller number gives payloads up over a short outage; a larger number stops the run for longer.
"""

VOID = "void: most of the stake lacked payloads"
"""The reason for the empty set of a void window."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Voter:
    """A hotkey with a validator permit whose vote on the window stood at the vote block.

    `support`: for a spec that continues the run, beside the vote.
    """

    uid: int
    hotkey: str
    stake_rao: int
    vote: Vote
    support: Support | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Ballot:
    """The candidates and votes of one window.

    `candidates`: uid -> committed payload, of hotkeys registered at the stake block.
    `voters`: the standing votes. `seed`: hash of the stake block, to break ties.
    """

    window: int
    seed: bytes
    candidates: Mapping[int, Member]
    voters: Sequence[Voter]

    @property
    def stake_rao(self) -> int:
        return sum(voter.stake_rao for voter in self.voters)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuorumRules:
    """Limits on an accepted set.

    `peers_per_step`: maximum of payloads in a step. `reference_windows`: the reference stake loses
    one part in so many per window. `min_reference_rao`: the reference stake never falls below.
    `alpha_windows`: votes move alpha in the windows below.
    """

    peers_per_step: int
    reference_windows: int
    min_reference_rao: int
    alpha_windows: int


def next_reference(reference_rao: int, voting_stake_rao: int, rules: QuorumRules) -> int:
    """The reference stake of a window, in rao: the stake of which more than half decides.

    The largest of the window's voting stake, the reference of the window before less one part in
    `reference_windows`, and `min_reference_rao`. A voter that sleeps stays in the reference, so
    the voters awake decide nothing alone until the sleepers' part has decayed: the reference
    halves in about 0.69 * `reference_windows` windows.
    """
    # Rounded up, or a reference below `reference_windows` rao would never decay.
    loss_rao = -(-reference_rao // rules.reference_windows)
    return max(voting_stake_rao, reference_rao - loss_rao, rules.min_reference_rao)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The chain's decision on one window.

    `reference_rao`: the stake of which more than half decides, from `next_reference`. `root` and
    `sample_digest`: the values with authority, or None. `members`: A_w in uid order. `namers`: uid
    of a member -> hotkeys of the voters for the member, who hold the payload, its holders first
    (`template.protocol.holders`). `dissenters`: uids of voters with another root or sample digest.
    `undelivered`: candidates whose bytes at least half of the reference reports missing. `pace`:
    the move of alpha's exponent after the step, 0 with an empty set and from `alpha_windows` on.
    `adopted`: id of the spec that this ballot adopts for `LEAD_WINDOWS` later, or empty.
    `no_op`: reason for an empty set, or "". `is_jump`: the node has joined anew past this window,
    and does not know what was applied in it.
    """

    window: int
    members: tuple[Member, ...]
    namers: Mapping[int, tuple[str, ...]]
    root: bytes | None
    sample_digest: bytes | None
    dissenters: tuple[int, ...]
    undelivered: tuple[Member, ...]
    voting_stake_rao: int
    reference_rao: int
    no_op: str
    is_jump: bool = False
    pace: int = 0
    adopted: bytes = b""

    @property
    def is_void(self) -> bool:
        """Whether a stuck majority gave the payloads up."""
        return self.no_op == VOID


def decide(ballot: Ballot, reference_rao: int, rules: QuorumRules) -> Decision:
    """Count a ballot. `reference_rao`: the reference stake of the window before; 0 before window 0.

    A root, a sample digest, a uid or a pace has authority with votes of more than half of the
    window's reference stake: the votes of one window prove nothing while much of the stake sleeps.
    So has a supported spec. Without a root with authority the window is a no-op, and adopts none.
    Votes with another root name nobody and
    report nothing missing. A payload is undelivered if half of the reference reports the payload
    missing.
    When more than `peers_per_step` uids win, the uids with the most stake stay; SHA-256(seed,
    hotkey) breaks ties.

    If liars hold less than half of the reference, every value with authority has the vote of an
    honest voter; two values of one kind cannot both have authority.
    """
    reference_rao = next_reference(reference_rao, ballot.stake_rao, rules)
    root = _find_authority([(v.vote.root, v.stake_rao) for v in ballot.voters], reference_rao)
    # Voters on another root measured another model, so their uids say little about this one.
    agreeing = [v for v in ballot.voters if v.vote.root == root]
    sample = _find_authority([(v.vote.sample_digest, v.stake_rao) for v in agreeing], reference_rao)
    members = _select_members(ballot, agreeing, reference_rao, rules.peers_per_step)
    is_moving = bool(members) and ballot.window < rules.alpha_windows
    return Decision(
        window=ballot.window,
        members=members,
        namers={m.uid: _find_namers(ballot, m, agreeing) for m in members},
        root=root,
        sample_digest=sample,
        dissenters=() if root is None else _find_dissenters(ballot.voters, root, sample),
        undelivered=_find_undelivered(ballot, agreeing, reference_rao),
        voting_stake_rao=ballot.stake_rao,
        reference_rao=reference_rao,
        no_op="" if members else _why_nobody(ballot, root, reference_rao),
        pace=_find_pace(agreeing, reference_rao) if is_moving else 0,
        adopted=_find_adopted(ballot.window + LEAD_WINDOWS, agreeing, reference_rao),
    )


def find_standing_authority(
    voters: Sequence[Voter], window: int, rules: QuorumRules
) -> Vote | None:
    """The newest standing vote with authority at the vote block of `window`, or None.

    For a reader without a state, and so without the reference stake. `voters`: all standing
    votes, each hotkey's newest. A voter counts as awake up to the window of its vote and as asleep
    afterwards, so the reference decays from the voters of the past as in `next_reference`. A vote
    is compared with the reference of its own window: a later, smaller reference would give an old
    minority authority. Votes count as equal by window, root and sample digest.
    """
    standing = [voter for voter in voters if voter.vote.window <= window]
    windows = {voter.vote.window for voter in standing}
    references_rao, reference_rao = {}, 0
    for past in range(min(windows, default=window), window + 1):
        awake_rao = sum(v.stake_rao for v in standing if v.vote.window >= past)
        reference_rao = next_reference(reference_rao, awake_rao, rules)
        references_rao[past] = reference_rao
    for past in sorted(windows, reverse=True):
        votes = {_content(v.vote): v.vote for v in standing if v.vote.window == past}
        weighted = [(_content(v.vote), v.stake_rao) for v in standing if v.vote.window == past]
        found = _find_authority(weighted, references_rao[past])
        if found is not None:
            return votes[found]
    return None


def _content(vote: Vote) -> bytes:
    return vote.root + vote.sample_digest


def is_void(root: bytes, later: Sequence[bytes | None]) -> bool:
    """Whether the accepted set of window w is void, and counts as empty.

    `root`: R_{w+1} in a vote's 16 bytes, the root of a model without the set of w. `later`:
    `Decision.root` of the windows w + 1, w + 2, ... A validator without a payload of the set
    votes the newest root of its own, so repeated authority for R_{w+1} means a stuck majority.
    """
    return len(later) >= VOID_WINDOWS and all(voted == root for voted in later[:VOID_WINDOWS])


def voided(decision: Decision) -> Decision:
    """The decision with an empty set, after a stuck majority gave the payloads up."""
    return replace(decision, members=(), namers={}, no_op=VOID, pace=0)


def _find_authority(weighted: Sequence[tuple[bytes, int]], reference_rao: int) -> bytes | None:
    """The value with more than half of the reference stake, or None."""
    totals: dict[bytes, int] = {}
    for value, stake_rao in weighted:
        totals[value] = totals.get(value, 0) + stake_rao
    # Twice the integer, since half of an odd total is no integer; exactly half is not enough. The
    # reference is at least the voting stake, so at most one value passes.
    return next((value for value, rao in totals.items() if 2 * rao > reference_rao), None)


def _find_pace(agreeing: Sequence[Voter], reference_rao: int) -> int:
    """The pace with more than half of the reference stake; 0 where none has."""
    stakes_rao = {pace: sum(v.stake_rao for v in agreeing if v.vote.pace == pace) for pace in PACES}
    return next((pace for pace, rao in stakes_rao.items() if 2 * rao > reference_rao), 0)


def _find_adopted(first_window: int, agreeing: Sequence[Voter], reference_rao: int) -> bytes:
    """Id of the spec that more than half of the reference stake supports for a window, or empty."""
    weighted = [
        (voter.support.spec, voter.stake_rao)
        for voter in agreeing
        if voter.support is not None and voter.support.window == first_window
    ]
    return _find_authority(weighted, reference_rao) or b""


def _find_dissenters(voters: Sequence[Voter], root: bytes, sample: bytes | None) -> tuple[int, ...]:
    """Uids of voters off the majority's root, or off the majority's sample digest if any."""
    return tuple(
        sorted(
            v.uid
            for v in voters
            if v.vote.root != root or sample not in (None, v.vote.sample_digest)
        )
    )


def _why_nobody(ballot: Ballot, root: bytes | None, reference_rao: int) -> str:
    if ballot.stake_rao == 0:
        return "no stake voted"
    if 2 * ballot.stake_rao <= reference_rao:
        return "half of the reference stake or more is away"
    if root is None:
        return "no root has more than half of the reference stake"
    return "no payload was named by more than half of the reference stake"


def _select_members(
    ballot: Ballot, agreeing: Sequence[Voter], reference_rao: int, limit: int
) -> tuple[Member, ...]:
    named_rao = {
        uid: sum(v.stake_rao for v in agreeing if uid in v.vote.uids) for uid in ballot.candidates
    }
    won = [uid for uid, stake in named_rao.items() if 2 * stake > reference_rao]
    # Block hash and hotkey break ties: by uid, the oldest registrations would always win.
    won.sort(
        key=lambda uid: (-named_rao[uid], _tie_break(ballot.seed, ballot.candidates[uid].hotkey))
    )
    # In uid order, the order of the outer step's sums and of the root.
    return tuple(ballot.candidates[uid] for uid in sorted(won[:limit]))


def _find_undelivered(
    ballot: Ballot, agreeing: Sequence[Voter], reference_rao: int
) -> tuple[Member, ...]:
    # A voter that names a uid has fetched the payload: its missing bit is a contradiction.
    missed_rao = {
        uid: sum(v.stake_rao for v in agreeing if uid in v.vote.missing - v.vote.uids)
        for uid in ballot.candidates
    }
    # Half is enough here: with half missing, more than half for the payload is out of reach.
    lost = sorted(uid for uid, rao in missed_rao.items() if rao and 2 * rao >= reference_rao)
    return tuple(ballot.candidates[uid] for uid in lost)


def _tie_break(seed: bytes, hotkey: str) -> bytes:
    return hashlib.sha256(seed + hotkey.encode("ascii")).digest()


def _find_namers(ballot: Ballot, member: Member, agreeing: Sequence[Voter]) -> tuple[str, ...]:
    naming = {v.hotkey for v in agreeing if member.uid in v.vote.uids}
    line = payload_line(ballot.seed, member.digest, {v.hotkey: v.stake_rao for v in ballot.voters})
    return tuple(hotkey for hotkey in line if hotkey in naming)
