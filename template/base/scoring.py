"""Scoring one window: from committed digests to verdicts.

Every payload is fetched, checked and measured apart from all others; what is wrong with
one is its verdict. All are measured on one pool of held-out pages, drawn by a block hash
that nobody knew before the payloads were fixed.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluation.gain import Gain, gain_scale, paired_gain, relative_gains
from evaluation.verdict import NAMED, Verdict
from template.base.context import NodeContext
from template.base.peers import Peers
from template.data.assignment import assigned_pages, assignment_seed, held_out_pages
from template.data.pages import PageReader
from template.errors import (
    ConfigError,
    Denied,
    NotFound,
    PayloadError,
    SubnetError,
    TooLarge,
)
from template.protocol.admission import open_payload
from template.protocol.hashing import labelled_hash, uint_bytes
from template.protocol.payload import Payload, body_digest
from template.protocol.root import Member
from template.protocol.spec import EvaluationSpec
from template.training.outer import OuterState, clip_references, coefficients
from template.training.scorer import Scorer

log = logging.getLogger(__name__)

SCORED = "scored"
"""Between measuring a payload and deciding whether to name it."""

NOT_SCORED = "not_scored"
UNAVAILABLE = "unavailable"
BLAMELESS = (NOT_SCORED, UNAVAILABLE)
"""Verdicts that may be this validator's fault: the window is left out of the miner's record."""

_FETCH_REASONS: Mapping[type[SubnetError], str] = {
    NotFound: "not_delivered",
    TooLarge: "length",
    Denied: "access_denied",
    ConfigError: "no_access",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """A window's verdicts in uid order, and the frames of the payloads that are named."""

    verdicts: tuple[Verdict, ...]
    frames: Mapping[bytes, bytes]

    @property
    def named_uids(self) -> frozenset[int]:
        return frozenset(v.uid for v in self.verdicts if v.named)


class WindowScorer:
    """Fetches, checks and measures. Holds the evaluation model and the bodies seen lately."""

    def __init__(self, context: NodeContext, peers: Peers, pages: PageReader) -> None:
        self._context = context
        self._peers = peers
        self._pages = pages
        self._scorer = Scorer(context.spec, context.device)
        self._bodies: dict[bytes, tuple[int, str]] = {}
        self.curve = _strided(pages.held_out(), context.spec.evaluation.curve_pages)

    def score(
        self,
        window: int,
        state: OuterState,
        candidates: Sequence[Member],
        late: Callable[[float], bool],
    ) -> Scored:
        """Verdicts on all candidates, scored in the order given until the budget is spent.

        `late(share)` is true once that share of it is; half of it may go into fetching.
        """
        self._peers.refresh()
        fetched = self._peers.fetch_payloads(candidates, window, lambda: late(0.5))
        self._scorer.load(state.params)
        pool = self._pages.pages(self._held_out_ids(window))
        before = self._scorer.losses(pool)
        verdicts: list[Verdict] = []
        frames: dict[str, bytes] = {}
        for member in candidates:
            found = fetched[member.uid]
            if late(1.0):
                verdicts.append(_blank(window, member))
                continue
            verdict = self._judge(window, state, member, found, (pool, before))
            verdicts.append(verdict)
            if verdict.status == SCORED and isinstance(found, bytes):
                frames[verdict.digest] = found
        self._forget(window)
        final = name_useful(_with_relative_gains(verdicts), self._context.spec.evaluation)
        held = {bytes.fromhex(v.digest): frames[v.digest] for v in final if v.named}
        return Scored(verdicts=final, frames=held)

    def held_out_loss(self, state: OuterState) -> float:
        """Mean loss on the fixed sample that draws the loss curve, nats per token."""
        self._scorer.load(state.params)
        return float(self._scorer.losses(self.curve).mean())

    def _judge(
        self,
        window: int,
        state: OuterState,
        member: Member,
        found: bytes | SubnetError,
        measured: tuple[np.ndarray, np.ndarray],
    ) -> Verdict:
        blank = _blank(window, member)
        if isinstance(found, SubnetError):
            reason = _FETCH_REASONS.get(type(found), UNAVAILABLE)
            return replace(blank, status=reason, detail=str(found))
        try:
            payload = self._open(found, member, window)
        except PayloadError as error:
            return replace(blank, status=error.reason, detail=str(error))
        gain = self._gain(payload, state, *measured)
        return replace(
            blank,
            status=SCORED,
            detail="",
            gain=gain.mean,
            gain_standard_error=gain.standard_error,
            pages_consumed=payload.header.pages_consumed,
            base_window=payload.header.base_window,
        )

    def _open(self, frame: bytes, member: Member, window: int) -> Payload:
        spec = self._context.spec
        payload = open_payload(frame, member, window, self._context.form, spec.outer.max_staleness)
        if payload.header.pages_consumed > spec.training.pages_per_window:
            raise PayloadError("pages", f"claims {payload.header.pages_consumed} pages")
        body = body_digest(frame)
        seen = self._bodies.get(body)
        if seen is not None and seen != (window, member.hotkey):
            raise PayloadError("duplicate", f"says what {seen[1]} said in window {seen[0]}")
        self._bodies[body] = (window, member.hotkey)
        return payload

    def _gain(
        self, payload: Payload, state: OuterState, pool: np.ndarray, before: np.ndarray
    ) -> Gain:
        spec = self._context.spec
        factors = coefficients(
            payload.header.staleness,
            payload.norms,
            clip_references(state, spec.outer),
            spec.outer,
            divisor=1.0 / spec.evaluation.step_share,
        )
        with self._scorer.stepped(payload.tensors, factors):
            after = self._scorer.losses(pool)
        return paired_gain(before, after)

    def _held_out_ids(self, window: int) -> np.ndarray:
        """Pages assigned to no registered hotkey in the last windows, drawn by a late block."""
        context, evaluation = self._context, self._context.spec.evaluation
        schedule, num_pages = context.schedule, self._pages.num_pages
        block = schedule.held_out_block(window)
        hotkeys = [n.hotkey for n in context.chain.metagraph(block).neurons]
        assigned = [
            self._assigned(hotkey, past, num_pages)
            for past in range(max(0, window + 1 - evaluation.assignment_windows), window + 1)
            for hotkey in hotkeys
        ]
        seed = labelled_hash("held-out", context.chain.block_hash(block), uint_bytes(window))
        excluded = np.concatenate(assigned) if assigned else np.empty(0, dtype=np.int64)
        return held_out_pages(seed, evaluation.held_out_pages, num_pages, excluded)

    def _assigned(self, hotkey: str, window: int, num_pages: int) -> np.ndarray:
        context = self._context
        block_hash = context.chain.block_hash(context.schedule.assignment_block(window))
        seed = assignment_seed(block_hash, hotkey, window)
        return assigned_pages(seed, context.spec.training.pages_per_window, num_pages)

    def _forget(self, window: int) -> None:
        """A body may come back after max_staleness + 2 windows: it is stale by then."""
        oldest = window - self._context.spec.outer.max_staleness - 2
        self._bodies = {b: seen for b, seen in self._bodies.items() if seen[0] >= oldest}


