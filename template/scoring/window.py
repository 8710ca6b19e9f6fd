"""Scoring one window: from committed digests to verdicts.

Every payload is fetched, checked and measured apart from all others; an invalid payload changes
no other verdict. All payloads are measured on one pool of pages, as they come: what the pool is in
full, and the verdicts, follow once they are all here.
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
from template.protocol.payload import Frame, Payload
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
from template.scoring.ahead import Ahead
from template.scoring.footprint import Shelf
from template.scoring.measure import (
    Measurement,
    Measurer,
    Measurers,
    OpenDatasets,
    Step,
    open_scorer,
    scored_step,
)
from template.scoring.pool import Pool, PoolDrawer, pool_of
from template.scoring.rules import judge_rules
from template.training.outer import OuterState, has_usual_norms, scored_references

log = logging.getLogger(__name__)

FETCH_SHARE, AUTHOR_SHARE = 0.5, 0.6
"""Fractions of the scoring budget after which fetching stops, and after which payloads of earlier
windows are no longer read."""
FAIR_SHARE = FETCH_SHARE / 2
"""A bucket asked later, after a restart perhaps or behind many payloads on a slow line, has too
little time, and its silence is not held against it."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fetched:
    """By uid: the payload or the error, and the payloads opened while others were on their way."""

    frames: Mapping[int, bytes | SubnetError]
    opened: Mapping[int, Admission]


