"""Validators, honest and not: how their votes become a step, and their weights pay.

Votes are counted by `template.protocol.quorum`, weights pass through the local chain's Yuma with
bonds that it keeps; an epoch is a window long. Commit-reveal: a row takes effect, and is seen, an
epoch after it was committed. That shifts everybody's pay by an epoch, which is left out; what is
left of it is that nobody can copy the rows of the same epoch.

Legend: M miners, V validators.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from localnet.chain.config import U16_MAX
from localnet.chain.yuma import EpochInputs, YumaParams, run_epoch
from template.protocol.hashing import labelled_hash, uint_bytes
from template.protocol.quorum import Ballot, Decision, QuorumRules, Voter, decide
from template.protocol.record import ROOT_BYTES, SAMPLE_DIGEST_BYTES, Vote
from template.protocol.root import Member

NUM_VALIDATORS = 4
STAKE_RAO = 1_000_000_000_000
BURN_UID = 255
EPOCH_BLOCKS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What a validator knows when it votes and sets weights: its own honest findings (`named`,
    `shares`), which uids committed, which payloads it has and whose bytes it could not get, who is
    in league with it, and the weights that it can read on chain (`seen`).
    """

    named: frozenset[int]
    shares: Mapping[int, float]
    committed: frozenset[int]
    delivered: frozenset[int]
    missing: frozenset[int]
    friends: frozenset[int]
    seen: Mapping[int, float]


class Validator:
    """Names what it found useful and weighs by what it measured."""

    def names(self, scene: Scene) -> frozenset[int]:
        return scene.named

    def misses(self, scene: Scene) -> frozenset[int]:
        return scene.missing

    def weighs(self, scene: Scene) -> Mapping[int, float]:
        return scene.shares


class Liar(Validator):
    """Names the friends that honest validators refuse, says that all others delivered nothing,
    and weighs so.
    """

    def names(self, scene: Scene) -> frozenset[int]:
        return scene.friends & scene.delivered

    def misses(self, scene: Scene) -> frozenset[int]:
        return scene.committed - scene.friends

    def weighs(self, scene: Scene) -> Mapping[int, float]:
        return dict.fromkeys(scene.friends, 1.0 / max(1, len(scene.friends)))


class WeightCopier(Validator):
    """Scores nothing: sets the weights that it can read on chain. Its vote copies the votes that
    stand before its own; a vote pays nothing.
    """

    def weighs(self, scene: Scene) -> Mapping[int, float]:
        return scene.seen or {BURN_UID: 1.0}


class LogCopier(Validator):
    """Scores nothing: sets the weights that follow from another validator's log, which is public a
    window later. Its vote copies the votes that stand before its own.
    """

    def __init__(self) -> None:
        self._logged: Mapping[int, float] = {BURN_UID: 1.0}

    def weighs(self, scene: Scene) -> Mapping[int, float]:
        weights, self._logged = self._logged, scene.shares
        return weights


class LineageCopier(Validator):
    """Scores nothing: names the miners of the last step in the lineage, and weighs them alike."""

    def __init__(self) -> None:
        self._applied: frozenset[int] = frozenset()

    def names(self, scene: Scene) -> frozenset[int]:
        named, self._applied = self._applied & scene.committed, scene.named
        return named

    def weighs(self, scene: Scene) -> Mapping[int, float]:
        return dict.fromkeys(self._applied, 1.0 / max(1, len(self._applied))) or {BURN_UID: 1.0}


class NamesTheMissing(Validator):
    """Honest but for naming all that was committed and that nobody has."""

    def names(self, scene: Scene) -> frozenset[int]:
        return scene.named | (scene.committed - scene.delivered)


class Patron(Validator):
    """Names its free-riding miners, and gives them half of its weight."""

    part = 0.5

    def names(self, scene: Scene) -> frozenset[int]:
        return scene.named | (scene.friends & scene.delivered)

    def weighs(self, scene: Scene) -> Mapping[int, float]:
        weights = {uid: (1 - self.part) * share for uid, share in scene.shares.items()}
        for uid in scene.friends:
            weights[uid] = weights.get(uid, 0.0) + self.part / len(scene.friends)
        return weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Pay:
    """Of one epoch: miners' shares of their half by uid, what is burned with them; validators'
    shares of theirs, in their order; the weights that the chain settled on, by uid.
    """

    shares: Mapping[int, float]
    dividends: tuple[float, ...]
    consensus: Mapping[int, float]


