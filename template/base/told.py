"""What a miner tells of each decided window, in one line: work, upload, outcome and pay.

The votes tell the outcome at once; the reason of a refusal and the share of the pay stand in
validators' verdict logs, which come later. A line waits for the first of them, `PATIENCE_WINDOWS`
at most, in a thread of its own: other buckets may be slow. Under duels logs are kept back for up to
two pay periods: the outcome is told at once then, and what the logs say in a second line.
"""

import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from evaluation.verdict import NOT_DRAWN, NOT_SCORED, Verdict
from evaluation.verdict_log import LogError, WindowLog, decode_log
from template.base.log_publisher import public_from
from template.base.pending import PendingPayloads
from template.chain.ballots import read_ballot
from template.context import NodeContext
from template.errors import ChainError, SubnetError
from template.peers.client import Peers
from template.protocol.keys import verdict_key
from template.protocol.quorum import Ballot, Decision
from template.protocol.record import log_digest
from template.scoring.rules import verdict_log_limit_bytes

log = logging.getLogger(__name__)

MAX_LOGS: Final = 3
"""Validators asked for their log of a window, those with most stake first."""
PATIENCE_WINDOWS: Final = 8
MOST_WAITING: Final = 16
"""Windows whose line waits; of more the oldest is told without a reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sent:
    """An own payload of a decided window. `ballot`: None where the chain endpoint forgot it."""

    window: int
    digest: bytes
    num_bytes: int
    is_uploaded: bool
    made: Mapping[str, float | int | str]
    is_accepted: bool
    no_op: str
    ballot: Ballot | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Heard:
    """What verdict logs say of a payload; `share`: the mean over logs by stake."""

    verdict: Verdict
    share: float
    num_logs: int


class Teller:
    """Remembers what was made and decided, and tells it once a reason is there."""

    def __init__(self, context: NodeContext, peers: Peers) -> None:
        self._context, self._peers = context, peers
        self._made: dict[int, Mapping[str, float | int | str]] = {}
        self._waiting: deque[_Sent] = deque()
        self._untold: deque[_Sent] = deque()
        # The chain forgets votes before late verdict logs come.
        self._ballots: dict[int, Ballot] = {}
        self._asked_window = -1

    def note_made(self, window: int, metrics: Mapping[str, float | int | str]) -> None:
        """Figures of the training behind the payload of a window."""
        self._made[window] = metrics
        for old in sorted(self._made)[:-MOST_WAITING]:
            del self._made[old]

    def note_decision(self, decision: Decision, pending: PendingPayloads) -> None:
        """A decided window, before its own payload, if there is one, is settled."""
        payload = next((each for each in pending if each.window == decision.window), None)
        if payload is None or decision.is_jump:
            return
        sent = _Sent(
            window=decision.window,
            digest=payload.digest,
            num_bytes=len(payload.frame),
            is_uploaded=pending.is_revealed(payload),
            made=self._made.get(decision.window, {}),
            is_accepted=any(m.digest == payload.digest for m in decision.members),
            no_op=decision.no_op,
        )
        self._context.metrics.log(sent.window, {"own_accepted": int(sent.is_accepted)})
        if self._public(sent.window) > sent.window:
            self._untold.append(sent)
        self._waiting.append(sent)

    def _public(self, window: int) -> int:
        return public_from(self._context.run, window)

    def tell_due(self) -> bool:
        """Tell the oldest window that can be told; whether there was one."""
        if self._tell_outcome():
            return True
        if not self._waiting:
            return False
        context = self._context
        now = context.schedule.window_of(context.waiter.recent_head())
        sent = self._waiting[0]
        is_last = (
            now > self._public(sent.window) + PATIENCE_WINDOWS or len(self._waiting) > MOST_WAITING
        )
        if now == self._asked_window and not is_last:
            return False
        sent = self._with_ballot(sent)
        heard = self._hear(sent)
        if heard is None and not is_last:
            self._asked_window = now
            return False
        if _popped(self._waiting) is not None:
            self._tell_heard(sent, heard)
        return True

    def tell_all_due(self) -> None:
        """Tell every window that can be told."""
        while self.tell_due():
            pass

    def tell_rest(self) -> None:
        """At the run's end: every window that still waits, with what is known."""
        while self._tell_outcome():
            pass
        while (sent := _popped(self._waiting)) is not None:
            sent = self._with_ballot(sent)
            self._tell_heard(sent, self._hear(sent))

    def _tell_outcome(self) -> bool:
        """What the votes say of a window whose logs come late; False if there is none."""
        sent = _popped(self._untold)
        if sent is not None:
            self._tell(self._with_ballot(sent), None)
        return sent is not None

    def _with_ballot(self, sent: _Sent) -> _Sent:
        if sent.window not in self._ballots:
            try:
                ballot = read_ballot(self._context.chain, self._context.run, sent.window)
            except ChainError as error:
                log.debug("window %d: its votes are not there any more: %s", sent.window, error)
                return sent
            self._ballots[sent.window] = ballot
            for old in sorted(self._ballots)[:-MOST_WAITING]:
                del self._ballots[old]
        return replace(sent, ballot=self._ballots[sent.window])

    def _hear(self, sent: _Sent) -> _Heard | None:
        """The statements in the logs of the voters with most stake; None if no log can be read."""
        if sent.ballot is None:
            return None
        try:
            self._peers.refresh()
        except ChainError as error:
            log.debug("window %d: no access records: %s", sent.window, error)
            return None
        voters = sorted(sent.ballot.voters, key=lambda v: (-v.stake_rao, v.uid))
        found: list[tuple[int, Verdict, float]] = []
        for voter in voters[:MAX_LOGS]:
            read = self._read_log(voter.hotkey, sent.window, voter.vote.log_digest)
            for verdict in () if read is None else read.verdicts:
                if read is not None and verdict.digest == sent.digest.hex():
                    share = read.shares.get(verdict.uid, 0.0)
                    found.append((voter.stake_rao, verdict, share))
        if not found:
            return None
        total = sum(stake for stake, _, _ in found)
        stakes: dict[str, int] = {}
        for stake, verdict, _ in found:
            # A validator that could not tell has no say where another one could.
            counts = verdict.status not in (NOT_SCORED, NOT_DRAWN)
            stakes[verdict.status] = stakes.get(verdict.status, 0) + (stake if counts else 0)
        status = max(stakes, key=lambda each: (stakes[each], each))
        return _Heard(
            verdict=next(verdict for _, verdict, _ in found if verdict.status == status),
            share=sum(stake * share for stake, _, share in found) / total if total else 0.0,
            num_logs=len(found),
        )

    def _read_log(self, validator: str, window: int, digest: bytes) -> WindowLog | None:
        """A log with the digest of the vote; None if there is none, or not yet."""
        spec = self._context.run.at(window)
        key, limit_bytes = verdict_key(spec.run_id, window), verdict_log_limit_bytes(spec)
        try:
            data = self._peers.bucket(validator).get(key, max_bytes=limit_bytes)
            return decode_log(data.decode()) if log_digest(data) == digest else None
        except (SubnetError, LogError, UnicodeDecodeError) as error:
            log.debug("window %d: no verdict log of %s: %s", window, validator, error)
            return None

    def _tell(self, sent: _Sent, heard: _Heard | None) -> None:
        told = "; ".join(part for part in (_work(sent), _outcome(sent, heard), _pay(heard)) if part)
        if heard is None and (public := self._public(sent.window)) > sent.window:
            told += f"; the verdict logs come after the votes on window {public}"
        log.info("window %d: %s", sent.window, told)

    def _tell_heard(self, sent: _Sent, heard: _Heard | None) -> None:
        """With what the logs say; where the outcome was told before, that alone."""
        if self._public(sent.window) == sent.window:
            self._tell(sent, heard)
        elif heard is not None:
            told = "; ".join(part for part in (_outcome(sent, heard), _pay(heard)) if part)
            log.info("window %d, by the verdict logs: %s", sent.window, told)
        if heard is not None:
            values: dict[str, float | int | str] = {
                "own_status": heard.verdict.status,
                "own_share": heard.share,
            }
            self._context.metrics.log(sent.window, values)


