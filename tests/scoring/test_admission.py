"""Admission to scoring: refusals by reason, and the memory of earlier windows."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from template.errors import PayloadError, Unavailable
from template.protocol.payload import (
    PayloadFormat,
    PayloadHeader,
    encode_payload,
    payload_digest,
)
from template.protocol.root import Member
from template.protocol.run import Run
from template.protocol.spec import RunSpec
from template.scoring.admission import (
    FrameChecker,
    ReadUnread,
    SeenPayloads,
    admitted_payloads,
    draw_candidates,
    read_nothing,
)

WINDOW = 9


def make_frame(
    form: PayloadFormat, spec: RunSpec, uid: int, seed: int, window: int = WINDOW, **header: Any
) -> tuple[Member, bytes]:
    """A member and a frame with random values drawn from `seed`."""
    key = bytes([uid]) * 32
    fields: dict[str, Any] = {
        "window": window,
        "base_window": window,
        "pages_consumed": spec.training.pages_per_window,
        **header,
    }
    generator = torch.Generator().manual_seed(seed)
    tensors = {n: torch.randn(shape, generator=generator) for n, shape in form.shapes.items()}
    data, _ = encode_payload(PayloadHeader(public_key=key, **fields), tensors, form)
    member = Member(
        uid=uid, hotkey=f"hotkey{uid}", public_key=key, coldkey=key, digest=payload_digest(data)
    )
    return member, data


class Window:
    """Admission of made-up frames window after window with one memory."""

    def __init__(self, spec: RunSpec, form: PayloadFormat) -> None:
        self.spec, self.form = spec, form
        self.checker = FrameChecker(run=Run(spec), form_at=lambda _: form)
        self.seen = SeenPayloads(lambda _: spec.outer.max_staleness)
        self.read_unread: ReadUnread = read_nothing
        self.last = -1
        self.alike: dict[int, tuple[int, ...]] = {}
        """uid -> uids alike, of the payloads admitted last."""

    def reasons(self, *made: tuple[Member, Any], window: int = WINDOW) -> list[str | None]:
        for between in range(self.last + 1, window):
            self.seen.add_positions(between, [])
        self.last = window
        members = [member for member, _ in made]
        frames = {member.uid: frame for member, frame in made}
        found = self.checker.admit_frames(
            window, members, frames, self.seen, read_unread=self.read_unread
        )
        self.alike = {uid: found[uid].alike for uid in sorted(admitted_payloads(found))}
        self.seen.add_positions(
            window,
            [
                (m.hotkey, self.checker.list_positions(payload))
                for m in members
                if (payload := admitted_payloads(found).get(m.uid)) is not None
            ],
        )
        refusals = [found[member.uid].refusal for member in members]
        return [
            r.reason if isinstance(r, PayloadError) else None if r is None else str(r)
            for r in refusals
        ]


@pytest.fixture
def admission(spec, form) -> Window:
    return Window(spec, form)


def test_independent_payloads_are_admitted_in_order(admission, spec, form) -> None:
    made = [make_frame(form, spec, uid, seed=uid) for uid in (3, 1, 2)]
    assert admission.reasons(*made) == [None, None, None]


def test_every_reason_for_a_refusal(admission, spec, form) -> None:
    member, frame = make_frame(form, spec, 1, seed=1)
    assert admission.reasons((member, frame[:-1])) == ["digest"]
    assert admission.reasons((member, Unavailable("no answer"))) == ["no answer"]
    too_many = spec.training.pages_per_window + 1
    assert admission.reasons(make_frame(form, spec, 1, 1, pages_consumed=too_many)) == ["pages"]
    too_few = spec.evaluation.claimed_pages - 1
    assert admission.reasons(make_frame(form, spec, 1, 1, pages_consumed=too_few)) == ["pages"]
    stale = WINDOW - spec.outer.max_staleness - 1
    assert admission.reasons(make_frame(form, spec, 1, 1, base_window=stale)) == ["stale"]
    assert admission.reasons((member, frame)) == [None], "a refusal leaves no memory"


def test_equal_bodies_of_a_window_are_alike_and_none_is_refused(admission, spec, form) -> None:
    """The evidence of work finds the author: the order of the draw says nothing."""
    made = [make_frame(form, spec, uid, seed=1) for uid in (2, 1)]
    made.append(make_frame(form, spec, 3, seed=3))
    for _ in range(2):  # scored again after a restart
        assert admission.reasons(*made) == [None, None, None]
        assert admission.alike == {1: (2,), 2: (1,), 3: ()}


def make_twin(form: PayloadFormat, spec: RunSpec, uid: int, seed: int, window: int = WINDOW):
    """The kept positions of `make_frame`, with another body."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {n: 2 * torch.randn(s, generator=generator) for n, s in form.shapes.items()}
    key = bytes([uid]) * 32
    pages = spec.training.pages_per_window
    header = PayloadHeader(window=window, base_window=window, pages_consumed=pages, public_key=key)
    data, _ = encode_payload(header, tensors, form)
    member = Member(
        uid=uid, hotkey=f"hotkey{uid}", public_key=key, coldkey=key, digest=payload_digest(data)
    )
    return member, data


