"""The public facts of a run, as values: what chain, buckets and verdict logs say, and who says it.

No judgement and no word for a reader: `payslip` explains, `site` draws. A fact that could not be
read is there with the reason, so that a gap is never taken for a zero.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np

from evaluation.conclusion import Reputation
from evaluation.verdict import Verdict
from evaluation.verdict_log import WindowLog
from template.chain import WeightTimes
from template.protocol.member import Member
from template.protocol.notice import VersionNotice
from template.protocol.run import Run


class LogState(Enum):
    """Whether a validator's verdict log of a window could be read."""

    READ = "read"
    """The bytes have the digest that stands in the vote."""
    UNPROVEN = "unproven"
    """Read, and the chain endpoint keeps no vote that would carry the digest."""
    DIFFERS = "differs"
    """The bytes have another digest than the vote: the log counts for nothing."""
    NO_LOG = "no log"
    """The object is no verdict log of this window."""
    NOT_THERE = "not there"
    """The bucket answers, and has no log of the window: not published yet, or deleted."""
    NO_ANSWER = "no answer"
    """The bucket did not answer, or has no access record."""
    NOT_IN_TIME = "not asked in time"
    """The logs before took all the time of this reading: the next one asks."""
    NOT_ASKED = "not asked"
    """Beyond the validators whose logs are read."""

    @property
    def counts(self) -> bool:
        return self in (LogState.READ, LogState.UNPROVEN)


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """A mean loss, nats per token, with its standard error over `num_pages` pages."""

    mean: float
    standard_error: float
    num_pages: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What one verdict log says, without the losses of single pages.

    Fields as in `WindowLog`. `held_out`: the loss of theta_{window + 1} on the window's held-out
    pages, before any payload; None where a loss is not finite.
    """

    window: int
    verdicts: Mapping[int, Verdict]
    reputations: Mapping[str, Reputation]
    shares: Mapping[int, float]
    known: tuple[int, ...]
    undelivered: tuple[tuple[int, str], ...]
    uids: Mapping[str, int]
    burn_uid: int | None
    pace: int
    held_out: Loss | None

    @classmethod
    def of(cls, log: WindowLog) -> "Judgement":
        """The judgement in a log; the losses of pages are dropped."""
        return cls(
            window=log.window,
            verdicts={verdict.uid: verdict for verdict in log.verdicts},
            reputations=log.reputations,
            shares=log.shares,
            known=log.known,
            undelivered=log.undelivered,
            uids=log.uids,
            burn_uid=log.burn_uid,
            pace=log.pace,
            held_out=_mean_loss(log),
        )


def _mean_loss(log: WindowLog) -> Loss | None:
    with np.errstate(invalid="ignore", over="ignore"):  # a stranger's losses may be infinite
        losses_H = log.measured.held_out_H
        mean, error = float(losses_H.mean()), float(losses_H.std(ddof=1)) / math.sqrt(losses_H.size)
    if not math.isfinite(mean) or not math.isfinite(error):
        return None
    return Loss(mean=mean, standard_error=error, num_pages=losses_H.size)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadLog:
    """A validator's verdict log of a window. `judgement` only where `state` counts.

    `detail`: what went wrong, in the words of the bucket or the reader. `num_bytes`: of the object,
    0 where none came.
    """

    state: LogState
    detail: str = ""
    judgement: Judgement | None = None
    num_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class CastVote:
    """A vote as it stood when votes were counted. Digests in hexadecimal, `log_digest` "" if none.

    `agrees`: the root is that of the majority; `same_tensors`: so is the sample digest.
    """

    uid: int
    hotkey: str
    stake_rao: int
    named: frozenset[int]
    missing: frozenset[int]
    root: str
    sample_digest: str
    log_digest: str
    pace: int
    agrees: bool
    same_tensors: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Which payloads of a window were applied.

    `source`: "lineage" (the steps that lead to the voted root) or "votes" (counted by this reader,
    who knows the reference stake only from the last windows). `no_op`: why nobody's, or "".
    `undelivered`: uids reported missing by half of the stake; None where the votes are unknown.
    """

    accepted: frozenset[int]
    undelivered: frozenset[int] | None
    voting_stake_rao: int
    reference_rao: int
    no_op: str
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowFacts:
    """One window. `committed`: uid -> payload on chain at the window's end.

    `chain_fault`: why the chain's part is missing (a node forgets old blocks), or "". `outcome`:
    None until votes are counted. `logs`: validator's hotkey -> log. `registered`: hotkey -> uid at
    the stake block.
    """

    window: int
    registered: Mapping[str, int]
    committed: Mapping[int, Member]
    votes: tuple[CastVote, ...]
    outcome: Outcome | None
    logs: Mapping[str, ReadLog]
    chain_fault: str = ""

    def judgements(self) -> dict[str, Judgement]:
        """Validator's hotkey -> judgement, of logs that count."""
        return {
            hotkey: read.judgement
            for hotkey, read in self.logs.items()
            if read.state.counts and read.judgement is not None
        }

    def vote_of(self, hotkey: str) -> CastVote | None:
        return next((vote for vote in self.votes if vote.hotkey == hotkey), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class NeuronFacts:
    """A uid at one block: shares of the last epoch, and the epoch's pay."""

    uid: int
    hotkey: str
    coldkey: str
    is_validator: bool
    stake_rao: int
    incentive: float
    dividends: float
    emission_rao: int
    last_update: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SubnetFacts:
    """The subnet at a final block. `weights`: validator's uid -> uid -> share; `weights_fault`: why
    they are unknown, or "". `price_tao`: TAO for one alpha, None if the chain names none.
    `owner_uid`: of the subnet owner's hotkey, whose pay the chain burns. `least_version_key`: the
    owner's `weights_version`, below which the chain refuses weights; None: the chain does not say.
    `notice`: the owner's signed notice of a version; None: no valid notice could be read.
    `weight_times`: when a row counts; None: the chain does not say.
    """

    block: int
    tempo_blocks: int
    neurons: Mapping[str, NeuronFacts]
    weights: Mapping[int, Mapping[int, float]]
    weights_fault: str
    price_tao: float | None
    owner_uid: int | None
    least_version_key: int | None = None
    notice: VersionNotice | None = None
    weight_times: WeightTimes | None = None

    def validators(self) -> list[NeuronFacts]:
        """Those with a permit, most stake first."""
        found = [neuron for neuron in self.neurons.values() if neuron.is_validator]
        return sorted(found, key=lambda neuron: (-neuron.stake_rao, neuron.uid))


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointFacts:
    """A checkpoint in the lineage. `digest`: of its manifest, hexadecimal; `holders`: hotkeys whose
    bucket has the manifest, asked for the newest ones alone; None where nobody was asked.
    """

    window: int
    digest: str
    holders: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """A run as anybody sees it at one moment.

    `windows`: by number. `last_counted`: the newest window whose votes are final, negative before.
    `root`: the voted root, hexadecimal, and `root_window` its theta; "" without a majority.
    `lineage_fault`: why there is no lineage, or "". `chain`, `netuid`: for commands.
    """

    run: Run
    netuid: int
    network: str
    head_window: int
    last_counted: int
    subnet: SubnetFacts
    windows: Mapping[int, WindowFacts]
    root: str
    root_window: int
    lineage_fault: str
    checkpoints: tuple[CheckpointFacts, ...]
