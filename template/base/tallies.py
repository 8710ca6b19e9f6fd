"""A scored window in numbers, for metrics: payloads, refusals by reason, gains and scores. Pure."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from evaluation.conclusion import Reputation
from evaluation.verdict import NAMED, Verdict


def tallies(
    verdicts: Sequence[Verdict], reputations: Mapping[str, Reputation]
) -> dict[str, float | int]:
    """Counts of the window's payloads by outcome; gain and score of each uid that has one.

    `payloads`: committed in the window. `named`: useful, before the vote's own limit.
    `refused/REASON`: by the verdict's status. `gain/UID`: nats per token. `score/UID`: the ordinal
    of the hotkey's rating after the window.
    """
    statuses = Counter(verdict.status for verdict in verdicts)
    values: dict[str, float | int] = {"payloads": len(verdicts), "named": statuses.pop(NAMED, 0)}
    values |= {f"refused/{status}": count for status, count in sorted(statuses.items())}
    gains = {v.uid: v.gain for v in verdicts if v.gain is not None and math.isfinite(v.gain)}
    if gains:
        values["gain_mean"] = sum(gains.values()) / len(gains)
    values |= {f"gain/{uid}": gain for uid, gain in gains.items()}
    scores = {v.uid: reputations[v.hotkey] for v in verdicts if v.hotkey in reputations}
    return values | {f"score/{uid}": known.rating.ordinal for uid, known in scores.items()}