def test_other_bodies_with_the_same_positions_are_alike_too(admission, spec, form) -> None:
    made = [make_frame(form, spec, 1, seed=1), make_twin(form, spec, 2, seed=1)]
    assert admission.reasons(*made) == [None, None]
    assert admission.alike == {1: (2,), 2: (1,)}


def test_a_payload_of_an_earlier_window_is_refused_to_all_others(admission, spec, form) -> None:
    assert admission.reasons(make_frame(form, spec, 1, seed=1)) == [None]
    again = [make_twin(form, spec, uid, seed=1, window=WINDOW + 1) for uid in (1, 2)]
    assert admission.reasons(*again, window=WINDOW + 1) == [None, "overlap"]
    assert admission.alike == {1: ()}, "who is refused shadows nobody"
    admission.seen.mark_applied(WINDOW, {"hotkey1"})
    assert admission.reasons(*again, window=WINDOW + 1) == ["overlap", "overlap"]


@pytest.mark.parametrize("comes", ["as committed", "not at all", "other bytes", "applied"])
def test_who_committed_first_is_found_among_payloads_nobody_read(
    admission, spec, form, comes: str
) -> None:
    """Uid 2 was not drawn in `WINDOW`; uid 1 sends what uid 2 had committed; then both send it."""
    owner, frame = make_frame(form, spec, 2, seed=1)
    admission.seen.add_unread(WINDOW, [owner, make_frame(form, spec, 9, seed=9)[0]])
    if comes == "applied":
        admission.seen.mark_applied(WINDOW, {"hotkey2"})
    asked = []

    def read_unread(wanted):
        asked.extend(wanted)
        frames = {"other bytes": frame[:-1], "not at all": None}
        came = frames.get(comes, frame)
        return [(each, came) for each in wanted if came is not None]

    admission.read_unread = read_unread
    assert admission.reasons(make_frame(form, spec, 4, seed=4, window=10), window=10) == [None]
    assert asked == [], "without an overlap nobody is asked"
    both = [make_twin(form, spec, uid, seed=1, window=11) for uid in (1, 2)]
    expected = {
        "as committed": ["overlap", None],
        "not at all": [None, None],
        "other bytes": [None, None],
        "applied": ["overlap", "overlap"],
    }
    assert admission.reasons(*both, window=11) == expected[comes]
    assert [(each.window, each.member.uid) for each in asked] == [(WINDOW, 2)]
    admission.reasons(*both, window=11)
    is_known = comes in ("as committed", "applied")
    assert len(asked) == (1 if is_known else 2), "a payload read is not asked for again"


