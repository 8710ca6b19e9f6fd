"""What each page shows, as plain values: computed from the view, drawn by the templates. Pure."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations

from evaluation.verdict import BLAMELESS, MEASURED, Verdict
from template.errors import PayloadError
from template.protocol.payload import PayloadFormat
from template.protocol.ranges import BlockRange
from template.public.causes import cause_of
from template.public.facts import Judgement, Loss, NeuronFacts, WindowFacts
from template.public.miner_causes import window_cause
from template.public.view import RunView, WindowView


@dataclass(frozen=True, kw_only=True, slots=True)
class PayloadRow:
    """A payload in a window; None where no log says a figure. `num_bytes`: of the frame."""

    uid: int
    hotkey: str
    digest: str
    cause: str
    words: str
    detail: str
    is_accepted: bool
    pages: int | None
    num_bytes: int | None
    gain: float | None
    gain_error: float | None
    work_effect: float | None
    credit: float | None
    share: float | None
    stake_naming: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class VoteRow:
    """A validator in a window; `num_named` None without a vote."""

    uid: int | None
    hotkey: str
    stake_share: float
    has_voted: bool
    agrees: bool
    same_tensors: bool
    named: tuple[int, ...]
    missing: tuple[int, ...]
    root: str
    log: str
    log_detail: str
    log_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowModel:
    """A window's page. `agreement`: share of the voting stake on the majority's root;
    `named_alike`: mean share of payloads that two voters name alike; None without two voters.
    """

    window: int
    no_op: str
    source: str
    chain_fault: str
    payloads: tuple[PayloadRow, ...]
    votes: tuple[VoteRow, ...]
    agreement: float | None
    named_alike: float | None
    loss: Loss | None
    tokens: int
    payload_bytes: int
    refused: Mapping[str, int] = field(default_factory=dict)

    @property
    def num_accepted(self) -> int:
        return sum(row.is_accepted for row in self.payloads)

    @property
    def num_refused(self) -> int:
        return sum(self.refused.values())

    @property
    def num_others(self) -> int:
        """Neither accepted nor refused: nobody's fault, or no reason known yet."""
        return len(self.payloads) - self.num_accepted - self.num_refused

    @property
    def num_logs(self) -> int:
        return sum(row.log in ("read", "unproven") for row in self.votes)


@dataclass(frozen=True, kw_only=True, slots=True)
class HotkeyRow:
    """A hotkey in the list of all, over the windows shown. `share`: by the newest log."""

    uid: int
    hotkey: str
    role: str
    is_owner: bool
    num_sent: int
    num_accepted: int
    num_refused: int
    last_cause: str
    refusals: Mapping[str, int]
    share: float | None
    incentive: float
    emission_tao: float | None
    stake_tao: float
    num_votes: int
    num_agreeing: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RunModel:
    """The first page: all windows, newest last, and all hotkeys."""

    windows: tuple[WindowModel, ...]
    hotkeys: tuple[HotkeyRow, ...]
    refused: Mapping[str, int]


def run_model(view: RunView, form_at: Callable[[int], PayloadFormat]) -> RunModel:
    windows = tuple(window_model(view, w, form_at(w)) for w in sorted(view.facts.windows))
    refused: Counter[str] = Counter()
    for window in windows:
        refused.update(window.refused)
    return RunModel(
        windows=windows, hotkeys=_hotkeys(view, windows), refused=dict(refused.most_common())
    )


def window_model(view: RunView, window: int, form: PayloadFormat) -> WindowModel:
    of_window = view.window(window)
    facts = of_window.facts
    payloads = tuple(_payload(of_window, uid, form) for uid in sorted(_committed_uids(of_window)))
    refused = Counter(
        row.cause
        for row in payloads
        if cause_of(row.cause).kind == "refused" and not row.is_accepted
    )
    page_tokens = view.facts.run.first.data.page_tokens
    voting = sum(vote.stake_rao for vote in facts.votes)
    agreeing = sum(vote.stake_rao for vote in facts.votes if vote.agrees)
    return WindowModel(
        window=window,
        no_op="" if facts.outcome is None else facts.outcome.no_op,
        source="" if facts.outcome is None else facts.outcome.source,
        chain_fault=facts.chain_fault,
        payloads=payloads,
        votes=_votes(of_window),
        agreement=agreeing / voting if voting else None,
        named_alike=_named_alike(facts),
        loss=_loss(of_window),
        tokens=sum((row.pages or 0) * page_tokens for row in payloads if row.is_accepted),
        payload_bytes=sum(row.num_bytes or 0 for row in payloads),
        refused=dict(sorted(refused.items())),
    )


def _committed_uids(view: WindowView) -> set[int]:
    """By the chain; by the logs where the chain forgot."""
    if view.facts.committed or view.facts.votes:
        return set(view.facts.committed)
    return {uid for judgement in view.judgements.values() for uid in judgement.verdicts}


