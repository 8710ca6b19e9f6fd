"""Measuring a window's payloads while others are still on their way.

What a payload's step does to the held-out pages and to its own claims depends on no other payload.
Verdicts need the whole set and wait for its end: who repeats an earlier payload, which payloads are
alike, and whether gain and work stand out. Until a run has accepted a payload, all payloads of a
window together decide how long each step is, and only losses at theta are measured ahead.

Nothing measured here is final: `Measurement.finish` takes the passes that the window's pool turns
out to have, and measures the others. So the time at which a payload comes changes no figure.
"""

import logging
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import numpy as np

from template.data.pages import PageReader
from template.errors import StoreError
from template.protocol.payload import Payload
from template.protocol.root import Member
from template.scoring.measure import HALF_WAY, THETA, Measurement, Step
from template.scoring.pool import Pool, pool_of

log = logging.getLogger(__name__)

DrawClaims = Callable[[Member, Payload], np.ndarray]
"""Draws the claimed pages of a payload."""


@dataclass(kw_only=True)
class Ahead:
    """A window's measurement before its payloads are all here.

    `drawn`: in the order of the draw. `held_out`: page ids, int64. `make_step`: None while the
    steps depend on all payloads. Holds one step at a time, and no payload beyond those given.
    """

    window: int
    drawn: Sequence[Member]
    measurement: Measurement
    pages: PageReader
    held_out: np.ndarray
    draw_claims: DrawClaims
    make_step: Callable[[Payload], Step] | None
    _payloads: dict[int, Payload | None] = field(default_factory=dict)
    _claims: dict[int, np.ndarray] = field(default_factory=dict)
    _asked: set[bytes] = field(default_factory=set)
    _visited: set[int] = field(default_factory=set)
    _under_way: Generator[None] | None = None
    _is_given_up: bool = False

    def note(self, uid: int, payload: Payload | None) -> None:
        """Hear of a payload that came, or of one that will not be measured (None)."""
        self._payloads[uid] = payload

    def work(self) -> bool:
        """Measure one batch; False if nothing can be measured now."""
        try:
            return self._work()
        except StoreError as error:
            # `finish` asks again, and knows what to do without these pages.
            log.debug("window %d: nothing more is measured ahead: %s", self.window, error)
            self._is_given_up = True
            return False

    def close(self) -> None:
        """End a piece of work under way; theta is restored."""
        if self._under_way is not None:
            self._under_way.close()
            self._under_way = None

    def _work(self) -> bool:
        if self._is_given_up:
            return False
        while True:
            if self._under_way is None:
                self._under_way = self._next()
            if self._under_way is None:
                return False
            for _ in self._under_way:
                return True
            self._under_way = None

    def _next(self) -> Generator[None] | None:
        """The next losses to measure: half-way, then each payload's, at theta and after its step.

        New payloads come first.
        """
        held_out = pool_of(self.held_out, {})
        if not self._is_at_hand(held_out):
            return None
        for whose in (HALF_WAY, THETA):
            known = whose == THETA or self.measurement.has_half_way
            if known and self.measurement.lacks(held_out, whose):
                return self.measurement.work(held_out, whose)
        came = [(m, p) for m in self.drawn if (p := self._payloads.get(m.uid)) is not None]
        for member, payload in sorted(came, key=lambda each: each[0].uid in self._visited):
            pool = pool_of(self.held_out, {member.uid: self._claims_of(member, payload)})
            if not self._is_at_hand(pool):
                pool = held_out
            if self.measurement.lacks(pool, THETA):
                return self.measurement.work(pool, THETA)
            if self.make_step is not None and self.measurement.lacks(pool, member.uid):
                return self._measure(pool, member.uid, self.make_step(payload))
        return None

    def _measure(self, pool: Pool, uid: int, step: Step) -> Generator[None]:
        self._visited.add(uid)
        yield from self.measurement.work(pool, uid, step)
        log.debug(
            "window %d: uid %d is measured on %d pages, with %d payloads to come",
            self.window,
            uid,
            pool.ids_S.size,
            len(self.drawn) - len(self._payloads),
        )

    def _claims_of(self, member: Member, payload: Payload) -> np.ndarray:
        if member.uid not in self._claims:
            self._claims[member.uid] = self.draw_claims(member, payload)
        return self._claims[member.uid]

    def _is_at_hand(self, pool: Pool) -> bool:
        """Whether the pages can be read without a wait; otherwise they are asked for, once."""
        away = [ids for ids in self.measurement.batches(pool) if not self.pages.is_at_hand(ids)]
        for ids in away:
            if ids.tobytes() not in self._asked:
                self._asked.add(ids.tobytes())
                self.pages.prefetch(ids)
        return not away