def test_payloads_nobody_read_are_forgotten_and_at_most_two_samples_are_asked_for(
    admission, spec, form
) -> None:
    most = spec.evaluation.max_payloads
    owners = [make_frame(form, spec, uid, seed=uid)[0] for uid in range(2 * most + 2)]
    admission.seen.add_unread(WINDOW, owners)
    hotkeys = {owner.hotkey for owner in owners}
    last = WINDOW + spec.outer.max_staleness + 2
    assert len(admission.seen.unread_of(last, hotkeys)) == 2 * most + 2
    assert admission.seen.unread_of(last + 1, hotkeys) == []
    assert admission.seen.unread_of(WINDOW, hotkeys) == [], "only windows before"
    asked = []

    def read_nothing_but_count(wanted):
        asked.extend(wanted)
        return ()

    admission.read_unread = read_nothing_but_count
    admission.reasons(
        *(make_twin(form, spec, uid, seed=1, window=WINDOW + 1) for uid in range(2 * most + 2)),
        window=WINDOW + 1,
    )
    assert len(asked) == 2 * most
    admission.reasons(
        *(make_twin(form, spec, uid, seed=1, window=WINDOW + 1) for uid in range(2 * most + 2)),
        window=WINDOW + 1,
    )
    assert admission.seen.unread_before(WINDOW + 1) != []


def test_a_crowd_that_serves_nothing_does_not_crowd_out_the_accused(admission, spec, form) -> None:
    """A crowd alike, with payloads of two windows that never come; the victim's comes."""
    most = spec.evaluation.max_payloads
    crowd = range(10, 10 + most)
    owner, frame = make_frame(form, spec, 2, seed=1)
    for window in range(WINDOW):
        admission.seen.add_positions(window, [])
    for window in (WINDOW, WINDOW + 1):
        members = [make_frame(form, spec, uid, seed=uid, window=window)[0] for uid in crowd]
        admission.seen.add_positions(window, [])
        admission.seen.add_unread(window, [*members, *([owner] if window == WINDOW else [])])
        admission.last = window
    thief = make_twin(form, spec, 1, seed=1, window=WINDOW + 1)
    places = admission.checker.list_positions(
        admitted_payloads(
            admission.checker.admit_frames(
                WINDOW + 1, [thief[0]], {1: thief[1]}, SeenPayloads(lambda _: 2)
            )
        )[1]
    )
    admission.seen.add_positions(WINDOW + 1, [("hotkey1", places)])
    asked = []

    def read_unread(wanted):
        asked.extend(wanted)
        return [(each, frame) for each in wanted if each.member.uid == 2]

    admission.read_unread = read_unread
    made = [make_twin(form, spec, uid, seed=3, window=WINDOW + 2) for uid in crowd]
    made.append(make_twin(form, spec, 2, seed=1, window=WINDOW + 2))
    assert admission.reasons(*made, window=WINDOW + 2)[-1] is None
    assert asked[0].member.uid == 2
    assert len(asked) <= 2 * most


@pytest.mark.parametrize(("start", "is_refused"), [(WINDOW, False), (WINDOW - 4, True)])
def test_what_was_seen_after_a_restart_is_no_obstacle_to_others(
    admission, spec, form, start: int, is_refused: bool
) -> None:
    """A validator that remembers from `start` on does not know who committed before."""
    assert spec.outer.max_staleness == 2
    admission.last = start - 1
    admission.seen.add_positions(start, [])
    assert admission.reasons(make_frame(form, spec, 1, seed=1)) == [None]
    again = make_twin(form, spec, 2, seed=1, window=WINDOW + 3)
    assert admission.reasons(again, window=WINDOW + 3) == ["overlap" if is_refused else None]


