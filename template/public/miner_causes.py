"""Which cause is true of a miner's window, and why its pay is not more. Pure."""

import math
import statistics
from collections.abc import Mapping

from evaluation.gain import WORST_RELATIVE_GAIN
from evaluation.judge import JudgeRules, sample_of, usual_share, whole_gain
from evaluation.verdict import Verdict
from evaluation.weights import Account, shares_of_work
from template.protocol.quorum import VOID
from template.public.books import Page
from template.public.view import WindowView

SHORT = 0.9
"""Of the usual pages or of a whole claim: less is worth a word."""


def window_cause(view: WindowView, hotkey: str) -> str:
    """The name of what became of the hotkey's payload."""
    facts, uid = view.facts, view.committed_uid(hotkey)
    if uid is None:
        return _without_payload(view, hotkey)
    if facts.outcome is None:
        return "undecided"
    if uid in facts.outcome.accepted:
        return "accepted"
    status = view.status(uid)
    if status is not None and status != "named":
        return status
    return _unapplied(view, uid, is_named=status == "named")


def _without_payload(view: WindowView, hotkey: str) -> str:
    facts = view.facts
    if facts.registered and hotkey not in facts.registered:
        return "not_registered"
    if facts.window > view.run.facts.last_counted:
        return "undecided"
    return "not_committed" if facts.votes or facts.committed else "unknown"


def _unapplied(view: WindowView, uid: int, *, is_named: bool) -> str:
    """Why a payload was not applied that no log refuses: by the decision and the votes."""
    facts, outcome = view.facts, view.facts.outcome
    assert outcome is not None
    if outcome.no_op == VOID:
        return "voids"
    if outcome.no_op and (is_named or not facts.votes):
        return "no_majority"
    if 2 * view.stake_naming(uid) > outcome.reference_rao > 0:
        limit = view.run.facts.run.at(view.window).outer.peers_per_step
        return "too_many" if len(outcome.accepted) >= limit else "no_majority"
    if is_named and facts.votes:
        return "too_few_votes"
    if outcome.undelivered and uid in outcome.undelivered:
        return "not_delivered"
    return "reason_pending"


def evidence_causes(view: WindowView, page: Page | None, verdict: Verdict | None) -> list[str]:
    """Which part of the rule refused a payload of status `no_gain`; empty for others.

    The order of `evaluation.judge`: the gate over windows, then the floor of this window.
    """
    if verdict is None or verdict.status != "no_gain" or page is None:
        return []
    rules = view.run.rules(view.window).judge
    before = page.past.of(verdict.hotkey)
    evidence = before.after(sample_of(verdict), verdict.gain_log_ratio, rules.work, rules.gain)
    found = []
    if not evidence.gain.holds:
        # At the bound gain alone opens the gate, unless the evidence of work lies below zero.
        found.append("work_unproven" if evidence.gain.log_ratio > 0 else "gain_unproven")
    if reach(page, verdict, rules) <= page.bar.floor:
        found.append("below_floor")
    return found


def reach(page: Page, verdict: Verdict, rules: JudgeRules) -> float:
    """Gain and its errors together, as the floor is compared with; nats per token."""
    gain, error = whole_gain(verdict), verdict.gain_standard_error or 0.0
    if gain is None:
        return -math.inf
    return gain + rules.naming_z * min(error / usual_share(verdict), page.bar.error_limit)


def pay_causes(view: WindowView, page: Page | None, hotkey: str, uid: int) -> list[str]:
    """Why pay is not more, from the account; empty where no book can be followed."""
    if uid == view.run.facts.subnet.owner_uid:
        return ["owner"]
    paid_uid = None if page is None else page.judgement.uids.get(hotkey)
    if page is None or paid_uid is None or paid_uid not in page.accounts:
        return []
    account, rules = page.accounts[paid_uid], view.run.rules(view.window)
    found = []
    reputation = page.judgement.reputations.get(hotkey)
    if rules.tested and (reputation is None or not reputation.evidence.work.holds):
        found.append("gate_closed")
    if account.num_scored < rules.weights.min_windows:
        found.append("too_new")
    elif account.bound <= rules.weights.min_relative_gain:
        found.append("gain_low")
    found += _claims(page, hotkey, account)
    usual = usual_pages(page.accounts)
    if usual and account.pages < SHORT * usual:
        found.append("pages_short")
    if account.trained is not None and account.trained < SHORT:
        found.append("trained_short")
    share = page.judgement.shares.get(paid_uid, 0.0)
    if share >= rules.weights.max_share and len(page.judgement.shares) > 1:
        found.append("capped")
    has_duels = page.follows and rules.weights.has_duels(page.judgement.window)
    if has_duels and share < shares_of_work(page.accounts, rules.weights).get(paid_uid, 0.0):
        found.append("duel_lost")
    return found


def _claims(page: Page, hotkey: str, account: Account) -> list[str]:
    """Causes that follow from the entries of the counted windows."""
    window = page.judgement.window
    history = page.histories.get(hotkey, {})
    entries = [entry for w, entry in history.items() if account.first <= w <= window]
    found = []
    if any(entry.relative_gain == WORST_RELATIVE_GAIN for entry in entries):
        found.append("pages_refused")
    if len(entries) < window - account.first + 1:
        found.append("pages_absent")
    if any(entry.model_share < 1.0 for entry in entries):
        found.append("part_of_model")
    return found


def usual_pages(found: Mapping[int, Account]) -> float:
    """Pages of the paid miner in the middle; 0 where nobody is paid."""
    pages = [account.pages for account in found.values() if account.work > 0]
    return statistics.median(pages) if pages else 0.0
