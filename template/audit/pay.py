"""Decisions, reputations and weights in a verdict log, compared with the logs before."""

from collections.abc import Collection, Mapping

from evaluation.rules import PayRules
from evaluation.verdict_log import WindowLog
from evaluation.verify import LogHistory
from template.audit.findings import Findings


def compare_pay(log: WindowLog, past: LogHistory, rules: PayRules, found: Findings) -> None:
    """Everything that follows from the logged losses and the windows known to the validator."""
    found.wrong += past.compare(log, rules)
    not_before = [window for window in log.known if not 0 <= window < log.window]
    if not_before:
        found.add_difference("windows known", "of windows before", not_before)
    missing = sorted(set(log.known) - past.given - set(not_before))
    if missing:
        found.add_unknown(
            f"decisions and weights rest on the logs of windows {missing}, which are not here"
        )
    earliest = log.window - rules.length
    left_out = {w for w in past.given if earliest < w < log.window} - set(log.known)
    left_out &= {w for history in past.histories.values() for w in history}
    if left_out:
        found.add_unknown(f"windows {sorted(left_out)} are left out, though there are logs")


def compare_undelivered(
    log: WindowLog,
    past: LogHistory,
    undelivered: Mapping[int, Collection[str]],
    found: Findings,
) -> None:
    """Payloads found undelivered by the votes on the window of the previous log.

    `undelivered`: window -> hotkeys, for each window that the auditor followed.
    """
    before = max((w for w in past.given if w < log.window), default=None)
    if before in undelivered and before in log.known:
        actual = sorted((before, hotkey) for hotkey in undelivered[before])
        if actual != sorted(log.undelivered):
            found.add_difference("undelivered", actual, sorted(log.undelivered))
    elif log.undelivered:
        found.add_unknown("undelivered payloads of the windows before are this validator's word")