class Council:
    """The validators' part of the chain. `first_stake`: the first validator's share of the stake;
    the others hold the rest alike.
    """

    def __init__(self, num_miners: int, rules: QuorumRules, first_stake: float) -> None:
        rest = (1.0 - first_stake) / (NUM_VALIDATORS - 1)
        shares = [first_stake] + [rest] * (NUM_VALIDATORS - 1)
        self.stakes_rao = [round(STAKE_RAO * share) for share in shares]
        self._rules = rules
        self._uids = [*range(num_miners), BURN_UID]
        self._reference_rao = 0
        self._bonds: list[dict[int, int]] = [{} for _ in self._all]
        self._block = 1000

    def decide(
        self,
        window: int,
        named: Sequence[frozenset[int]],
        missing: Sequence[frozenset[int]],
        paces: Sequence[int],
        committed: Collection[int],
    ) -> Decision:
        """What the project's rules make of votes, given in the validators' order."""
        seed = labelled_hash("attacks/council", uint_bytes(window))
        votes = [_vote(window, *said) for said in zip(named, missing, paces, strict=True)]
        voters = [
            Voter(uid=200 + i, hotkey=f"validator {i}", stake_rao=stake, vote=vote)
            for i, (vote, stake) in enumerate(zip(votes, self.stakes_rao, strict=True))
        ]
        candidates = {uid: _member(uid) for uid in committed}
        ballot = Ballot(window=window, seed=seed, candidates=candidates, voters=voters)
        decision = decide(ballot, self._reference_rao, self._rules)
        self._reference_rao = decision.reference_rao
        return decision

    def pay(self, rows: Sequence[Mapping[int, float]]) -> Pay:
        """Shares after one epoch of Yuma. `rows`: every validator's weights, by uid."""
        position = {uid: place for place, uid in enumerate(self._uids)}
        weights: list[dict[int, int]] = [{} for _ in self._uids]
        weights += [_u16({position[uid]: w for uid, w in row.items()}) for row in rows]
        inputs = EpochInputs(
            stake_rao=[0] * len(self._uids) + self.stakes_rao,
            weights=weights,
            bonds=self._bonds,
            last_update=[self._block] * len(self._all),
            block_at_registration=[10] * len(self._all),
            commit_block=[None] * len(self._all),
            validator_permit=[False] * len(self._uids) + [True] * NUM_VALIDATORS,
            owner_uid=None,
            block=self._block + 1,
            last_epoch_block=self._block - EPOCH_BLOCKS,
            params=YumaParams(),
        )
        outputs = run_epoch(inputs)
        self._bonds, self._block = outputs.bonds, self._block + EPOCH_BLOCKS
        count = len(self._uids)
        return Pay(
            shares=_by_uid(self._uids, outputs.server_share[:count]),
            dividends=tuple(outputs.validator_share[count:]),
            consensus=_by_uid(self._uids, [c / U16_MAX for c in outputs.consensus[:count]]),
        )

    @property
    def _all(self) -> range:
        return range(len(self._uids) + NUM_VALIDATORS)


def _by_uid(uids: Sequence[int], shares: Sequence[float]) -> dict[int, float]:
    return {uid: share for uid, share in zip(uids, shares, strict=True) if share > 0}


def _vote(window: int, uids: frozenset[int], missing: frozenset[int], pace: int) -> Vote:
    """All agree on the model: what they disagree on is whom to name."""
    root, sample = bytes(ROOT_BYTES), bytes(SAMPLE_DIGEST_BYTES)
    return Vote(
        window=window, root=root, sample_digest=sample, uids=uids, missing=missing, pace=pace
    )


def _member(uid: int) -> Member:
    digest = labelled_hash("attacks/member", uint_bytes(uid))
    return Member(uid=uid, hotkey=str(uid), public_key=digest, digest=digest, coldkey=digest)


def _u16(row: Mapping[int, float]) -> dict[int, int]:
    """As the SDK writes weights: the largest becomes 65535."""
    largest = max(row.values(), default=0.0)
    scaled = {uid: round(U16_MAX * weight / largest) for uid, weight in row.items() if largest}
    return {uid: value for uid, value in scaled.items() if value}
