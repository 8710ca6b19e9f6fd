"""Why a payload was taken or refused, why pay is not more, and what a validator did: in words.

One table. A test holds it complete over every status that a verdict can have, and every reason of
a refusal in the code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["taken", "refused", "nobody's fault", "waiting", "pay", "validator"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """`words`: what happened. `remedy`: what would have been needed for more, or "". `where`: the
    code or page that says the rule.
    """

    kind: Kind
    words: str
    remedy: str = ""
    where: str = "docs/scoring.md"


def _broken(words: str) -> Cause:
    return Cause(
        kind="refused",
        words=f"the payload is no valid frame: {words}; every node refuses the same bytes",
        remedy="send what the encoder of this version makes, unchanged",
        where="contrib/FORMAT.md",
    )


def _refused(words: str, remedy: str, where: str = "docs/scoring.md") -> Cause:
    return Cause(kind="refused", words=words, remedy=remedy, where=where)


def _blameless(words: str, remedy: str, where: str = "docs/scoring.md") -> Cause:
    return Cause(kind="nobody's fault", words=words, remedy=remedy, where=where)


def _pay(words: str, remedy: str) -> Cause:
    return Cause(kind="pay", words=words, remedy=remedy, where="evaluation/weights.py")


def _validator(words: str, remedy: str, where: str = "template/protocol/quorum.py") -> Cause:
    return Cause(kind="validator", words=words, remedy=remedy, where=where)


STATUSES: Final[Mapping[str, Cause]] = {
    "named": Cause(
        kind="taken",
        words="measured, useful, and named for the outer step",
        where="evaluation/judge.py",
    ),
    "scored": Cause(
        kind="waiting",
        words="measured, and not decided on yet: no finished log has this status",
        where="evaluation/judge.py",
    ),
    "no_gain": _refused(
        "measured, and not named as useful: over the hotkey's windows the evidence of useful work "
        "is not enough, or this window's gain is clearly below a tenth of the others'",
        "train on the assigned pages from the newest parameters, and send honest work in each "
        "window: evidence adds up, and honest work is named from its first or second window on",
        "evaluation/evidence.py",
    ),
    "no_work": _refused(
        "measured, and over its windows it gains no more on the pages that it claims than on pages "
        "that nobody trained on: the work test has decided against it",
        "claim only pages that were trained: the test turns after a few honest windows",
        "evaluation/work.py",
    ),
    "not_author": _refused(
        "it is alike to another payload of the window that shows more work on its own pages; of "
        "payloads alike one alone is applied",
        "make each payload by an own training, in an own order of the pages",
        "evaluation/judge.py",
    ),
    "not_scored": _blameless(
        "the validator had no time, or could not ask: no fault of the miner is known to it",
        "nothing: it costs no pay",
    ),
    "not_drawn": _blameless(
        "more payloads were committed than are scored, and the draw left this one out",
        "nothing: an undrawn payload counts as the mean of the drawn ones",
        "evaluation/weights.py",
    ),
    "not_delivered": _refused(
        "the bucket answers, and does not have the committed payload",
        "upload every committed payload, as soon as its window is over",
    ),
    "access_denied": _refused(
        "the bucket refuses the read key that stands on chain",
        "publish a read key that works: `tessera bucket check`",
    ),
    "no_access": _refused(
        "no usable access record on chain: nobody knows where the bucket is",
        "publish the bucket's read access: a miner does so at its start, `tessera bucket check` "
        "tests it",
    ),
    "too_large": _refused(
        "the object is longer than a payload of this run can be, and was not read",
        "send what the encoder makes: its length follows from the model",
    ),
    "digest": _refused(
        "the bytes in the bucket differ from the digest committed on chain",
        "never change a payload after its commitment",
        "template/protocol/admission.py",
    ),
    "unavailable": _refused(
        "the bucket did not answer, or was far slower than others', in the time to fetch",
        "serve the payload from a bucket that answers at once and at 0.1 MB/s at least; if only "
        "some validators could not fetch it, it is not held against its miner",
    ),
    "overlap": _refused(
        "it repeats a payload of the last windows: too many kept positions are the same",
        "send new work: a copy of a rival's payload, or of an own one that was applied, is refused",
        "evaluation/overlap.py",
    ),
    "claimed": _refused(
        "it claims a page list that the same hotkey has claimed before, or an older one",
        "claim each page list once",
        "template/scoring/admission.py",
    ),
    "pages": _refused(
        "it claims fewer pages than one inner step has, or more than are assigned",
        "claim the pages that were trained, of the assigned ones",
        "template/scoring/rules.py",
    ),
    "stale": _refused(
        "it was made from parameters that are too old",
        "start from newer parameters: catch up before training",
        "template/protocol/admission.py",
    ),
    "range": _refused(
        "it trains another part of the model than its page list draws",
        "train the drawn part: the miner of this version does so",
        "template/protocol/ranges.py",
    ),
    "window": _refused(
        "it was made for another window than it was committed for",
        "commit each payload in its own window",
        "template/protocol/admission.py",
    ),
    "hotkey": _refused(
        "it was made by another hotkey than committed it",
        "send payloads of the own hotkey alone",
        "template/protocol/admission.py",
    ),
    "run": _refused(
        "it was made for another run",
        "start the miner with the run spec of this run",
        "contrib/FORMAT.md",
    ),
    "base": _broken("its base window lies after its own window"),
    "width": _broken("its width is outside the run's limits"),
    "length": _broken("its length is not that of a payload of this model"),
    "magic": _broken("its first bytes are not a payload's"),
    "version": _broken("it is of another version of the format"),
    "scale": _broken("a scale is outside the range of the code"),
    "indices": _broken("indices of kept values are not in order, or outside their chunk"),
    "codes": _broken("padding bits of the values are set"),
}
"""Status of a verdict -> cause. Statuses of a refusal are the reasons of `PayloadError`."""

DECISIONS: Final[Mapping[str, Cause]] = {
    "accepted": Cause(
        kind="taken",
        words="accepted: applied in the window's outer step",
        where="template/protocol/quorum.py",
    ),
    "not_registered": _refused(
        "the hotkey had no uid on this subnet when the window's stakes were read",
        "register the hotkey: `btcli subnets register`",
        "template/chain/ballots.py",
    ),
    "not_committed": _refused(
        "no payload of this window was on chain at the window's end: nothing was sent, or the "
        "commitment came too late",
        "run a miner in every window: a digest has to stand on chain by the window's last block",
        "template/chain/ballots.py",
    ),
    "voids": _blameless(
        "the window is void: most of the stake lacked payloads, and nobody's is applied",
        "nothing: the payloads returned to their miners' error feedback",
        "template/protocol/quorum.py",
    ),
    "no_majority": _blameless(
        "nobody's payload was applied in this window",
        "nothing: more than half of the validators' stake has to vote for one root",
        "template/protocol/quorum.py",
    ),
    "too_few_votes": _refused(
        "validators with half of the stake or less named it",
        "see what each validator's log says: more than half of the reference stake has to name it",
        "template/protocol/quorum.py",
    ),
    "too_many": _refused(
        "named by enough stake, and more payloads were than a step takes",
        "a better rating: the payloads with most stake stay, a draw breaks ties",
        "template/protocol/quorum.py",
    ),
    "reason_pending": Cause(
        kind="waiting",
        words="not accepted by the votes; no verdict log with the reason can be read yet",
        remedy="ask again once the validators have published their logs of this window",
        where="template/base/log_publisher.py",
    ),
    "undecided": Cause(
        kind="waiting",
        words="the votes on this window are not final yet",
        remedy="ask again after the window's vote block",
        where="template/protocol/schedule.py",
    ),
    "unheard_of": Cause(
        kind="waiting",
        words="the log's status is none that this version knows: it says nothing of the payload",
        remedy="update this reader, if the validator runs a newer version",
        where="evaluation/verdict.py",
    ),
    "unknown": Cause(
        kind="waiting",
        words="neither the chain endpoint nor a verdict log says anything of this window any more",
        remedy="name an archive endpoint with --subtensor.chain_endpoint",
        where="template/chain/ballots.py",
    ),
}
"""Cause of a window besides a verdict's status."""

