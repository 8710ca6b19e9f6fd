"""Admission of a window's payloads to scoring: each frame is opened, checked and compared.

Pure. A frame is admitted if the bytes match the committed digest, the payload decodes, the claimed
pages are within bounds and of a list that the hotkey has not claimed before, and the kept positions
differ from payloads of earlier windows. What
was committed belongs first to its committer, read in its window or not: payloads that were outside
the sample or late are read a window later, and again when payloads of their authors overlap.
`SeenPayloads` remembers earlier windows, filled by scoring and by an audit alike.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from evaluation.overlap import (
    Earlier,
    IsLate,
    Overlaps,
    Places,
    TimeSpentError,
    find_overlaps,
    mark_applied,
    never_late,
)
from template.errors import PayloadError, SubnetError
from template.protocol.admission import open_payload
from template.protocol.draw import drawn_order
from template.protocol.payload import Payload, PayloadFormat
from template.protocol.root import Member
from template.protocol.run import Run
from template.scoring.footprint import (
    Footprint,
    HeldBody,
    SampleSeed,
    footprint_of,
    in_memory,
    places_in,
)
from template.scoring.rules import admits_claim, part_to_train


@dataclass(frozen=True, kw_only=True, slots=True)
class Admission:
    """The outcome for one frame. `refusal` is None for an admitted payload.

    `payload` is None if every node refuses the frame or the claimed pages are out of bounds; a
    payload refused for its overlap is given all the same. `alike`: uids of the window whose
    admitted payloads overlap, ascending.
    """

    payload: Payload | None
    refusal: SubnetError | None
    is_compared: bool = True
    """Whether kept positions were compared; without time the payload cannot be scored."""
    alike: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Unread:
    """A payload committed in `window` that was not read then: outside the sample, or late.

    `applied`: accepted all the same, by others who had read it.
    """

    window: int
    member: Member
    applied: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlierBody(Earlier):
    """A payload of an earlier window of which the places compared differ from window to window."""

    held: HeldBody


OVERLAP, CLAIMED = "overlap", "claimed"
"""Reasons for a refusal that rest on payloads of earlier windows."""

NOWHERE: Places = np.empty(0, dtype=np.int32)


def _earlier(window: int, author: str, footprint: Footprint, applied: bool) -> Earlier:
    if isinstance(footprint, HeldBody):
        return EarlierBody(
            window=window, author=author, places=NOWHERE, applied=applied, held=footprint
        )
    return Earlier(window=window, author=author, places=footprint, applied=applied)


MAX_REQUESTS = 2
"""Requests for an unread payload: a window later, and once more in a dispute."""

ReadUnread = Callable[[Sequence[Unread]], Iterable[tuple[Unread, bytes]]]
"""Asks the miners for payloads; yields the frames that came, unchecked."""


def read_nothing(_wanted: Sequence[Unread]) -> Iterable[tuple[Unread, bytes]]:
    """For a caller without buckets."""
    return ()


class SeenPayloads:
    """Kept positions of payloads, for as long as a repeat would not be stale."""

    def __init__(
        self,
        max_staleness: Callable[[int], int],
        keep: Callable[[Footprint], Footprint] = in_memory,
    ) -> None:
        """`max_staleness`: of a window's payloads. `keep`: as `Shelf.keep`, called first."""
        self._max_staleness, self._keep = max_staleness, keep
        self._earlier: list[Earlier] = []
        self._unread: list[Unread] = []
        self._bases: dict[str, dict[int, int]] = {}
        """Hotkey -> window -> base window, of payloads read."""
        self._since, self._last = 0, -1
        """The windows remembered one after another."""
        self._asked: Counter[Unread] = Counter()

    @property
    def earlier(self) -> Sequence[Earlier]:
        """Kept positions of payloads, in the order of their windows."""
        return self._earlier

    def before(self, window: int) -> list[Earlier]:
        """The payloads that one of `window` could repeat.

        After a restart, or a window missed, nobody knows who was first in the windows thereafter.
        """
        oldest = self._oldest(window)
        return [
            replace(each, is_first=self._since <= max(0, self._oldest(each.window)))
            for each in self._earlier
            if oldest <= each.window < window
        ]

    def claimed_since(self, hotkey: str, base: int, window: int) -> int | None:
        """The window before `window` in which a payload of the hotkey claimed the page list of
        `base`, or a newer one; None if none did, as far as is known.
        """
        before = self._bases.get(hotkey, {}).items()
        return max((w for w, claimed in before if w < window and claimed >= base), default=None)

    def add_positions(
        self,
        window: int,
        positions: Iterable[tuple[str, Footprint]],
        bases: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Remember kept positions of a window by hotkey, replacing positions of `window` and later;
        and base windows by hotkey.

        The payloads count as not applied until `mark_applied`.
        """
        oldest = self._oldest(window)
        if not self._since <= window <= self._last + 1:
            self._since = window
        self._last = window
        self._earlier = [e for e in self._earlier if oldest <= e.window < window]
        for hotkey, claimed in list(self._bases.items()):
            self._bases[hotkey] = {w: b for w, b in claimed.items() if oldest <= w < window}
        self._bases = {hotkey: claimed for hotkey, claimed in self._bases.items() if claimed}
        for hotkey, base in bases.items():
            self._bases.setdefault(hotkey, {})[window] = base
        self._earlier += [
            _earlier(window, hotkey, self._keep(kept), applied=False) for hotkey, kept in positions
        ]

    def add_unread(self, window: int, members: Iterable[Member]) -> None:
        """Remember committed payloads that were not read, replacing those of `window` and later."""
        oldest = self._oldest(window)
        self._unread = [each for each in self._unread if oldest <= each.window < window]
        self._asked = Counter({each: self._asked[each] for each in self._unread})
        self._unread += [Unread(window=window, member=member) for member in members]

    def unread_before(self, window: int) -> list[Unread]:
        """Unread payloads of windows before that may still be asked for, the oldest first."""
        return [each for each in self.never_read_before(window) if not self._is_given_up(each)]

    def never_read_before(self, window: int) -> list[Unread]:
        """As `unread_before`, with the payloads given up after `MAX_REQUESTS`."""
        oldest = self._oldest(window)
        return [each for each in self._unread if oldest <= each.window < window]

    def unread_of(self, window: int, hotkeys: Container[str]) -> list[Unread]:
        """Those of these hotkeys: of each hotkey the newest first, then of each the next."""
        newest_first = reversed(self.unread_before(window))
        found = [each for each in newest_first if each.member.hotkey in hotkeys]
        num_before: Counter[str] = Counter()
        turns = []
        for each in found:
            turns.append(num_before[each.member.hotkey])
            num_before[each.member.hotkey] += 1
        return [each for _, each in sorted(zip(turns, found, strict=True), key=lambda t: t[0])]

    def note_asked(self, wanted: Iterable[Unread]) -> None:
        """Count requests; what was asked for twice before is forgotten."""
        self._asked.update(wanted)

    def _is_given_up(self, unread: Unread) -> bool:
        return self._asked[unread] >= MAX_REQUESTS

    def add_read(self, unread: Unread, kept: Footprint | None, base: int) -> None:
        """Remember the kept positions of a payload read after its window; None for a repeat."""
        self._unread.remove(unread)
        self._bases.setdefault(unread.member.hotkey, {})[unread.window] = base
        if kept is None:
            return
        late = _earlier(
            unread.window, unread.member.hotkey, self._keep(kept), applied=unread.applied
        )
        self._earlier = sorted([*self._earlier, late], key=lambda each: each.window)

    def mark_applied(self, window: int, hotkeys: Container[str]) -> None:
        """Record the hotkeys whose payloads of a window the outer step applied.

        A payload that was not applied returned to error feedback; its miner may send the same
        values again.
        """
        self._earlier = mark_applied(self._earlier, window, hotkeys)
        self._unread = [
            replace(each, applied=each.member.hotkey in hotkeys) if each.window == window else each
            for each in self._unread
        ]

    def _oldest(self, window: int) -> int:
        return window - self._max_staleness(window) - 2


def whole_model(window: int) -> bytes:
    """The sample seed of a checker for small models."""
    raise ValueError(f"window {window}: a model of so many chunks is compared by a drawn sample")


def no_parts(hotkey: str, window: int) -> bytes:
    """The list seed of a checker for a run whose payloads are all of the whole model."""
    raise ValueError(f"{hotkey}, window {window}: a part of the model is drawn by the page list")


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameChecker:
    """Opens and checks the frames of a window by the rules of the window's spec.

    `form_at`: the layout of a window's payloads. `sample_seed`: draws the chunks compared in a
    window; for small models never asked. `list_seed`: of a hotkey's page list for a window, which
    draws the part that a small machine trains.
    """

    run: Run
    form_at: Callable[[int], PayloadFormat]
    sample_seed: SampleSeed = whole_model
    list_seed: Callable[[str, int], bytes] = no_parts

    def admit_frames(
        self,
        window: int,
        members: Sequence[Member],
        frames: Mapping[int, bytes | SubnetError | Admission],
        seen: SeenPayloads,
        is_late: IsLate = never_late,
        read_unread: ReadUnread = read_nothing,
    ) -> dict[int, Admission]:
        """uid -> outcome, in the order of `members`; a fetch error in `frames` is the refusal.

        Adds unread payloads of authors whose payloads overlap to `seen`. Once `is_late`, no payload
        counts as compared. `frames` may hold what `open_frame` said of a frame before.
        """
        opened = {m.uid: self._admit(window, m, frames[m.uid]) for m in members}
        found = {m.uid: _refuse_claimed(opened[m.uid], m, seen) for m in members}
        admitted = admitted_payloads(found)
        try:
            overlaps = self.find_overlaps(window, members, admitted, seen.before(window), is_late)
            accused = {m.hotkey for m in members if m.uid in overlaps.repeats}
            alike = {m.hotkey for m in members if m.uid in overlaps.alike}
            # A crowd alike must not crowd out those who would be refused.
            wanted = seen.unread_of(window, accused) + seen.unread_of(window, alike - accused)
            most = MAX_REQUESTS * self.run.at(window).evaluation.max_payloads
            if self.read_more(wanted[:most], seen, read_unread, is_late):
                overlaps = self.find_overlaps(
                    window, members, admitted, seen.before(window), is_late
                )
        except TimeSpentError:
            return found | {u: replace(found[u], is_compared=False) for u in admitted}
        for uid, payload in admitted.items():
            if uid in overlaps.repeats:
                refusal = PayloadError(OVERLAP, overlaps.repeats[uid])
                found[uid] = Admission(payload=payload, refusal=refusal)
            else:
                found[uid] = replace(found[uid], alike=overlaps.alike.get(uid, ()))
        return found

    def find_overlaps(
        self,
        window: int,
        members: Sequence[Member],
        payloads: Mapping[int, Payload],
        earlier: Sequence[Earlier],
        is_late: IsLate = never_late,
    ) -> Overlaps:
        """Compares `payloads` of `window` (by uid) with each other and with `earlier`.

        Two payloads overlap if more than `max_overlap` of the smaller one's positions are shared.
        TimeSpentError once `is_late`.
        """
        positions = {
            uid: self._places(self.list_positions(payload), window)
            for uid, payload in payloads.items()
        }
        authors = {member.uid: member.hotkey for member in members}
        limit = self.run.at(window).evaluation.max_overlap

        def look(each: Earlier) -> Places:
            # Of a large model one payload after another: all together are a gigabyte.
            if isinstance(each, EarlierBody):
                return self._places(each.held, window, each.window)
            return each.places

        return find_overlaps(positions, authors, earlier, limit, is_late, look)

    def read_more(
        self,
        wanted: Sequence[Unread],
        seen: SeenPayloads,
        read_unread: ReadUnread,
        is_late: IsLate = never_late,
    ) -> bool:
        """Read payloads of earlier windows; whether any came.

        A payload that repeats an earlier one of another author is not remembered: it is nobody's
        first. One that did not come twice is forgotten. TimeSpentError once `is_late`.
        """
        came: dict[int, list[tuple[Unread, Payload]]] = {}
        seen.note_asked(wanted)
        for unread, frame in read_unread(wanted) if wanted else ():
            try:
                payload = self._open(frame, unread.member, unread.window)
            except PayloadError:
                continue  # not what was committed
            came.setdefault(unread.window, []).append((unread, payload))
        for window, read in sorted(came.items()):
            payloads = {unread.member.uid: payload for unread, payload in read}
            members = [unread.member for unread, _ in read]
            repeats = self.find_overlaps(
                window, members, payloads, seen.before(window), is_late
            ).repeats
            for unread, payload in read:
                is_first = unread.member.uid not in repeats
                kept = self.list_positions(payload) if is_first else None
                seen.add_read(unread, kept, payload.header.base_window)
        return bool(came)

    def list_positions(self, payload: Payload) -> Footprint:
        """What `SeenPayloads` remembers of a payload."""
        return footprint_of(payload, self.form_at(payload.header.window))

    def _places(self, footprint: Footprint, window: int, made: int | None = None) -> Places:
        """The places that `window` compares, of a payload of window `made`, or else `window`."""
        form = self.form_at(window if made is None else made)
        return places_in(footprint, form, window, self.sample_seed)

    def _admit(
        self, window: int, member: Member, frame: bytes | SubnetError | Admission
    ) -> Admission:
        if isinstance(frame, Admission):
            return frame
        if isinstance(frame, SubnetError):
            return Admission(payload=None, refusal=frame)
        return self.open_frame(window, member, frame)

    def open_frame(self, window: int, member: Member, frame: bytes) -> Admission:
        """The outcome for one frame by itself, before it is compared with others."""
        try:
            return Admission(payload=self._open(frame, member, window), refusal=None)
        except PayloadError as error:
            return Admission(payload=None, refusal=error)

    def _open(self, frame: bytes, member: Member, window: int) -> Payload:
        spec = self.run.at(window)
        payload = open_payload(
            frame,
            member,
            window,
            self.form_at(window),
            spec.outer.max_staleness,
            oldest_base=spec.first_window,
        )
        header = payload.header
        if not admits_claim(spec, header):
            raise PayloadError(
                "pages",
                f"claims {header.pages_consumed} pages at width {header.width}: a payload claims "
                f"{spec.training.batch_pages} pages or more, at width 1 for each "
                f"{spec.training.pages_per_window} begun, up to {spec.training.max_width}",
            )
        drawn = part_to_train(header, self.list_seed, member.hotkey)
        if header.blocks != drawn:
            raise PayloadError("range", f"trains {header.blocks}; {drawn} is drawn")
        return payload


def _refuse_claimed(admission: Admission, member: Member, seen: SeenPayloads) -> Admission:
    """A page list is trained once: whoever claims it again, or an older one, claims old work."""
    if admission.refusal is not None or admission.payload is None:
        return admission
    header = admission.payload.header
    before = seen.claimed_since(member.hotkey, header.base_window, header.window)
    if before is None:
        return admission
    detail = f"claims the pages of window {header.base_window}, as a payload of window {before} did"
    return replace(admission, refusal=PayloadError(CLAIMED, detail))


def admitted_payloads(admissions: Mapping[int, Admission]) -> dict[int, Payload]:
    """uid -> payload of every admission without a refusal, in the same order."""
    return {
        uid: each.payload
        for uid, each in admissions.items()
        if each.refusal is None and each.payload is not None
    }


def draw_candidates(
    block_hash: bytes, window: int, candidates: Sequence[Member], max_payloads: int
) -> tuple[list[Member], list[Member]]:
    """The candidates drawn for scoring, in the order of the draw, and the candidates left out.

    `block_hash`: of the window's stake block.
    """
    members = {member.hotkey: member for member in candidates}
    ordered = [members[hotkey] for hotkey in drawn_order(block_hash, window, members)]
    return ordered[:max_payloads], ordered[max_payloads:]