def test_without_time_no_payload_counts_as_compared(admission, spec, form) -> None:
    """An overlap may hide in an unfinished comparison, so all wait; other refusals stand."""
    member, frame = make_frame(form, spec, 1, seed=1)
    other, other_frame = make_frame(form, spec, 2, seed=1)
    late, _ = make_frame(form, spec, 3, seed=3)
    frames = {1: frame, 2: other_frame, 3: Unavailable("no answer")}
    found = admission.checker.admit_frames(
        WINDOW, [member, other, late], frames, admission.seen, lambda: True
    )
    assert [found[uid].is_compared for uid in (1, 2, 3)] == [False, False, True]
    assert [found[uid].refusal for uid in (1, 2)] == [None, None]
    assert type(found[3].refusal) is Unavailable


@pytest.mark.parametrize("is_applied", [True, False])
def test_an_applied_payload_may_not_come_again_until_it_is_stale(
    admission, spec, form, is_applied: bool
) -> None:
    """Byte for byte: without acceptance it went back into error feedback, and may come again."""
    assert admission.reasons(make_frame(form, spec, 1, seed=1)) == [None]
    admission.seen.mark_applied(WINDOW, {"hotkey1"} if is_applied else ())
    last = WINDOW + spec.outer.max_staleness + 2
    again = make_frame(form, spec, 1, seed=1, window=last)
    assert admission.reasons(again, window=last) == ["overlap" if is_applied else None]
    by_another = make_frame(form, spec, 2, seed=1, window=last)
    assert admission.reasons(by_another, window=last) == ["overlap"]
    again = make_frame(form, spec, 1, seed=1, window=last + 1)
    fresh = Window(spec, form)
    assert fresh.reasons(make_frame(form, spec, 1, seed=1)) == [None]
    fresh.seen.mark_applied(WINDOW, {"hotkey1"})
    assert fresh.reasons(again, window=last + 1) == [None], "one window later it is stale"


@pytest.mark.parametrize("max_staleness", [0, 2, 4])
@pytest.mark.parametrize("num_missing", [0, 1])
def test_twice_the_windows_of_repeats_tell_who_was_first(max_staleness, num_missing) -> None:
    """As many windows as an auditor reads before the first that is audited."""
    seen, reach = SeenPayloads(lambda _: max_staleness), max_staleness + 2
    places = np.array([1], dtype=np.int32)
    window = 40
    for past in range(window - 2 * reach + num_missing, window):
        seen.add_positions(past, [("hotkey", places)])
    firsts = [each.is_first for each in seen.before(window)]
    assert len(firsts) == reach
    assert firsts == [False] * num_missing + [True] * (reach - num_missing)


@given(
    windows=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=20),
    max_staleness=st.integers(0, 4),
)
def test_positions_are_remembered_with_the_outer_step(windows, max_staleness) -> None:
    seen = SeenPayloads(lambda _: max_staleness)
    for window, (hotkey, is_applied) in enumerate(windows):
        for _ in range(2):  # a window scored twice counts once
            seen.add_positions(window, [(f"hotkey{hotkey}", np.array([window], dtype=np.int32))])
        seen.mark_applied(window, {f"hotkey{hotkey}"} if is_applied else set())
        first = max(0, window - max_staleness - 2)
        assert [
            (each.window, each.author, each.applied, each.places.tolist()) for each in seen.earlier
        ] == [(w, f"hotkey{windows[w][0]}", windows[w][1], [w]) for w in range(first, window + 1)]


@given(count=st.integers(0, 8), limit=st.integers(0, 9), salt=st.binary(min_size=32, max_size=32))
def test_candidates_are_drawn_whatever_their_order(count, limit, salt) -> None:
    members = [
        Member(uid=u, hotkey=f"hotkey{u}", public_key=b"", coldkey=b"", digest=b"")
        for u in range(count)
    ]
    drawn, left_out = draw_candidates(salt, WINDOW, members, limit)
    assert len(drawn) == min(limit, count)
    assert sorted(m.uid for m in drawn + left_out) == list(range(count))
    assert (drawn, left_out) == draw_candidates(salt, WINDOW, members[::-1], limit)
    more, _ = draw_candidates(salt, WINDOW, members, limit + 1)
    assert more[: len(drawn)] == drawn
