"""The payloads of an audited validator: fetched and checked again, and remembered.

A validator refuses repeats of earlier payloads, so an audit remembers the same payloads.
`AuditedPayloads` records the windows with gaps in memory.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from evaluation.verdict import BLAMELESS, MEASURED, NOT_SCORED, Verdict
from evaluation.verdict_log import WindowLog
from template.audit.chain_facts import ChainFacts
from template.context import ReadContext
from template.errors import PayloadError
from template.peers.client import Peers
from template.protocol.payload import Payload, PayloadHeader
from template.protocol.root import Member
from template.scoring.admission import Admission, FrameChecker, SeenPayloads
from template.sync.follower import Follower


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """The outcome of checking a frame: as for `Admission`, with the kind of evidence."""

    payload: Payload | None
    refusal: PayloadError | None
    by_memory: bool = False
    """Whether the refusal rests on an earlier window, unknown to a restarted validator."""


def check_frames(
    checker: FrameChecker,
    window: int,
    members: Sequence[Member],
    frames: Mapping[int, bytes],
    seen: SeenPayloads,
) -> dict[int, Checked]:
    """uid -> outcome of each frame, opened in the order of `members`; adds the bodies to `seen`."""
    present = [member for member in members if member.uid in frames]
    admissions = checker.admit_frames(window, present, frames, seen)
    # Without the earlier windows: an overlap found here is known to a restarted validator too.
    distinct = {
        uid: each.payload
        for uid, each in admissions.items()
        if each.payload is not None and each.seen_window is None
    }
    overlaps_here = checker.find_overlaps(present, distinct, ())
    return {uid: _checked(each, window, uid in overlaps_here) for uid, each in admissions.items()}


def _checked(admission: Admission, window: int, overlaps_here: bool) -> Checked:
    refusal = admission.refusal
    if refusal is None:
        return Checked(payload=admission.payload, refusal=None)
    assert isinstance(refusal, PayloadError), "every frame was fetched"
    is_known_here = {"duplicate": admission.seen_window == window, "overlap": overlaps_here}
    return Checked(
        payload=admission.payload,
        refusal=refusal,
        by_memory=not is_known_here.get(refusal.reason, True),
    )


def was_in_hand(verdict: Verdict) -> bool:
    """Whether the validator had the frame, by the verdict's status."""
    opened = verdict.status == NOT_SCORED and verdict.pages_consumed is not None
    return opened or verdict.status not in BLAMELESS


def logged_header(verdict: Verdict, member: Member) -> PayloadHeader | None:
    """A payload's header as logged, or None if the log calls the payload unopened."""
    if verdict.pages_consumed is None or verdict.base_window is None:
        return None
    return PayloadHeader(
        window=verdict.window,
        base_window=verdict.base_window,
        pages_consumed=verdict.pages_consumed,
        public_key=member.public_key,
    )


class AuditedPayloads:
    """The payloads in a validator's hand, window after window in ascending order."""

    def __init__(
        self, context: ReadContext, peers: Peers, follower: Follower, validator: str
    ) -> None:
        self._peers, self._follower, self._validator = peers, follower, validator
        self._checker = FrameChecker(spec=context.spec, form=context.form)
        self._seen = SeenPayloads(context.spec.outer.max_staleness)
        self._gaps: set[int] = set()
        self.num_windows = context.spec.outer.max_staleness + 2
        """Windows before a window whose payloads must not be repeated."""

    def check_again(
        self, log: WindowLog, facts: ChainFacts, order: Sequence[Member]
    ) -> Mapping[int, Checked]:
        """Fetch and check the frames in the validator's hand; uid -> outcome.

        `order`: of the draw. A frame that could not be fetched is left out, and leaves a gap.
        """
        in_hand = {verdict.uid for verdict in log.verdicts if was_in_hand(verdict)}
        wanted = [member for member in order if member.uid in in_hand]
        frames = self._fetch(log.window, facts, wanted)
        if len(frames) < len(wanted):
            self.add_gap(log.window)
        return check_frames(self._checker, log.window, order, frames, self._seen)

    def remember(self, log: WindowLog, checked: Mapping[int, Checked]) -> None:
        """Remember the payloads opened by the validator."""
        self._seen.forget_stale_bodies(log.window)
        opened = {
            verdict.uid: payload
            for verdict in log.verdicts
            if verdict.status in (*MEASURED, NOT_SCORED)
            and verdict.uid in checked
            and (payload := checked[verdict.uid].payload) is not None
        }
        self._seen.add_positions(
            log.window,
            [
                (verdict.hotkey, self._checker.list_positions(opened[verdict.uid]))
                for verdict in log.verdicts
                if verdict.uid in opened
            ],
        )

    def mark_applied(self, window: int, hotkeys: Container[str]) -> None:
        """Record the hotkeys whose payloads of a window the outer step applied."""
        self._seen.mark_applied(window, hotkeys)

    def add_gap(self, window: int) -> None:
        """Record that payloads of a window are unknown."""
        self._gaps.add(window)

    def has_gaps(self, window: int, given: Container[int]) -> bool:
        """Whether the validator may remember payloads unknown here. `given`: windows with a log."""
        before = range(max(0, window - self.num_windows), window)
        return window in self._gaps or any(w in self._gaps or w not in given for w in before)

    def _fetch(self, window: int, facts: ChainFacts, wanted: Sequence[Member]) -> dict[int, bytes]:
        held = {member: self._follower.held(member.digest) for member in wanted}
        frames = {member.uid: frame for member, frame in held.items() if frame is not None}
        self._peers.refresh()
        found = self._peers.fetch_named_payloads(
            {
                member: (self._validator, *facts.voters_naming(member.uid))
                for member, frame in held.items()
                if frame is None
            },
            window,
        )
        for member in wanted:
            frame = found.get(member.uid)
            if isinstance(frame, bytes):
                frames[member.uid] = frame
                self._follower.keep(window, member.digest, frame)
        return frames
