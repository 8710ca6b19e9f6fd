"""Scoring one window: from committed digests to verdicts.

Every payload is fetched, checked and measured apart from all others; what is wrong with
one is its verdict. All are measured on one pool of pages, with one forward pass each: held-out
ones, and a sample of what every miner says it trained on. Both are drawn by a block hash that
nobody knew before the payloads were fixed.
"""

import logging
import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from evaluation.history import Histories, work_states
from evaluation.judge import Measured, judge
from evaluation.overlap import Earlier, Places, find_repeats, kept_positions, mark_applied
from evaluation.verdict import NOT_DRAWN, NOT_SCORED, UNAVAILABLE, Verdict
from evaluation.work import HELD_OUT
from template.context import ReadContext
from template.data.assignment import (
    assigned_pages,
    assignment_seed,
    claimed_pages,
    held_out_pages,
)
from template.data.pages import PageReader
from template.errors import (
    ConfigError,
    Denied,
    NotFound,
    PayloadError,
    RecordError,
    SubnetError,
    TooLarge,
)
from template.peers.client import Peers
from template.protocol.admission import open_payload
from template.protocol.draw import drawn_order
from template.protocol.hashing import labelled_hash, uint_bytes
from template.protocol.payload import Payload, PayloadFormat, PayloadHeader, body_digest
from template.protocol.root import Member
from template.scoring.rules import admits_claim, claims_of_each, judge_rules
from template.training.energy import Norms
from template.training.outer import (
    OuterState,
    scored_coefficients,
    scored_references,
)
from template.training.scorer import Scorer

log = logging.getLogger(__name__)

