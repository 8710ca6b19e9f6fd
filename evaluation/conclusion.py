"""Who comes first where not all can: best rating first, then the lower uid."""

from collections.abc import Iterable, Mapping

from evaluation.rating import Rating
from evaluation.verdict import Verdict
from evaluation.verdict_log import Reputation


def chosen(
    verdicts: Iterable[Verdict], reputations: Mapping[str, Reputation], limit: int
) -> frozenset[int]:
    """Whom a vote names: at most `limit` of the useful payloads."""
    named = [v for v in verdicts if v.named]
    named.sort(key=lambda v: (-_ordinal(v.hotkey, reputations), v.uid))
    return frozenset(v.uid for v in named[:limit])


def _ordinal(hotkey: str, reputations: Mapping[str, Reputation]) -> float:
    reputation = reputations.get(hotkey)
    return (Rating() if reputation is None else reputation.rating).ordinal
