"""The conclusion of a window: reputations, weights, and the payloads for the vote."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evaluation.evidence import Evidence
from evaluation.history import Histories, past_of
from evaluation.rating import Rating, ratings_of
from evaluation.rules import PayRules
from evaluation.verdict import Verdict
from evaluation.weights import chain_weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Reputation:
    """A hotkey's evidence and rating after a window."""

    evidence: Evidence
    rating: Rating


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    """Registrations of the subnet at one block.

    `uids`: registered hotkey -> uid. `burn_uid`: uid of the subnet owner's hotkey; None for an
    owner's hotkey without a uid.
    """

    uids: Mapping[str, int]
    burn_uid: int | None


def reputations_and_weights(
    histories: Histories, window: int, registered: Registered, rules: PayRules
) -> tuple[dict[str, Reputation], dict[int, float]]:
    """Reputations by hotkey and shares by uid after `window`.

    `histories` include the window.
    """
    uids = registered.uids
    past = past_of(histories, rules.judge)
    ratings = ratings_of(histories, window - rules.weights.history_windows + 1)
    reputations = {
        hotkey: Reputation(evidence=past.of(hotkey), rating=ratings.get(hotkey, Rating()))
        for hotkey in sorted(histories)
    }
    known = {uids[hotkey]: history for hotkey, history in histories.items() if hotkey in uids}
    holding = {
        uids[hotkey]
        for hotkey, evidence in past.evidence.items()
        if hotkey in uids and (evidence.work.holds or not rules.tested)
    }
    shares = chain_weights(known, holding, window, rules.weights, registered.burn_uid)
    return reputations, shares


def choose_accepted(
    verdicts: Iterable[Verdict], reputations: Mapping[str, Reputation], limit: int
) -> frozenset[int]:
    """Uids for the vote: at most `limit` useful payloads, best rating first, then lowest uid."""
    useful = [verdict for verdict in verdicts if verdict.named]
    useful.sort(key=lambda verdict: (-_ordinal(verdict.hotkey, reputations), verdict.uid))
    return frozenset(verdict.uid for verdict in useful[:limit])


def _ordinal(hotkey: str, reputations: Mapping[str, Reputation]) -> float:
    reputation = reputations.get(hotkey)
    return (Rating() if reputation is None else reputation.rating).ordinal