_FETCH_REASONS: Mapping[type[SubnetError], str] = {
    NotFound: "not_delivered",
    TooLarge: "too_large",
    Denied: "access_denied",
    RecordError: "no_access",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """The sequences of a window: page ids int64 [S], and the uid that claims each or HELD_OUT."""

    ids_S: np.ndarray
    owners_S: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """A window's verdicts in uid order, what they rest on, and the frames of those named.

    `seed`: hash of the block that drew the pool.
    """

    seed: bytes
    verdicts: tuple[Verdict, ...]
    pool: Pool
    measured: Measured
    frames: Mapping[bytes, bytes]

    @property
    def named_uids(self) -> frozenset[int]:
        return frozenset(v.uid for v in self.verdicts if v.named)


def places_of(payload: Payload, form: PayloadFormat) -> Places:
    """Where its kept values lie among all elements of the model, tensor after tensor."""
    sizes = [math.prod(form.shapes[name]) for name in form.names]
    starts = dict(zip(form.names, accumulate(sizes, initial=0), strict=False))
    places = ((starts[n], t.indices.numpy()) for n, t in payload.tensors.items())
    return kept_positions(places, sum(sizes))


class WindowScorer:
    """Fetches, checks and measures. Holds the evaluation model and the bodies seen lately."""

    def __init__(self, context: ReadContext, peers: Peers, pages: PageReader) -> None:
        self._context = context
        self._peers = peers
        self._pages = pages
        self._scorer = Scorer(context.spec, context.device)
        self._bodies: dict[bytes, tuple[int, str]] = {}
        self._earlier: list[Earlier] = []
        self.curve = _strided(pages.held_out(), context.spec.evaluation.curve_pages)

    def score(
        self,
        window: int,
        state: OuterState,
        candidates: Sequence[Member],
        histories: Histories,
        late: Callable[[float], bool],
    ) -> Scored:
        """Verdicts on all candidates; of more than `max_payloads` a sample is fetched, checked and
        measured, and in the order of its draw until the budget is spent.

        `late(share)` is true once that share of it is; half of it may go into fetching.
        """
        self._peers.refresh()
        candidates, left_out = self.drawn(window, candidates)
        fetched = self._peers.fetch_payloads(candidates, window, lambda: late(0.5))
        opened: dict[int, Payload | SubnetError] = {
            m.uid: self._checked(m, window, fetched[m.uid]) for m in candidates
        }
        opened |= self._repeats(candidates, opened)
        payloads = {uid: p for uid, p in opened.items() if isinstance(p, Payload)}
        headers = {m: payloads[m.uid].header for m in candidates if m.uid in payloads}
        pool = self._pool(window, headers)
        measured = self._measure(state, pool, payloads, lambda: late(1.0))
        blanks = [_blank(window, m, opened[m.uid], m.uid in measured.after_S) for m in candidates]
        blanks += [_not_drawn(window, member) for member in left_out]
        self._forget(window)
        rules = judge_rules(self._context.spec.evaluation)
        verdicts = judge(blanks, measured, work_states(histories, rules.work), rules)
        self._remember_places(window, verdicts, payloads)
        frames = {v.digest: fetched[v.uid] for v in verdicts if v.named}
        held = {bytes.fromhex(d): f for d, f in frames.items() if isinstance(f, bytes)}
        return Scored(
            seed=self._seed(window), verdicts=verdicts, pool=pool, measured=measured, frames=held
        )

    def drawn(self, window: int, candidates: Sequence[Member]) -> tuple[list[Member], list[Member]]:
        """Those to be scored, in the order of the draw, and the others."""
        block_hash = self._context.chain.block_hash(self._context.schedule.stake_block(window))
        members = {member.hotkey: member for member in candidates}
        ordered = [members[hotkey] for hotkey in drawn_order(block_hash, window, members)]
        most = self._context.spec.evaluation.max_payloads
        return ordered[:most], ordered[most:]

    def held_out_loss(self, state: OuterState) -> float:
        """Mean loss on the fixed sample that draws the loss curve, nats per token."""
        self._scorer.load(state.params)
        return float(self._scorer.losses(self.curve).mean())

    def _checked(
        self, member: Member, window: int, found: bytes | SubnetError
    ) -> Payload | SubnetError:
        if isinstance(found, SubnetError):
            return found
        try:
            return self._open(found, member, window)
        except PayloadError as error:
            return error

    def _repeats(
        self, candidates: Sequence[Member], opened: Mapping[int, Payload | SubnetError]
    ) -> dict[int, PayloadError]:
        """Refusals of payloads that say what another one says, or one of the windows before."""
        places = {uid: self._places(p) for uid, p in opened.items() if isinstance(p, Payload)}
        authors = {member.uid: member.hotkey for member in candidates}
        limit = self._context.spec.evaluation.max_overlap
        found = find_repeats(places, authors, self._earlier, limit)
        return {uid: PayloadError("overlap", what) for uid, what in found.items()}

    def _places(self, payload: Payload) -> Places:
        return places_of(payload, self._context.form)

    def _remember_places(
        self, window: int, verdicts: Sequence[Verdict], payloads: Mapping[int, Payload]
    ) -> None:
        """For as long as a payload may be stale."""
        oldest = window - self._context.spec.outer.max_staleness - 2
        self._earlier = [e for e in self._earlier if oldest <= e.window < window]
        for verdict in verdicts:
            if verdict.uid in payloads:
                places = self._places(payloads[verdict.uid])
                earlier = Earlier(
                    window=window, author=verdict.hotkey, places=places, applied=False
                )
                self._earlier.append(earlier)

    def decided(self, window: int, accepted: Container[str]) -> None:
        """Whose payloads of a window were applied: others' are in their error feedback again, and
        may come back.
        """
        self._earlier = mark_applied(self._earlier, window, accepted)

    def _pool(self, window: int, headers: Mapping[Member, PayloadHeader]) -> Pool:
        """Held-out pages first, then each payload's claims in the order given."""
        held = self._held_out_ids(window)
        count = claims_of_each(self._context.spec.evaluation, len(headers))
        ids, owners = [held], [np.full(held.size, HELD_OUT, dtype=np.int64)]
        for member, header in headers.items():
            claimed = self._claimed_ids(window, member, header, count)
            ids.append(claimed)
            owners.append(np.full(claimed.size, member.uid, dtype=np.int64))
        return Pool(ids_S=np.concatenate(ids), owners_S=np.concatenate(owners))

    def _measure(
        self,
        state: OuterState,
        pool: Pool,
        payloads: Mapping[int, Payload],
        late: Callable[[], bool],
    ) -> Measured:
        pages = self._pages.pages(pool.ids_S)
        self._scorer.load(state.params)
        before_S, after_S = self._scorer.losses(pages), {}
        spec = self._context.spec
        norms = [payload.norms for payload in payloads.values()]
        references = scored_references(state, norms, spec.outer)
        for uid, payload in payloads.items():
            if late():
                break
            with self._scorer.stepped(payload.tensors, self._factors(payload, references)):
                after_S[uid] = self._scorer.losses(pages)
        return Measured(owners_S=pool.owners_S, before_S=before_S, after_S=after_S)

    def _open(self, frame: bytes, member: Member, window: int) -> Payload:
        spec = self._context.spec
        payload = open_payload(frame, member, window, self._context.form, spec.outer.max_staleness)
        consumed, least = payload.header.pages_consumed, spec.evaluation.claimed_pages
        if not admits_claim(spec, consumed):
            raise PayloadError(
                "pages",
                f"claims {consumed} pages; the work test needs {least}, and "
                f"{spec.training.pages_per_window} are assigned",
            )
        body = body_digest(frame)
        seen = self._bodies.get(body)
        if seen is not None and seen != (window, member.hotkey):
            raise PayloadError("duplicate", f"says what {seen[1]} said in window {seen[0]}")
        self._bodies[body] = (window, member.hotkey)
        return payload

    def _factors(self, payload: Payload, references: Norms) -> Mapping[str, float]:
        outer, share = self._context.spec.outer, self._context.spec.evaluation.step_share
        staleness = payload.header.staleness
        return scored_coefficients(staleness, payload.norms, references, outer, share)

    def _claimed_ids(
        self, window: int, member: Member, header: PayloadHeader, count: int
    ) -> np.ndarray:
        """A sample of the pages that the payload says it was made from."""
        listed = self._assigned(member.hotkey, header.base_window, self._pages.num_pages)
        seed = labelled_hash(
            "claimed", self._seed(window), member.hotkey.encode("ascii"), uint_bytes(window)
        )
        consumed = listed[: header.pages_consumed]
        return claimed_pages(seed, consumed, count)

    def _seed(self, window: int) -> bytes:
        return self._context.chain.block_hash(self._context.schedule.held_out_block(window))

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
        seed = labelled_hash("held-out", self._seed(window), uint_bytes(window))
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


def _strided(pages: np.ndarray, count: int) -> np.ndarray:
    """`count` pages spread evenly over all of them: the first ones would be one play's."""
    if count > len(pages):
        raise ConfigError(
            f"run spec: evaluation.curve_pages is {count}, the dataset holds out {len(pages)}"
        )
    return pages[np.arange(count) * len(pages) // count]


def _not_drawn(window: int, member: Member) -> Verdict:
    return Verdict(
        window=window,
        uid=member.uid,
        hotkey=member.hotkey,
        digest=member.digest.hex(),
        status=NOT_DRAWN,
        detail="outside this window's sample",
    )


def _blank(window: int, member: Member, opened: Payload | SubnetError, measured: bool) -> Verdict:
    """The verdict before its figures: who it is about and, if it was not measured, why."""
    verdict = Verdict(
        window=window,
        uid=member.uid,
        hotkey=member.hotkey,
        digest=member.digest.hex(),
        status=NOT_SCORED,
        detail="" if measured else "the scoring budget was spent",
    )
    if isinstance(opened, PayloadError):
        return replace(verdict, status=opened.reason, detail=str(opened))
    if isinstance(opened, SubnetError):
        reason = _FETCH_REASONS.get(type(opened), UNAVAILABLE)
        return replace(verdict, status=reason, detail=str(opened))
    return replace(
        verdict,
        pages_consumed=opened.header.pages_consumed,
        base_window=opened.header.base_window,
    )