EVIDENCE: Final[Mapping[str, Cause]] = {
    "below_floor": _refused(
        "this window's gain, with its errors added, does not exceed a tenth of the usual gain",
        "a payload that lowers the loss as much as others' do",
        "evaluation/judge.py",
    ),
    "gain_unproven": _refused(
        "over the hotkey's windows the evidence that its payloads gain is used up, or never was",
        "useful payloads: evidence of gain adds up over windows",
        "evaluation/evidence.py",
    ),
    "work_unproven": _refused(
        "its payloads gain, and the evidence that it trained on the pages that it claims is too "
        "little for the gate to open",
        "train on all of the claimed pages: honest work shows there in its first windows",
        "evaluation/evidence.py",
    ),
}
"""Which part of the rule behind `no_gain` it was."""

PAY: Final[Mapping[str, Cause]] = {
    "gate_closed": _pay(
        "the work test is not passed (or lost): a miner that does not pass is not paid",
        "train on all claimed pages: honest work passes after one to three windows",
    ),
    "too_new": _pay(
        "too few scored windows for pay so far",
        "send payloads until the run spec's weights.min_windows of them are scored",
    ),
    "gain_low": _pay(
        "over the counted windows the mean relative gain, less its error, is not above the luck of "
        "a random direction: no pay",
        "useful work in more windows",
    ),
    "pages_short": _pay(
        "fewer pages a window than the miner in the middle",
        "pay is linear in pages: more pages in the window's time, by a faster machine or more of "
        "its time in training",
    ),
    "pages_absent": _pay(
        "in some of the counted windows no payload was scored",
        "a payload in every window: an absence counts as zero pages",
    ),
    "pages_refused": _pay(
        "in some of the counted windows the payload was refused, undelivered or harmful, and earns "
        "nothing for its pages",
        "the reasons stand on the payslips of those windows",
    ),
    "trained_short": _pay(
        "the claimed pages show less training than usual, or uneven training: only the share that "
        "was trained is paid",
        "train on every page that is claimed, on all of it, or claim fewer",
    ),
    "part_of_model": _pay(
        "a part of the model is trained: a page counts by the part's share of the parameters",
        "a machine with memory for a larger part",
    ),
    "capped": _pay(
        "one miner gets at most weights.max_share of the run spec; the rest is burned",
        "nothing: more miners have to be paid",
    ),
    "duel_lost": _pay(
        "a duel moved a part of this share to another miner, whose payloads gained more on the "
        "drawn half of the held-out pages: chance, which evens out over the periods",
        "nothing: the next duel is as likely to be won",
    ),
    "owner": _pay(
        "this is the subnet owner's hotkey: its incentive is burned by the chain",
        "mine with another hotkey",
    ),
}
"""Why pay is not more, where a payload was accepted all the same."""

