"""Verdict statuses, compared with the outcome of checking the payloads again."""

from collections.abc import Mapping, Sequence

from evaluation.verdict import BLAMELESS, MEASURED, NOT_DRAWN, NOT_SCORED, Verdict
from template.audit.findings import Findings
from template.audit.payloads import BY_MEMORY, Checked
from template.errors import PayloadError
from template.protocol.payload import PayloadFormat
from template.protocol.ranges import BlockRange

ON_TRUST = BLAMELESS
"""Statuses that depend on a bucket's answers to the validator, or on the validator's time."""

UNSAID = (1, 0, 1, 1.0)
"""Width, part, parts and share of the model where nobody opened a payload."""


def compare_drawn(verdict: Verdict, is_drawn: bool, found: Findings) -> bool:
    """Whether the chain draws the payload into the window's sample and the log agrees."""
    if (verdict.status == NOT_DRAWN) == is_drawn:
        actual = "drawn" if is_drawn else NOT_DRAWN
        found.add_difference(f"uid {verdict.uid}: status", actual, verdict.status)
    return is_drawn and verdict.status != NOT_DRAWN


def compare_status(
    verdict: Verdict,
    checked: Checked | None,
    has_gaps: bool,
    num_namers: int,
    found: Findings,
) -> None:
    """The reason for a refusal, or the absence of a refusal.

    `checked`: None without the payload. `has_gaps`: whether the auditor lacks a payload
    of the window or of the windows before. `num_namers`: other validators whose vote names the
    payload.
    """
    uid, status = verdict.uid, verdict.status
    if status in ON_TRUST:
        found.add_unknown(
            f"uid {uid}: status {status} is this validator's word; the votes of {num_namers} "
            "others name the payload"
        )
    elif checked is None:
        found.add_unknown(f"uid {uid}: its payload ({status}) could not be fetched from any bucket")
    elif checked.refusal is None:
        _compare_unrefused(verdict, has_gaps, found)
    elif status in MEASURED and checked.by_memory:
        found.add_unknown(
            f"uid {uid}: {checked.refusal}; a validator restarted since then may not know, "
            f"and the log says {status}"
        )
    elif status != checked.refusal.reason:
        found.add_difference(f"uid {uid}: status", checked.refusal.reason, status)
    elif verdict.detail != str(checked.refusal) and not checked.by_memory:
        found.add_difference(f"uid {uid}: reason", repr(str(checked.refusal)), repr(verdict.detail))


def _compare_unrefused(verdict: Verdict, has_gaps: bool, found: Findings) -> None:
    uid, status = verdict.uid, verdict.status
    if status in BY_MEMORY and has_gaps:
        found.add_unknown(f"uid {uid}: the auditor lacks payloads to confirm status {status}")
    elif status not in MEASURED:
        found.add_difference(f"uid {uid}: status", "no refusal", status)


def compare_alike(
    verdicts: Sequence[Verdict], checked: Mapping[int, Checked], found: Findings
) -> None:
    """The uids alike of each measured payload, as far as the payloads are there."""
    opened = {v.uid for v in verdicts if v.status in (*MEASURED, NOT_SCORED)}
    there = opened & {uid for uid, each in checked.items() if each.payload is not None}
    for verdict in verdicts:
        if verdict.status in MEASURED and verdict.uid in there:
            is_so = [uid for uid in checked[verdict.uid].alike if uid in there]
            said = [uid for uid in verdict.alike if uid in there or uid not in opened]
            if said != is_so:
                found.add_difference(f"uid {verdict.uid}: uids alike", is_so, said)


def compare_share(verdict: Verdict, form: PayloadFormat, found: Findings) -> None:
    """The logged share of the model against the run's own cut."""
    blocks = BlockRange(part=verdict.part, parts=verdict.parts)
    try:
        share = form.part(blocks).share
    except PayloadError as error:
        found.add_difference(f"uid {verdict.uid}: part of the model", str(error), str(blocks))
        return
    if verdict.model_share != share:
        found.add_difference(f"uid {verdict.uid}: model_share", share, verdict.model_share)


def compare_details(verdict: Verdict, found: Findings) -> None:
    """A measured payload has an empty reason; an unopened payload has no claims."""
    uid, status = verdict.uid, verdict.status
    claims = (verdict.pages_consumed, verdict.base_window, verdict.alike or None)
    if status not in (*MEASURED, NOT_SCORED):
        if any(claim is not None for claim in claims):
            found.add_difference(f"uid {uid}: claims of a payload not opened", None, claims)
        said = (verdict.width, verdict.part, verdict.parts, verdict.model_share)
        if said != UNSAID:
            found.add_difference(f"uid {uid}: width and part of a payload not opened", UNSAID, said)
    if status in MEASURED and verdict.detail:
        found.add_difference(f"uid {uid}: reason", "none", repr(verdict.detail))
