"""Scoring one window: from committed digests to verdicts.

Every payload is fetched, checked and measured apart from all others; an invalid payload changes
no other verdict. All payloads are measured on one pool of pages, with one forward pass each.
"""

import logging
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from evaluation.history import Histories, past_of
from evaluation.judge import Measured, judge
from evaluation.log_values import MAX_DETAIL_CHARS
from evaluation.overlap import TimeSpentError
from evaluation.verdict import NOT_DRAWN, NOT_SCORED, UNAVAILABLE, Verdict
from template.chain.ballots import read_last_commits
from template.context import ReadContext
from template.data.pages import PageReader
from template.errors import (
    AskedTooLate,
    Denied,
    NodeTrouble,
    NotFound,
    PayloadError,
    RecordError,
    StoreError,
    SubnetError,
    TooLarge,
)
from template.peers.client import Peers
from template.protocol.draw import drawn_order
from template.protocol.payload import Payload
from template.protocol.root import Member
from template.protocol.strangers import in_ascii
from template.scoring.admission import (
    Admission,
    FrameChecker,
    SeenPayloads,
    Unread,
    admitted_payloads,
    draw_candidates,
)
from template.scoring.measure import Measurer, scored_step
from template.scoring.pool import Pool, PoolDrawer
from template.scoring.rules import judge_rules
from template.training.outer import OuterState, scored_references

log = logging.getLogger(__name__)

FETCH_SHARE, AUTHOR_SHARE = 0.5, 0.6
"""Fractions of the scoring budget after which fetching stops, and after which payloads of earlier
windows are no longer read."""
FAIR_SHARE = FETCH_SHARE / 2
"""A validator that begins to fetch later, after a restart perhaps, holds no silence against a
bucket: of all of the miners it would say that they did not deliver."""