VALIDATORS: Final[Mapping[str, Cause]] = {
    "votes_agree": Cause(
        kind="taken",
        words="voted, on the root and the tensors of the majority",
        where="template/protocol/quorum.py",
    ),
    "no_vote": _validator(
        "no vote on this window stood on chain when votes were counted",
        "vote in every window: a validator in time and with a permit does",
    ),
    "other_root": _validator(
        "voted another root than the majority: its vote names nobody",
        "stand on the run's parameters: an honest node repairs itself",
    ),
    "other_sample": _validator(
        "voted the majority's root with another digest of the parameters",
        "stand on the run's parameters to the bit",
    ),
    "names_alone": _validator(
        "named payloads that most of the other stake did not name",
        "name what was measured as useful, and is held",
        "template/base/policy.py",
    ),
    "missing_alone": _validator(
        "reported payloads missing that most of the other stake named",
        "report what the bucket really did not deliver",
        "template/scoring/window.py",
    ),
    "names_few": _validator(
        "left out payloads that most of the other stake named",
        "score in time, with a line that fetches every payload",
        "template/base/policy.py",
    ),
    "no_log": _validator(
        "no verdict log: its vote names no log, so nobody can follow its weights",
        "publish the log of each window that was scored",
        "template/base/log_publisher.py",
    ),
    "log_differs": _validator(
        "the bytes of its verdict log are not those that it voted with, or are no log",
        "publish the bytes whose digest the vote carries",
        "template/audit/vote.py",
    ),
    "log_pending": Cause(
        kind="waiting",
        words="its verdict log of this window cannot be read yet",
        remedy="ask again later",
        where="template/base/log_publisher.py",
    ),
    "weights_alone": _validator(
        "its weights on chain differ from those of the other validators with more than half of the "
        "stake by more than a tenth in sum",
        "set the weights that follow from the own log",
        "evaluation/weights.py",
    ),
    "weights_without_log": _validator(
        "has weights on chain, and neither a vote nor a log that they would follow from",
        "score, and publish the logs",
        "evaluation/weights.py",
    ),
    "pace_alone": _validator(
        "voted to move alpha, and most of the other stake did not",
        "vote what the losses half-way through the step say",
        "evaluation/pace.py",
    ),
}
"""What a validator did in a window."""

CAUSES: Final[Mapping[str, Cause]] = {
    **STATUSES,
    **DECISIONS,
    **EVIDENCE,
    **PAY,
    **VALIDATORS,
}


def told_status(status: str) -> str:
    """A log's status, or "unheard_of": a stranger's word never passes for a cause."""
    return status if status in STATUSES else "unheard_of"


def cause_of(name: str) -> Cause:
    """The cause of a name; "unheard_of" for a name that is no cause."""
    return CAUSES.get(name, CAUSES["unheard_of"])
