"""What an audit finds on one window, and the comparisons that need no measuring."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from evaluation.conclusion import choose_accepted
from evaluation.verdict import BLAMELESS, MEASURED, NOT_DRAWN, NOT_SCORED, Verdict
from evaluation.verdict_log import WindowLog
from template.audit.remeasure import Checked
from template.protocol.payload import PayloadHeader
from template.protocol.record import Vote, log_digest
from template.protocol.root import Member

ON_TRUST = BLAMELESS
"""Statuses that say what a bucket answered then, or how much time there was."""


@dataclass(kw_only=True)
class Findings:
    """On one window. `wrong`: what differs. `unknown`: what cannot be known any more, or never.
    `num_losses` were compared; `worst` is the largest difference among them, nats per token.
    """

    window: int
    wrong: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    num_losses: int = 0
    worst: float = 0.0

    @property
    def place(self) -> str:
        return f"window {self.window}"

    def differs(self, what: str, is_so: object, said: object) -> None:
        self.wrong.append(f"{self.place}, {what} is {is_so}, the log says {said}")

    def cannot_tell(self, what: str) -> None:
        self.unknown.append(f"{self.place}, {what}")


def was_in_hand(verdict: Verdict) -> bool:
    """Whether the log says that the validator had the frame."""
    opened = verdict.status == NOT_SCORED and verdict.pages_consumed is not None
    return opened or verdict.status not in ON_TRUST


def compare_committed(said: WindowLog, members: Mapping[int, Member], found: Findings) -> None:
    """Who committed which payload: a verdict on each of them, and on no other."""
    verdicts = {verdict.uid: verdict for verdict in said.verdicts}
    for uid in sorted(members.keys() | verdicts.keys()):
        member, verdict = members.get(uid), verdicts.get(uid)
        committed = None if member is None else (member.hotkey, member.digest.hex())
        judged = None if verdict is None else (verdict.hotkey, verdict.digest)
        if committed != judged:
            found.differs(f"uid {uid}: payload committed", committed, judged)


def compare_drawn(verdict: Verdict, drawn: bool, found: Findings) -> bool:
    """Whether the payload was drawn into the window's sample, and the log says so too."""
    if (verdict.status == NOT_DRAWN) == drawn:
        is_so = "drawn" if drawn else NOT_DRAWN
        found.differs(f"uid {verdict.uid}: status", is_so, verdict.status)
    return drawn and verdict.status != NOT_DRAWN


def compare_status(
    verdict: Verdict, checked: Checked | None, forgets: bool, namers: int, found: Findings
) -> None:
    """Refused for the reason that the log says, or not refused.

    `checked`: None if the payload is to be had nowhere. `forgets`: not all is known that the
    payload could repeat. `namers`: how many other validators' votes name it.
    """
    uid, status = verdict.uid, verdict.status
    if status in ON_TRUST:
        found.cannot_tell(
            f"uid {uid}: status {status} is this validator's word; the votes of {namers} others "
            "name the payload"
        )
    elif checked is None:
        found.cannot_tell(f"uid {uid}: its payload ({status}) is to be had nowhere")
    elif checked.refusal is None:
        if status in ("duplicate", "overlap") and forgets:
            found.cannot_tell(f"uid {uid}: whether it is a {status} is not known here")
        elif status not in MEASURED:
            found.differs(f"uid {uid}: status", "no refusal", status)
    elif status in MEASURED and checked.by_memory:
        found.cannot_tell(
            f"uid {uid}: {checked.refusal}; a validator that was started again since may not know, "
            f"and the log says {status}"
        )
    elif status != checked.refusal.reason:
        found.differs(f"uid {uid}: status", checked.refusal.reason, status)
    elif verdict.detail != str(checked.refusal) and not checked.by_memory:
        found.differs(f"uid {uid}: reason", repr(str(checked.refusal)), repr(verdict.detail))


def compare_words(verdict: Verdict, found: Findings) -> None:
    """A payload that was measured has no reason, and one that was not opened has no claims."""
    uid, status = verdict.uid, verdict.status
    claims = (verdict.pages_consumed, verdict.base_window)
    if status not in (*MEASURED, NOT_SCORED) and claims != (None, None):
        found.differs(f"uid {uid}: claims of a payload not opened", (None, None), claims)
    if status in MEASURED and verdict.detail:
        found.differs(f"uid {uid}: reason", "none", repr(verdict.detail))


def compare_headers(uid: int, said: PayloadHeader, is_so: PayloadHeader, found: Findings) -> None:
    """What a payload claims, of the figures that the log repeats."""
    pairs = (
        ("pages_consumed", is_so.pages_consumed, said.pages_consumed),
        ("base_window", is_so.base_window, said.base_window),
    )
    for name, claimed, logged in pairs:
        if claimed != logged:
            found.differs(f"uid {uid}: {name}", claimed, logged)


def compare_vote(
    said: WindowLog, vote: Vote | None, root: bytes, sample: bytes, limit: int, found: Findings
) -> None:
    """The vote on chain: at the parameters of the run, and for those whom the log names.

    `limit`: the most that a vote may name.
    """
    if vote is None:
        found.cannot_tell("vote: none of this validator stood when votes were counted")
        return
    named = choose_accepted(said.verdicts, said.reputations, limit)
    missing = [verdict.uid for verdict in said.verdicts if verdict.missing]
    pairs = (
        ("root", root.hex(), vote.root.hex()),
        ("digest of the parameters", sample.hex(), vote.sample_digest.hex()),
        ("uids named by the log", sorted(named), sorted(vote.uids)),
        ("uids missing by the log", sorted(missing), sorted(vote.missing)),
    )
    found.wrong += [
        f"{found.place}, vote: {what} {is_so}, the vote says {voted}"
        for what, is_so, voted in pairs
        if is_so != voted
    ]


def different_digest(window: int, data: bytes, digest: bytes) -> list[str]:
    """The bytes of a verdict log beside the digest that a vote carries."""
    is_so = log_digest(data)
    if is_so == digest:
        return []
    return [
        f"window {window}: the log's digest is {is_so.hex()}, the validator published "
        f"{digest.hex()}: these are not the bytes that it voted with"
    ]