_FETCH_REASONS: Mapping[type[SubnetError], str] = {
    NotFound: "not_delivered",
    TooLarge: "too_large",
    Denied: "access_denied",
    RecordError: "no_access",
    # The validator did not measure the payload, and knows no fault of the miner.
    NodeTrouble: NOT_SCORED,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """A window's verdicts in uid order, with the pool and losses behind the verdicts.

    `seed`: hash of the held-out block. `exponent`: of alpha, in the state scored. `frames`:
    digest -> frame of each named payload.
    """

    seed: bytes
    exponent: int
    verdicts: tuple[Verdict, ...]
    pool: Pool
    measured: Measured
    frames: Mapping[bytes, bytes]

    @property
    def named_uids(self) -> frozenset[int]:
        return frozenset(v.uid for v in self.verdicts if v.named)


class WindowScorer:
    """Fetches, admits, measures and judges a window's payloads; remembers recent payloads."""

    def __init__(self, context: ReadContext, peers: Peers, pages: PageReader) -> None:
        spec = context.spec
        self._context = context
        self._peers = peers
        self._measurer = Measurer(spec, context.device, pages)
        self._drawer = PoolDrawer(
            spec=spec,
            schedule=context.schedule,
            block_hash=context.chain.block_hash,
            paging=pages.paging,
        )
        self._checker = FrameChecker(spec=spec, form=context.form)
        self._seen = SeenPayloads(spec.outer.max_staleness)

    @property
    def curve(self) -> np.ndarray:
        """Fixed pages for the loss curve, int64 [curve_pages, page_tokens]."""
        return self._measurer.curve

    def held_out_loss(self, state: OuterState) -> float:
        """Mean loss on the pages of the loss curve, nats per token."""
        return self._measurer.measure_curve(state)

    def score(
        self,
        window: int,
        state: OuterState,
        candidates: Sequence[Member],
        histories: Histories,
        late: Callable[[float], bool],
        step_start: OuterState | None = None,
    ) -> Scored:
        """Verdicts on all candidates. At most `max_payloads` candidates are drawn and scored, in
        the order of the draw, until the budget is spent.

        `late(share)` is true once `share` of the budget is spent. `step_start`: the state before
        the step that led to `state`, if known.
        """
        self._peers.refresh()
        drawn, left_out = self._draw_candidates(window, candidates)
        frames = self._fetch(window, drawn, late)
        admissions = self._checker.admit_frames(
            window,
            drawn,
            frames,
            self._seen,
            lambda: late(1.0),
            lambda unread: self._read_unread(unread, lambda: late(AUTHOR_SHARE)),
        )
        payloads = admitted_payloads(admissions)
        pool = self._draw_pool(window, drawn, payloads)
        is_compared = all(each.is_compared for each in admissions.values())
        pool, measured = self._measure_available(
            state, pool, payloads, lambda: late(1.0) or not is_compared, step_start
        )
        blanks = [_blank(window, m, admissions[m.uid], m.uid in measured.after_S) for m in drawn]
        blanks += [_not_drawn(window, member) for member in left_out]
        rules = judge_rules(self._context.spec.evaluation)
        verdicts = judge(blanks, measured, past_of(histories, rules), rules)
        self._remember_payloads(window, verdicts, payloads)
        unread = [m for m in drawn if not isinstance(frames[m.uid], bytes)]
        self._seen.add_unread(window, [*unread, *left_out])
        return Scored(
            seed=self._drawer.pool_seed(window),
            exponent=state.exponent,
            verdicts=verdicts,
            pool=pool,
            measured=measured,
            frames=_named_frames(verdicts, frames),
        )

    def _fetch(
        self, window: int, drawn: Sequence[Member], late: Callable[[float], bool]
    ) -> dict[int, bytes | SubnetError]:
        """The payloads drawn; beside these, unread payloads of the window before, for memory."""
        unread = self._draw_unread(window)
        beside = self._peers.start_fetching([each.member for each in unread], window - 1)
        began_late = late(FAIR_SHARE)
        frames = self._peers.fetch_payloads(
            drawn, window, lambda: late(FETCH_SHARE), began_late=began_late
        )
        if began_late:
            _tell_late(window, frames)
        found = self._peers.finish_fetching(
            beside, window - 1, lambda: late(FETCH_SHARE), by_window=window
        )
        with suppress(TimeSpentError):  # then the window is not compared either
            self._checker.read_more(
                unread, self._seen, partial(_came, found=found), lambda: late(1.0)
            )
        return frames

    def _draw_unread(self, window: int) -> list[Unread]:
        """Unread payloads of the window before, in the order of this window's draw."""
        unread = {
            each.member.hotkey: each
            for each in self._seen.unread_before(window)
            if each.window == window - 1
        }
        block_hash = self._context.chain.block_hash(self._context.schedule.stake_block(window))
        ordered = [unread[hotkey] for hotkey in drawn_order(block_hash, window, unread)]
        return ordered[: self._context.spec.evaluation.max_payloads]

    def _read_unread(
        self, wanted: Sequence[Unread], is_late: Callable[[], bool]
    ) -> Iterator[tuple[Unread, bytes]]:
        """The payloads that their miners serve now."""
        for window in sorted({each.window for each in wanted}):
            of_window = [each for each in wanted if each.window == window]
            found = self._peers.fetch_payloads([each.member for each in of_window], window, is_late)
            yield from _came(of_window, found)

    def mark_applied(self, window: int, hotkeys: Container[str]) -> None:
        """Record the hotkeys whose payloads of a window the outer step applied."""
        self._seen.mark_applied(window, hotkeys)

    def _draw_candidates(
        self, window: int, candidates: Sequence[Member]
    ) -> tuple[list[Member], list[Member]]:
        context = self._context
        block_hash = context.chain.block_hash(context.schedule.stake_block(window))
        return draw_candidates(block_hash, window, candidates, context.spec.evaluation.max_payloads)

    def _draw_pool(
        self, window: int, members: Sequence[Member], payloads: Mapping[int, Payload]
    ) -> Pool:
        context = self._context
        last_commits = read_last_commits(context.chain, context.spec, window)
        headers = {m: payloads[m.uid].header for m in members if m.uid in payloads}
        return self._drawer.draw_pool(window, last_commits, headers)

    def _measure_available(
        self,
        state: OuterState,
        pool: Pool,
        payloads: Mapping[int, Payload],
        is_late: Callable[[], bool],
        step_start: OuterState | None,
    ) -> tuple[Pool, Measured]:
        """The pool measured: the whole pool, or the pages that some bucket has."""
        try:
            return pool, self._measure(state, pool, payloads, is_late, step_start)
        except StoreError:
            kept = self._measurer.leave_out_missing(pool)
            return kept, self._measure(state, kept, payloads, is_late, step_start)

    def _measure(
        self,
        state: OuterState,
        pool: Pool,
        payloads: Mapping[int, Payload],
        is_late: Callable[[], bool],
        step_start: OuterState | None,
    ) -> Measured:
        spec = self._context.spec
        references = scored_references(state, [p.norms for p in payloads.values()], spec.outer)
        steps = {uid: scored_step(p, references, state, spec) for uid, p in payloads.items()}
        return self._measurer.measure_pool(state, pool, steps, is_late, step_start)

    def _remember_payloads(
        self, window: int, verdicts: Sequence[Verdict], payloads: Mapping[int, Payload]
    ) -> None:
        self._seen.add_positions(
            window,
            [
                (verdict.hotkey, self._checker.list_positions(payloads[verdict.uid]))
                for verdict in verdicts
                if verdict.uid in payloads
            ],
        )


def _came(
    unread: Sequence[Unread], found: Mapping[int, bytes | SubnetError]
) -> Iterator[tuple[Unread, bytes]]:
    for each in unread:
        frame = found[each.member.uid]
        if isinstance(frame, bytes):
            yield each, frame


def _named_frames(
    verdicts: Sequence[Verdict], frames: Mapping[int, bytes | SubnetError]
) -> dict[bytes, bytes]:
    named = ((bytes.fromhex(v.digest), frames[v.uid]) for v in verdicts if v.named)
    return {digest: frame for digest, frame in named if isinstance(frame, bytes)}


def _not_drawn(window: int, member: Member) -> Verdict:
    return Verdict(
        window=window,
        uid=member.uid,
        hotkey=member.hotkey,
        digest=member.digest.hex(),
        status=NOT_DRAWN,
        detail="outside this window's sample",
    )


def _detail(refusal: SubnetError) -> str:
    return in_ascii(str(refusal), MAX_DETAIL_CHARS)[:MAX_DETAIL_CHARS]


def _tell_late(window: int, frames: Mapping[int, bytes | SubnetError]) -> None:
    unheard = [uid for uid, frame in sorted(frames.items()) if isinstance(frame, AskedTooLate)]
    if unheard:
        log.warning(
            "window %d: this validator began to fetch too late in the window, as after a restart: "
            "payloads of uids %s are not scored, and no miner is at fault",
            window,
            unheard,
        )


def _blank(window: int, member: Member, admission: Admission, is_measured: bool) -> Verdict:
    """The verdict before the judge adds figures; with the reason for an unmeasured payload."""
    verdict = Verdict(
        window=window,
        uid=member.uid,
        hotkey=member.hotkey,
        digest=member.digest.hex(),
        status=NOT_SCORED,
        detail="" if is_measured else "the scoring budget was spent",
    )
    refusal, payload = admission.refusal, admission.payload
    if isinstance(refusal, PayloadError):
        return replace(verdict, status=refusal.reason, detail=_detail(refusal))
    if refusal is not None:
        reasons = (reason for kind, reason in _FETCH_REASONS.items() if isinstance(refusal, kind))
        return replace(verdict, status=next(reasons, UNAVAILABLE), detail=_detail(refusal))
    assert payload is not None, "an admission without a refusal has a payload"
    return replace(
        verdict,
        pages_consumed=payload.header.pages_consumed,
        base_window=payload.header.base_window,
        alike=admission.alike,
    )