def _popped(waiting: deque[_Sent]) -> _Sent | None:
    """The oldest; None if another thread has taken the last one."""
    try:
        return waiting.popleft()
    except IndexError:
        return None


def _work(sent: _Sent) -> str:
    made, words = sent.made, []
    if "inner_steps" in made:
        words.append(f"{made['inner_steps']} steps")
    if isinstance(loss := made.get("inner_loss"), float):
        words.append(f"loss {loss:.4f}")
    words.append(f"{'uploaded' if sent.is_uploaded else 'did not upload'} {sent.num_bytes} bytes")
    return ", ".join(words)


def _outcome(sent: _Sent, heard: _Heard | None) -> str:
    verdict = None if heard is None else heard.verdict
    if sent.is_accepted:
        what = "accepted"
    elif verdict is None:
        what = "not accepted, no verdict log says why yet"
    else:
        # The fetch error or the refusal in the validator's words, which the log keeps printable.
        detail = f" ({verdict.detail})" if verdict.detail else ""
        what = f"not accepted: {verdict.status}{detail}"
    if sent.no_op:
        what += f", nobody's was: {sent.no_op}"
    figures = _figures(verdict)
    votes = _votes(sent)
    return ", ".join(part for part in (what, figures, votes) if part)


def _figures(verdict: Verdict | None) -> str:
    if verdict is None or verdict.gain is None:
        return ""
    words = f"gain {verdict.gain:+.5f} +- {verdict.gain_standard_error or 0.0:.5f} nats per token"
    if verdict.gain_log_ratio is not None:
        words += f", evidence of gain {verdict.gain_log_ratio:+.2f}"
    if verdict.work_effect is not None:
        words += f", work effect {verdict.work_effect:+.2f}"
    return words


def _votes(sent: _Sent) -> str:
    """Shares of the voting stake that named the payload, and that reported it missing."""
    ballot = sent.ballot
    if ballot is None or not ballot.stake_rao:
        return ""
    uid = next((u for u, m in ballot.candidates.items() if m.digest == sent.digest), None)
    if uid is None:
        return "it did not stand on chain at the window's end"
    named = sum(v.stake_rao for v in ballot.voters if uid in v.vote.uids)
    missing = sum(v.stake_rao for v in ballot.voters if uid in v.vote.missing - v.vote.uids)
    share, lost = named / ballot.stake_rao, missing / ballot.stake_rao
    words = f"named by {100 * share:.0f} % of the voting stake"
    return f"{words}, missing for {100 * lost:.0f} %" if missing else words


def _pay(heard: _Heard | None) -> str:
    if heard is None:
        return ""
    logs = "1 log" if heard.num_logs == 1 else f"{heard.num_logs} logs"
    return f"share of the pay {100 * heard.share:.1f} % by {logs}"
