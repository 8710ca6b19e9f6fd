"""Measuring a window again, as its verdict log says that it was measured.

A `WindowScorer` that fetches nothing and decides nothing: it is handed the frames, told which of
them a validator had in hand, and gives page ids and losses as that validator should have got them.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.overlap import find_repeats
from evaluation.verdict import Verdict
from template.errors import PayloadError
from template.protocol.admission import open_payload
from template.protocol.payload import Payload, PayloadHeader, body_digest
from template.protocol.root import Member
from template.scoring.window import Pool, WindowScorer
from template.training.energy import Norms
from template.training.outer import OuterState, scored_references


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """A frame in hand. `payload` is None if no node can open it; `refusal` is None if nothing is
    wrong with it. One that repeats another has both.
    """

    payload: Payload | None
    refusal: PayloadError | None
    by_memory: bool = False
    """Whether the refusal rests on a window before, which a validator may have forgotten."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Remeasured:
    """Losses of a pool, float64 [S] each: before any step, and by uid after those steps whose
    length is known.
    """

    before_S: np.ndarray
    after_S: Mapping[int, np.ndarray]


class Rescorer(WindowScorer):
    """Windows in ascending order: what repeats an earlier payload is found by memory."""

    def seed(self, window: int) -> bytes:
        """Hash of the block that draws the window's pool."""
        return self._seed(window)

    def check(
        self, window: int, members: Sequence[Member], frames: Mapping[int, bytes]
    ) -> dict[int, Checked]:
        """What comes of each frame, by uid, when they are opened in the order of `members`."""
        present = [m for m in members if m.uid in frames]
        found = {m.uid: self._checked(m, window, frames[m.uid]) for m in present}
        opened = {m.uid: p for m in present if isinstance(p := found[m.uid], Payload)}
        found |= self._repeats(present, opened)
        here = self._repeats_here(present, opened)
        checked = {}
        for member in present:
            uid, outcome = member.uid, found[member.uid]
            if isinstance(outcome, Payload):
                checked[uid] = Checked(payload=outcome, refusal=None)
            elif isinstance(outcome, PayloadError):
                checked[uid] = self._refused(outcome, frames[uid], member, window, uid in here)
        return checked

    def _repeats_here(
        self, members: Sequence[Member], opened: Mapping[int, Payload]
    ) -> Collection[int]:
        """Those that repeat another of the window itself."""
        places = {uid: self._places(payload) for uid, payload in opened.items()}
        authors = {member.uid: member.hotkey for member in members}
        return find_repeats(places, authors, (), self._context.spec.evaluation.max_overlap)

    def _refused(
        self, refusal: PayloadError, frame: bytes, member: Member, window: int, here: bool
    ) -> Checked:
        """One refused only for what was seen before it is opened all the same."""
        if refusal.reason == "duplicate":
            here = self._bodies[body_digest(frame)][0] == window
        elif refusal.reason != "overlap":
            return Checked(payload=None, refusal=refusal)
        limit = self._context.spec.outer.max_staleness
        payload = open_payload(frame, member, window, self._context.form, limit)
        return Checked(payload=payload, refusal=refusal, by_memory=not here)

    def remember(
        self, window: int, verdicts: Sequence[Verdict], opened: Mapping[int, Payload]
    ) -> None:
        """Keep what later payloads must not repeat. `opened`: those that the validator opened."""
        self._forget(window)
        self._remember_places(window, verdicts, opened)

    def pool(self, window: int, headers: Mapping[Member, PayloadHeader]) -> Pool:
        """The window's pool if these payloads were opened, in this order."""
        return self._pool(window, headers)

    def measure(
        self,
        state: OuterState,
        pool: Pool,
        opened: Mapping[int, Payload],
        num_missing: int,
        uids: Collection[int],
    ) -> Remeasured:
        """Losses at theta, and after the steps of `uids` (of `opened`).

        Before anything was accepted the length of a step depends on the norms of all payloads that
        were opened. Left out are the steps that missing ones could make longer or shorter.
        """
        pages = self._pages.pages(pool.ids_S)
        self._scorer.load(state.params)
        before_S, after_S = self._scorer.losses(pages), {}
        shortest, longest = self._references(state, opened, num_missing)
        for uid in uids:
            factors = self._factors(opened[uid], shortest)
            if factors == self._factors(opened[uid], longest):
                with self._scorer.stepped(opened[uid].tensors, factors):
                    after_S[uid] = self._scorer.losses(pages)
        return Remeasured(before_S=before_S, after_S=after_S)

    def _references(
        self, state: OuterState, opened: Mapping[int, Payload], num_missing: int
    ) -> tuple[Norms, Norms]:
        """If the missing payloads are all of norm zero, and if they are of any norm."""
        norms = [payload.norms for payload in opened.values()]
        names, outer = self._context.form.names, self._context.spec.outer
        none: Norms = dict.fromkeys(names, 0.0)
        huge: Norms = dict.fromkeys(names, math.inf)
        return (
            scored_references(state, [*norms, *[none] * num_missing], outer),
            scored_references(state, [*norms, *[huge] * num_missing], outer),
        )


def said_header(verdict: Verdict, member: Member) -> PayloadHeader | None:
    """A payload's header as the log says it, or None if it says that it was not opened."""
    if verdict.pages_consumed is None or verdict.base_window is None:
        return None
    return PayloadHeader(
        window=verdict.window,
        base_window=verdict.base_window,
        pages_consumed=verdict.pages_consumed,
        public_key=member.public_key,
    )
