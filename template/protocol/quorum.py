"""The accepted set of a window: a pure function of two chain states.

No score and nothing that a miner chooses takes part. Stakes are integers (rao).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from template.protocol.record import Vote
from template.protocol.root import Member

VOID_WINDOWS = 4
"""So many windows running must most of the voting stake stand before a window's payloads until
these are given up. Fewer give up payloads over an outage, more stop the run for longer.
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
    """All that counts for one window.

    `candidates`: uid -> committed payload, of hotkeys registered at the stake block.
    `voters`: the votes; `seed`: hash of the stake block, which breaks ties.
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
    """`peers_per_step`: most payloads in a step. `min_quorum_percent`: of the largest voting
    stake of the last `quorum_windows` windows, below which a window is a no-op.
    """

    peers_per_step: int
    min_quorum_percent: int
    quorum_windows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What the chain decided on one window.

    `members`: A_w in uid order. `namers`: uid of a member -> hotkeys of the voters that
    named it, most stake first: they hold its bytes. `root` and `sample_digest`: those that
    more than half of the voting stake carries, None if there are none or too little stake
    voted. `dissenters`: uids of voters whose root or sample differs from them. `undelivered`:
    candidates whose bytes half of the voting stake says it could not get. `no_op`: why the set is
    empty, or "".
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

    A uid is accepted if votes with more than half of the voting stake name it. A vote with
    another root than the majority's counts in the total, names nobody and misses nothing. A
    payload that half of the voting stake misses was not delivered. Should more than
    `peers_per_step` win, those named by the most stake stay, ties by SHA-256(seed, hotkey).
    """
    no_op = _why_no_quorum(ballot, past_stakes_rao, rules)
    counted = [] if no_op else ballot.voters
    root = _majority([(v.vote.root, v.stake_rao) for v in counted], ballot.stake_rao)
    agreeing = [v for v in counted if v.vote.root == root]
    sample = _majority([(v.vote.sample_digest, v.stake_rao) for v in agreeing], ballot.stake_rao)
    members = _winners(ballot, agreeing, rules.peers_per_step)
    return Decision(
        window=ballot.window,
        members=members,
        namers={m.uid: _namers(m.uid, agreeing) for m in members},
        root=root,
        sample_digest=sample,
        dissenters=() if root is None else _dissenters(counted, root, sample),
        undelivered=_undelivered(ballot, agreeing),
        voting_stake_rao=ballot.stake_rao,
        no_op=no_op or ("" if members else "no payload was named by a majority"),
    )


def is_void(root: bytes, later: Sequence[bytes | None]) -> bool:
    """Whether the accepted set of a window is void, and counts as empty.

    `root`: R_{w+1}, as votes carry it; who stands on it has not applied the set of w. `later`: the
    roots of `Decision.root` on the windows w + 1, w + 2, ... A validator that lacks a payload of
    the set votes with the newest root it has, so this says that most of the stake cannot go on.
    """
    return len(later) >= VOID_WINDOWS and all(voted == root for voted in later[:VOID_WINDOWS])


def voided(decision: Decision) -> Decision:
    """The decision on a window whose payloads were given up."""
    return replace(decision, members=(), namers={}, no_op="void: most of the stake lacked payloads")


def _majority(weighted: Sequence[tuple[bytes, int]], total_rao: int) -> bytes | None:
    """The value that more than half of the total stake carries, or None."""
    totals: dict[bytes, int] = {}
    for value, stake_rao in weighted:
        totals[value] = totals.get(value, 0) + stake_rao
    return next((value for value, rao in totals.items() if 2 * rao > total_rao), None)


def _dissenters(voters: Sequence[Voter], root: bytes, sample: bytes | None) -> tuple[int, ...]:
    """Uids whose root, or whose tensors where a majority shares them, differ."""
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
    if stake_rao * 100 < largest_rao * rules.min_quorum_percent:
        return f"voting stake fell below {rules.min_quorum_percent} % of a recent window's"
    return ""


def _winners(ballot: Ballot, agreeing: Sequence[Voter], limit: int) -> tuple[Member, ...]:
    named_rao = {
        uid: sum(v.stake_rao for v in agreeing if uid in v.vote.uids) for uid in ballot.candidates
    }
    won = [uid for uid, stake in named_rao.items() if 2 * stake > ballot.stake_rao]
    won.sort(key=lambda uid: (-named_rao[uid], _lot(ballot.seed, ballot.candidates[uid].hotkey)))
    return tuple(ballot.candidates[uid] for uid in sorted(won[:limit]))


def _undelivered(ballot: Ballot, agreeing: Sequence[Voter]) -> tuple[Member, ...]:
    missed_rao = {
        uid: sum(v.stake_rao for v in agreeing if uid in v.vote.missing - v.vote.uids)
        for uid in ballot.candidates
    }
    lost = sorted(uid for uid, rao in missed_rao.items() if rao and 2 * rao >= ballot.stake_rao)
    return tuple(ballot.candidates[uid] for uid in lost)


def _lot(seed: bytes, hotkey: str) -> bytes:
    return hashlib.sha256(seed + hotkey.encode("ascii")).digest()


def _namers(uid: int, agreeing: Sequence[Voter]) -> tuple[str, ...]:
    naming = [v for v in agreeing if uid in v.vote.uids]
    return tuple(v.hotkey for v in sorted(naming, key=lambda v: (-v.stake_rao, v.uid)))