class WindowScorer:
    """Fetches, admits, measures and judges a window's payloads; remembers recent payloads."""

    def __init__(self, context: ReadContext, peers: Peers, datasets: OpenDatasets) -> None:
        self._context = context
        self._peers = peers
        self._measurers = Measurers(context.run, open_scorer(context), datasets)
        self._drawer = PoolDrawer(
            run=context.run,
            block_hash=context.chain.block_hash,
            paging_at=lambda window: datasets.at(window).paging,
        )
        self._checker = FrameChecker(
            run=context.run,
            form_at=context.form_at,
            sample_seed=self._hash_after_commitments,
            list_seed=self._drawer.list_seed,
        )
        self._seen = SeenPayloads(
            lambda window: context.run.at(window).outer.max_staleness,
            Shelf(context.state_dir / "seen").keep,
        )

    def curve(self, window: int) -> np.ndarray:
        """Fixed pages for the loss curve, of a window's dataset; int64 [pages, page_tokens]."""
        return self._measurers.at(window).curve

    def held_out_loss(self, state: OuterState) -> float:
        """Mean loss on the pages of the loss curve, nats per token."""
        return self._measurers.at(state.window).measure_curve(state)

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
        last_commits = read_last_commits(self._context.chain, self._context.run, window)
        held_out = self._drawer.draw_held_out(window, last_commits)
        measurer = self._measurers.at(window)
        measurement = measurer.begin(state, step_start)
        ahead = self._measure_ahead(window, state, drawn, held_out, measurement)
        fetched = self._fetch(window, drawn, late, ahead)
        frames = fetched.frames
        admissions = self._checker.admit_frames(
            window,
            drawn,
            {**frames, **fetched.opened},
            self._seen,
            lambda: late(1.0),
            lambda unread: self._read_unread(unread, lambda: late(AUTHOR_SHARE)),
        )
        payloads = admitted_payloads(admissions)
        pool = self._draw_pool(window, held_out, drawn, payloads)
        is_compared = all(each.is_compared for each in admissions.values())
        pool, measured = self._measure_available(
            measurer,
            measurement,
            pool,
            self._steps(window, state, payloads),
            lambda: late(1.0) or not is_compared,
        )
        blanks = [_blank(window, m, admissions[m.uid], m.uid in measured.after_KQ) for m in drawn]
        blanks += [_not_drawn(window, member) for member in left_out]
        rules = judge_rules(self._context.run.at(window).evaluation)
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

    def _measure_ahead(
        self,
        window: int,
        state: OuterState,
        drawn: Sequence[Member],
        held_out: np.ndarray,
        measurement: Measurement,
    ) -> Ahead:
        """Measures the payloads drawn while others are on their way."""
        spec, drawer = self._context.run.at(window), self._drawer
        references = scored_references(state, (), spec.outer)
        return Ahead(
            window=window,
            drawn=drawn,
            measurement=measurement,
            pages=self._measurers.at(window).pages,
            held_out=held_out,
            draw_claims=lambda member, payload: drawer.draw_claimed(
                window, member.hotkey, payload.header
            ),
            make_step=(lambda payload: scored_step(payload, references, state, spec))
            if has_usual_norms(state)
            else None,
        )

    def _fetch(
        self,
        window: int,
        drawn: Sequence[Member],
        late: Callable[[float], bool],
        ahead: Ahead,
    ) -> "_Fetched":
        """The payloads drawn, in their order, opened and measured as they come; once all of these
        are asked for, unread payloads of the window before, for memory."""
        opened: dict[int, Admission] = {}
        framed: dict[int, Frame] = {}
        began_late: list[bool] = []

        def is_late() -> bool:
            began_late.append(late(FAIR_SHARE))
            return began_late[-1]

        unread = self._draw_unread(window)
        fetching = self._peers.start_fetching(drawn, window, is_late=is_late)
        beside = self._peers.start_fetching([each.member for each in unread], window - 1)

        def on_answer(member: Member, answer: bytes | SubnetError) -> None:
            payload = None
            if isinstance(answer, bytes):
                frame = framed[member.uid] = Frame.of(answer)
                admission = opened[member.uid] = self._checker.open_frame(window, member, frame)
                payload = admission.payload
            ahead.note(member.uid, payload)

        def meanwhile() -> bool:
            if fetching.is_begun:
                beside.advance()
            return ahead.work()

        try:
            frames = self._peers.finish_fetching(
                fetching,
                window,
                lambda: late(FETCH_SHARE),
                on_answer=on_answer,
                meanwhile=meanwhile,
            )
            frames = {**frames, **framed}
            _tell_unheard(window, frames, began_late=any(began_late[:1]))
            found = self._peers.finish_fetching(
                beside,
                window - 1,
                lambda: late(FETCH_SHARE),
                by_window=window,
                meanwhile=ahead.work,
            )
        finally:
            ahead.close()
        with suppress(TimeSpentError):  # then the window is not compared either
            self._checker.read_more(
                unread, self._seen, partial(_came, found=found), lambda: late(1.0)
            )
        return _Fetched(frames=frames, opened=opened)

    def _draw_unread(self, window: int) -> list[Unread]:
        """Unread payloads of the window before, in the order of this window's draw."""
        unread = {
            each.member.hotkey: each
            for each in self._seen.unread_before(window)
            if each.window == window - 1
        }
        block_hash = self._hash_after_commitments(window)
        ordered = [unread[hotkey] for hotkey in drawn_order(block_hash, window, unread)]
        return ordered[: self._context.run.at(window).evaluation.max_payloads]

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

    def _hash_after_commitments(self, window: int) -> bytes:
        context = self._context
        return context.chain.block_hash(context.schedule.stake_block(window))

    def _draw_candidates(
        self, window: int, candidates: Sequence[Member]
    ) -> tuple[list[Member], list[Member]]:
        most = self._context.run.at(window).evaluation.max_payloads
        return draw_candidates(self._hash_after_commitments(window), window, candidates, most)

    def _draw_pool(
        self,
        window: int,
        held_out: np.ndarray,
        members: Sequence[Member],
        payloads: Mapping[int, Payload],
    ) -> Pool:
        headers = {m: payloads[m.uid].header for m in members if m.uid in payloads}
        return pool_of(held_out, self._drawer.draw_claims(window, headers))

    def _measure_available(
        self,
        measurer: Measurer,
        measurement: Measurement,
        pool: Pool,
        steps: Mapping[int, Step],
        is_late: Callable[[], bool],
    ) -> tuple[Pool, Measured]:
        """The pool measured: the whole pool, or the pages that some bucket has."""
        try:
            return pool, measurement.finish(pool, steps, is_late)
        except StoreError:
            kept = measurer.leave_out_missing(pool)
            return kept, measurement.finish(kept, steps, is_late)

    def _steps(
        self, window: int, state: OuterState, payloads: Mapping[int, Payload]
    ) -> dict[int, Step]:
        spec = self._context.run.at(window)
        references = scored_references(state, [p.norms for p in payloads.values()], spec.outer)
        return {uid: scored_step(p, references, state, spec) for uid, p in payloads.items()}

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
            {v.hotkey: payloads[v.uid].header.base_window for v in verdicts if v.uid in payloads},
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


def _tell_unheard(
    window: int, frames: Mapping[int, bytes | SubnetError], *, began_late: bool
) -> None:
    """One line about payloads that this validator had no time for."""
    unheard = [uid for uid, frame in sorted(frames.items()) if isinstance(frame, AskedTooLate)]
    if not unheard:
        return
    why = (
        "began to fetch too late in the window, as after a restart"
        if began_late
        else "has a line too slow for all of the payloads in the time to fetch them"
    )
    log.warning(
        "window %d: this validator %s: payloads of uids %s are not scored, and no miner is at "
        "fault",
        window,
        why,
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
        width=payload.header.width,
        part=payload.header.blocks.part,
        parts=payload.header.blocks.parts,
        model_share=payload.share,
        alike=admission.alike,
    )
