"""The payloads of an audited validator: fetched and checked again, and remembered.

A validator refuses repeats of earlier payloads, so an audit remembers the same payloads.
`AuditedPayloads` records the windows with gaps in memory.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

from evaluation.verdict import BLAMELESS, MEASURED, NOT_SCORED, Verdict
from evaluation.verdict_log import WindowLog
from template.audit.chain_facts import ChainFacts
from template.context import ReadContext
from template.data.assignment import assignment_seed
from template.errors import PayloadError, SubnetError
from template.peers.client import Peers
from template.protocol.payload import Payload, PayloadHeader
from template.protocol.ranges import BlockRange
from template.protocol.root import Member
from template.scoring.admission import (
    CLAIMED,
    OVERLAP,
    Admission,
    FrameChecker,
    SeenPayloads,
    Unread,
)
from template.scoring.footprint import Shelf
from template.sync.follower import Follower


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """The outcome of checking a frame: as for `Admission`, with the kind of evidence.

    `alike`: uids of opened payloads of the window that overlap, whatever was refused by memory.
    """

    payload: Payload | None
    refusal: PayloadError | None
    by_memory: bool = False
    """Whether the refusal rests on an earlier window, unknown to a restarted validator."""
    alike: tuple[int, ...] = ()


def check_frames(
    checker: FrameChecker,
    window: int,
    members: Sequence[Member],
    frames: Mapping[int, bytes],
    seen: SeenPayloads,
) -> dict[int, Checked]:
    """uid -> outcome of each frame, opened in the order of `members`."""
    present = [member for member in members if member.uid in frames]
    admissions = checker.admit_frames(window, present, frames, seen)
    opened = {
        uid: each.payload
        for uid, each in admissions.items()
        if each.payload is not None and (each.refusal is None or _is_by_memory(each.refusal))
    }
    # Without the earlier windows: who is alike here is known to a restarted validator too.
    alike = checker.find_overlaps(window, present, opened, ()).alike
    return {uid: _checked(each, alike.get(uid, ())) for uid, each in admissions.items()}


def _checked(admission: Admission, alike: tuple[int, ...]) -> Checked:
    refusal = admission.refusal
    if refusal is None:
        return Checked(payload=admission.payload, refusal=None, alike=alike)
    assert isinstance(refusal, PayloadError), "every frame was fetched"
    return Checked(
        payload=admission.payload,
        refusal=refusal,
        by_memory=_is_by_memory(refusal),
        alike=alike,
    )


BY_MEMORY = (OVERLAP, CLAIMED)
"""Reasons for a refusal that rest on payloads of earlier windows."""


def _is_by_memory(refusal: SubnetError) -> bool:
    return isinstance(refusal, PayloadError) and refusal.reason in BY_MEMORY


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
        width=verdict.width,
        blocks=BlockRange(part=verdict.part, parts=verdict.parts),
    )


def _named(unread: Unread) -> str:
    """How the reason for a refusal names an earlier payload."""
    return f"{unread.member.hotkey} in window {unread.window}"


def _is_named(unread: Unread, log: WindowLog) -> bool:
    return any(_named(unread) in verdict.detail for verdict in log.verdicts)


class AuditedPayloads:
    """The payloads in a validator's hand, window after window in ascending order."""

    def __init__(
        self, context: ReadContext, peers: Peers, follower: Follower, validator: str
    ) -> None:
        self._peers, self._follower, self._validator = peers, follower, validator
        schedule, block_hash = context.schedule, context.chain.block_hash
        self._checker = FrameChecker(
            run=context.run,
            form_at=context.form_at,
            sample_seed=lambda window: block_hash(schedule.stake_block(window)),
            list_seed=lambda hotkey, window: assignment_seed(
                block_hash(schedule.assignment_block(window)), hotkey, window
            ),
        )
        self._seen = SeenPayloads(
            lambda window: context.run.at(window).outer.max_staleness,
            Shelf(context.state_dir / "seen").keep,
        )
        self._gaps: set[int] = set()
        self.num_windows = 2 * (max(s.outer.max_staleness for s in context.run) + 2)
        """Windows before a window that decide on repeats: half of them hold the payloads that must
        not be repeated, and the other half say who committed those first."""

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
        # Given up or not: a validator that read the payload in time refuses repeats all the same.
        unread = self._seen.never_read_before(log.window)
        named = [each for each in unread if _is_named(each, log)]
        self._checker.read_more(named, self._seen, self._read_unread)
        checked = check_frames(self._checker, log.window, order, frames, self._seen)
        others = [member for member in facts.members.values() if member.uid not in in_hand]
        self._seen.add_unread(log.window, others)
        return checked

    def remember(self, log: WindowLog, checked: Mapping[int, Checked]) -> None:
        """Remember the payloads opened by the validator."""
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
            {v.hotkey: opened[v.uid].header.base_window for v in log.verdicts if v.uid in opened},
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

    def lacks(self, verdict: Verdict) -> bool:
        """Whether a refusal names an earlier payload that could not be read here."""
        unread = self._seen.never_read_before(verdict.window)
        return any(_named(each) in verdict.detail for each in unread)

    def _read_unread(self, wanted: Sequence[Unread]) -> Iterator[tuple[Unread, bytes]]:
        for window in sorted({each.window for each in wanted}):
            of_window = [each for each in wanted if each.window == window]
            holders = {each.member: (self._validator,) for each in of_window}
            found = self._peers.fetch_named_payloads(holders, window)
            for each in of_window:
                frame = found.get(each.member.uid)
                if isinstance(frame, bytes):
                    yield each, frame

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
