"""The accepted set of a window: a pure function of two chain states.

Votes and stakes alone decide; scores and miners' choices take no part. Stakes are integers
(rao), so every node finds the same majority.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from template.protocol.record import Vote
from template.protocol.root import Member

VOID_WINDOWS = 4
"""Consecutive windows in which a stake majority must report being stuck before a window is voided.

A smaller number gives payloads up over a short outage; a larger number stops the run for longer.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Voter:
    """A hotkey with a validator permit whose vote on the window stood at the vote block."""

    uid: int
    hotkey: str
    stake_rao: int
    vote: Vote


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

    `peers_per_step`: maximum of payloads in a step. `min_quorum_percent`: share of the largest
    voting stake of the last `quorum_windows` windows, in percent; a window with less is a no-op.
    """

    peers_per_step: int
    min_quorum_percent: int
    quorum_windows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The chain's decision on one window.

    `members`: A_w in uid order. `namers`: uid of a member -> hotkeys of the voters for the
    member, by descending stake; their buckets hold the payload. `root` and `sample_digest`: the
    values of more than half of the voting stake, None without a majority or a quorum.
    `dissenters`: uids of voters with another root or sample digest. `undelivered`: candidates
    whose bytes at least half of the voting stake reports missing. `no_op`: reason for an empty
    set, or "".
    """

    window: int
    members: tuple[Member, ...]
    namers: Mapping[int, tuple[str, ...]]
    root: bytes | None
    sample_digest: bytes | None
    dissenters: tuple[int, ...]
    undelivered: tuple[Member, ...]
    voting_stake_rao: int
    no_op: str


def decide(ballot: Ballot, past_stakes_rao: Sequence[int], rules: QuorumRules) -> Decision:
    """Count a ballot. `past_stakes_rao`: voting stakes of the windows before, latest last.

    A uid is accepted if votes with more than half of the voting stake name the uid. A vote with a
    minority root counts toward the total stake, but accepts no payload and reports none missing. A
    payload is undelivered if half of the voting stake reports the payload missing. When more than
    `peers_per_step` uids win, the uids with the most stake stay; SHA-256(seed, hotkey) breaks ties.
    """
    no_op = _why_no_quorum(ballot, past_stakes_rao, rules)
    counted = [] if no_op else ballot.voters
    # Every majority is one of all votes: dissenters lower the support of each uid, too.
    root = _find_majority([(v.vote.root, v.stake_rao) for v in counted], ballot.stake_rao)
    # Voters on another root measured another model, so their uids say little about this one.
    agreeing = [v for v in counted if v.vote.root == root]
    sample = _find_majority(
        [(v.vote.sample_digest, v.stake_rao) for v in agreeing], ballot.stake_rao
    )
    members = _select_members(ballot, agreeing, rules.peers_per_step)
    return Decision(
        window=ballot.window,
        members=members,
        namers={m.uid: _find_namers(m.uid, agreeing) for m in members},
        root=root,
        sample_digest=sample,
        dissenters=() if root is None else _find_dissenters(counted, root, sample),
        undelivered=_find_undelivered(ballot, agreeing),
        voting_stake_rao=ballot.stake_rao,
        no_op=no_op or ("" if members else "no payload was named by a majority"),
    )


def is_void(root: bytes, later: Sequence[bytes | None]) -> bool:
    """Whether the accepted set of window w is void, and counts as empty.

    `root`: R_{w+1} in a vote's 16 bytes, the root of a model without the set of w. `later`:
    `Decision.root` of the windows w + 1, w + 2, ... A validator without a payload of the set
    votes the newest root of its own, so repeated majorities for R_{w+1} mean a stuck majority.
    """
    return len(later) >= VOID_WINDOWS and all(voted == root for voted in later[:VOID_WINDOWS])


def voided(decision: Decision) -> Decision:
    """The decision with an empty set, after a stuck majority gave the payloads up."""
    return replace(decision, members=(), namers={}, no_op="void: most of the stake lacked payloads")


def _find_majority(weighted: Sequence[tuple[bytes, int]], total_rao: int) -> bytes | None:
    """The value of more than half of the total stake, or None."""
    totals: dict[bytes, int] = {}
    for value, stake_rao in weighted:
        totals[value] = totals.get(value, 0) + stake_rao
    # Twice the integer, since half of an odd total is no integer; exactly half is no majority.
    return next((value for value, rao in totals.items() if 2 * rao > total_rao), None)


def _find_dissenters(voters: Sequence[Voter], root: bytes, sample: bytes | None) -> tuple[int, ...]:
    """Uids of voters off the majority's root, or off the majority's sample digest if any."""
    return tuple(
        sorted(
            v.uid
            for v in voters
            if v.vote.root != root or sample not in (None, v.vote.sample_digest)
        )
    )


def _why_no_quorum(ballot: Ballot, past_stakes_rao: Sequence[int], rules: QuorumRules) -> str:
    stake_rao = ballot.stake_rao
    if stake_rao == 0:
        return "no stake voted"
    largest_rao = max(past_stakes_rao[-rules.quorum_windows :], default=0)
    # Cross-multiplied: a percentage of rao would round.
    if stake_rao * 100 < largest_rao * rules.min_quorum_percent:
        return f"voting stake fell below {rules.min_quorum_percent} % of a recent window's"
    return ""


def _select_members(ballot: Ballot, agreeing: Sequence[Voter], limit: int) -> tuple[Member, ...]:
    named_rao = {
        uid: sum(v.stake_rao for v in agreeing if uid in v.vote.uids) for uid in ballot.candidates
    }
    won = [uid for uid, stake in named_rao.items() if 2 * stake > ballot.stake_rao]
    # Block hash and hotkey break ties: by uid, the oldest registrations would always win.
    won.sort(
        key=lambda uid: (-named_rao[uid], _tie_break(ballot.seed, ballot.candidates[uid].hotkey))
    )
    # In uid order, the order of the outer step's sums and of the root.
    return tuple(ballot.candidates[uid] for uid in sorted(won[:limit]))


def _find_undelivered(ballot: Ballot, agreeing: Sequence[Voter]) -> tuple[Member, ...]:
    # A voter that names a uid has fetched the payload: its missing bit is a contradiction.
    missed_rao = {
        uid: sum(v.stake_rao for v in agreeing if uid in v.vote.missing - v.vote.uids)
        for uid in ballot.candidates
    }
    # Half is enough here: with half missing, a majority for the payload is out of reach.
    lost = sorted(uid for uid, rao in missed_rao.items() if rao and 2 * rao >= ballot.stake_rao)
    return tuple(ballot.candidates[uid] for uid in lost)


def _tie_break(seed: bytes, hotkey: str) -> bytes:
    return hashlib.sha256(seed + hotkey.encode("ascii")).digest()


def _find_namers(uid: int, agreeing: Sequence[Voter]) -> tuple[str, ...]:
    naming = [v for v in agreeing if uid in v.vote.uids]
    return tuple(v.hotkey for v in sorted(naming, key=lambda v: (-v.stake_rao, v.uid)))