def name_useful(verdicts: Sequence[Verdict], evaluation: EvaluationSpec) -> tuple[Verdict, ...]:
    """Turn `scored` into `named` or `no_gain`.

    Named is a payload whose gain, less its standard errors over sequences, exceeds
    `min_relative_gain` of the window's scale: a random direction gains a few percent of it
    by luck, on every sequence alike.
    """
    scale = gain_scale(v.gain for v in verdicts if v.status == SCORED and v.gain is not None)
    floor = evaluation.min_relative_gain * scale
    named = []
    for verdict in verdicts:
        if verdict.status != SCORED:
            named.append(verdict)
            continue
        error = verdict.gain_standard_error or 0.0
        useful = (verdict.gain or 0.0) - evaluation.naming_z * error > floor
        named.append(replace(verdict, status=NAMED if useful else "no_gain"))
    return tuple(named)


def _strided(pages: np.ndarray, count: int) -> np.ndarray:
    """`count` pages spread evenly over all of them: the first ones would be one play's."""
    if count > len(pages):
        raise ConfigError(
            f"run spec: evaluation.curve_pages is {count}, the dataset holds out {len(pages)}"
        )
    return pages[np.arange(count) * len(pages) // count]


def _blank(window: int, member: Member) -> Verdict:
    return Verdict(
        window=window,
        uid=member.uid,
        hotkey=member.hotkey,
        digest=member.digest.hex(),
        status=NOT_SCORED,
        detail="the scoring budget was spent",
    )


def _with_relative_gains(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """Relative gains for all that were judged; what may be our own fault is not blamed."""
    judged = {v.uid: v.gain for v in verdicts if v.status not in BLAMELESS}
    relative = relative_gains(judged)
    ordered = sorted(verdicts, key=lambda verdict: verdict.uid)
    return tuple(replace(v, relative_gain=relative.get(v.uid)) for v in ordered)