def _payload(view: WindowView, uid: int, form: PayloadFormat) -> PayloadRow:
    facts, verdict = view.facts, view.speaker(uid)
    member = facts.committed.get(uid)
    hotkey = member.hotkey if member is not None else verdict.hotkey if verdict else ""
    digest = member.digest.hex() if member is not None else verdict.digest if verdict else ""
    cause = window_cause(view, hotkey)
    reference = view.reference
    judgement = None if reference is None else view.judgements[reference]
    page = None if reference is None else view.run.book(reference).pages.get(view.window)
    paid_uid = None if judgement is None else view.run.paid_uid(judgement, hotkey)
    account = None if page is None or paid_uid is None else page.accounts.get(paid_uid)
    voting = sum(vote.stake_rao for vote in facts.votes)
    return PayloadRow(
        uid=uid,
        hotkey=hotkey,
        digest=digest,
        cause=cause,
        words=cause_of(cause).words,
        detail="" if verdict is None else verdict.detail,
        is_accepted=facts.outcome is not None and uid in facts.outcome.accepted,
        pages=None if verdict is None else verdict.pages_consumed,
        num_bytes=None if verdict is None else _num_bytes(verdict, form),
        gain=None if verdict is None else verdict.gain,
        gain_error=None if verdict is None else verdict.gain_standard_error,
        work_effect=None if verdict is None else verdict.work_effect,
        credit=None if account is None else account.work,
        share=None if judgement is None else view.run.share_of(judgement, hotkey),
        stake_naming=view.stake_naming(uid) / voting if voting else None,
    )


def _num_bytes(verdict: Verdict, form: PayloadFormat) -> int | None:
    """The length of an opened payload: it follows from the part of the model that it trains."""
    if verdict.status not in MEASURED or verdict.status in BLAMELESS:
        return None
    try:
        part = BlockRange(part=verdict.part, parts=verdict.parts)
        return form.part(part).num_bytes
    except (PayloadError, ValueError):
        return None  # a log of another cut of the model, which an audit names


def _votes(view: WindowView) -> tuple[VoteRow, ...]:
    rows = []
    for row in view.rows(None):
        vote, read = view.facts.vote_of(row.hotkey), view.facts.logs.get(row.hotkey)
        rows.append(
            VoteRow(
                uid=row.uid,
                hotkey=row.hotkey,
                stake_share=row.stake_share,
                has_voted=vote is not None,
                agrees=vote is not None and vote.agrees,
                same_tensors=vote is not None and vote.same_tensors,
                named=() if vote is None else tuple(sorted(vote.named)),
                missing=() if vote is None else tuple(sorted(vote.missing)),
                root="" if vote is None else vote.root,
                log=row.log,
                log_detail=row.log_detail,
                log_bytes=0 if read is None else read.num_bytes,
            )
        )
    return tuple(rows)


def _named_alike(facts: WindowFacts) -> float | None:
    """Mean over pairs of agreeing voters: payloads named by both, of those named by either."""
    named = [vote.named for vote in facts.votes if vote.agrees]
    shares = [len(a & b) / len(a | b) for a, b in combinations(named, 2) if a | b]
    return sum(shares) / len(shares) if shares else None


def _loss(view: WindowView) -> Loss | None:
    """As the validator with most stake measured it: all measure the same pages."""
    found = (judgement.held_out for judgement in view.judgements.values())
    return next((loss for loss in found if loss is not None), None)


def _hotkeys(view: RunView, windows: tuple[WindowModel, ...]) -> tuple[HotkeyRow, ...]:
    subnet = view.facts.subnet
    by_hotkey: dict[str, list[PayloadRow]] = {}
    for window in windows:
        for row in window.payloads:
            by_hotkey.setdefault(row.hotkey, []).append(row)
    newest = _newest_judgement(view)
    rows = [
        _hotkey(view, neuron, by_hotkey.get(hotkey, []), windows, newest)
        for hotkey, neuron in subnet.neurons.items()
    ]
    return tuple(sorted(rows, key=lambda row: row.uid))


def _newest_judgement(view: RunView) -> Judgement | None:
    """The figure of the newest log that counts; None without a log."""
    for window in sorted(view.facts.windows, reverse=True):
        of_window = view.window(window)
        if of_window.reference is not None:
            return of_window.judgements[of_window.reference]
    return None


def _hotkey(
    view: RunView,
    neuron: NeuronFacts,
    sent: list[PayloadRow],
    windows: tuple[WindowModel, ...],
    newest: Judgement | None,
) -> HotkeyRow:
    subnet = view.facts.subnet
    votes = [row for w in windows for row in w.votes if row.hotkey == neuron.hotkey]
    has_voted = [row for row in votes if row.has_voted]
    refusals = Counter(
        row.cause for row in sent if not row.is_accepted and cause_of(row.cause).kind == "refused"
    )
    is_validator = neuron.hotkey in view.validators and not sent
    role = "validator" if is_validator else "miner" if sent else "idle"
    price = subnet.price_tao
    return HotkeyRow(
        uid=neuron.uid,
        hotkey=neuron.hotkey,
        role="owner" if neuron.uid == subnet.owner_uid and role == "idle" else role,
        is_owner=neuron.uid == subnet.owner_uid,
        num_sent=len(sent),
        num_accepted=sum(row.is_accepted for row in sent),
        num_refused=sum(refusals.values()),
        last_cause=sent[-1].cause if sent else "",
        refusals=dict(refusals.most_common()),
        share=None if newest is None else view.share_of(newest, neuron.hotkey),
        incentive=neuron.incentive,
        emission_tao=None if price is None else neuron.emission_rao / 1e9 * price,
        stake_tao=neuron.stake_rao / 1e9,
        num_votes=len(has_voted),
        num_agreeing=sum(row.agrees for row in has_voted),
    )
