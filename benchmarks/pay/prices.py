"""Pay from a record's verdicts, by the rules of pay now in force.

What a payload shows does not hang on what anybody is paid, so a run is played once, and pay is
worked out again whenever the report is written. A test holds it equal to the pay of the swarm.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from benchmarks.attacks.council import BURN_UID, NUM_VALIDATORS, Council
from evaluation.conclusion import Registered, reputations_and_weights
from evaluation.history import Histories, add_window
from evaluation.rules import PayRules
from evaluation.verdict import Verdict
from template.protocol.quorum import QuorumRules

FIELDS: Final = (
    "status", "relative_gain", "pages_consumed", "width", "model_share", "work_effect",
    "work_variance", "page_effect", "page_square", "quarter_profile",
)  # fmt: skip
"""Of a verdict: what pay rests on, in the order of the record."""


def figures_of(verdict: Verdict) -> list[Any]:
    """A verdict's line in the record."""
    return [getattr(verdict, name) for name in FIELDS]


def shares_of(
    windows: Sequence[Sequence[Sequence[Any]]], rules: PayRules, quorum: QuorumRules
) -> list[list[float]]:
    """Shares of pay after each window, by uid, as equal honest validators set them.

    `windows`: of each window the lines of all uids, in order. All payloads were delivered.
    """
    uids = range(len(windows[0]))
    registered = Registered(uids={str(uid): uid for uid in uids}, burn_uid=BURN_UID)
    council = Council(len(uids), quorum, 1 / NUM_VALIDATORS)
    histories: Histories = {}
    paid = []
    for window, lines in enumerate(windows):
        histories = add_window(histories, window, verdicts_of(window, lines), rules.length)
        _, weights = reputations_and_weights(histories, window, registered, rules)
        shares = council.pay([weights] * NUM_VALIDATORS).shares
        paid.append([shares.get(uid, 0.0) for uid in uids])
    return paid


def verdicts_of(window: int, lines: Iterable[Sequence[Any]]) -> list[Verdict]:
    """The verdicts of a window's lines."""
    return [
        Verdict(
            window=window,
            uid=uid,
            hotkey=str(uid),
            digest="",
            **_named(line),
        )
        for uid, line in enumerate(lines)
    ]


def _named(line: Sequence[Any]) -> dict[str, Any]:
    named = dict(zip(FIELDS, line, strict=False))
    return named | {"quarter_profile": tuple(named.get("quarter_profile", ()))}
