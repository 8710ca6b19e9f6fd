"""Crowds of played swarms: what the attack suite's validators measure, by the pay in force.

Eight honest miners, of whom two make half of the steps; weights by `evaluation.weights`.

Legend: W windows, M miners.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, Self

import numpy as np

from benchmarks.attacks.actor import Actor
from benchmarks.attacks.suite import Case as AttackCase
from benchmarks.attacks.swarm import Swarm
from benchmarks.attacks.working import Fewer
from benchmarks.learning.text import ROOT
from benchmarks.validators.crowd import Crowd, Flags, Floats, up_to
from evaluation.history import Entry
from evaluation.weights import WeightRules, chain_weights
from template.protocol.spec.plan import RunChoices, draft_spec, load_plan
from template.scoring.rules import pay_rules

MINERS, SLOW_MINERS, SLOW_SHARE = 8, 2, 0.5
WINDOWS: Final = 96
HELD_OUT_PAGES: Final = 64
OWNER: Final = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
"""Any hotkey: a spec needs one."""
LOSS_ERROR: Final = 1e-5
"""Largest difference of two honest validators' losses, nats per token."""

Entries = Mapping[int, Mapping[int, Entry]]
"""uid -> window -> entry, of all windows of a run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayedCrowd(Crowd):
    """`entries`: what one validator measured. `shares_WM`: of the claimed pages."""

    entries: Entries
    rules: WeightRules

    @classmethod
    def of(cls, entries: Entries, rules: WeightRules, seed: int) -> Self:
        """A crowd from what one validator measured."""
        shape = (WINDOWS, len(entries))
        pages_WM, gaps_WM = np.zeros(shape), np.zeros(shape)
        for uid, history in entries.items():
            for window, entry in history.items():
                pages_WM[window, uid] = entry.pages
                gaps_WM[window, uid] = entry.half_gap or 0.0
        shares_WM = pages_WM / pages_WM.sum(axis=1, keepdims=True)
        return cls(shares_WM=shares_WM, tilts_WM=gaps_WM, seed=seed, entries=entries, rules=rules)

    def measured_by(self, validator: int) -> Self:
        rng = np.random.default_rng((self.seed, 1, validator))
        # The mean of a half's uniform errors, less that of the other half's.
        spread = LOSS_ERROR / np.sqrt(3) * 2 / np.sqrt(HELD_OUT_PAGES)
        errors_WM = spread * rng.standard_normal(self.tilts_WM.shape)
        return replace(self, tilts_WM=self.tilts_WM + errors_WM)

    def account(self, length: int, window: int, known_W: Flags) -> Floats:
        """Shares by `chain_weights` without duels, of the miners' part; alike while none is paid.

        The rules name the account's length, whatever `length` says.
        """
        counted_W = up_to(window, known_W)
        histories = {
            uid: {w: e for w, e in history.items() if counted_W[w]}
            for uid, history in self.entries.items()
        }
        shares = chain_weights(histories, range(self.num_miners), window, self.rules, None)
        if not shares:
            return np.full(self.num_miners, 1.0 / self.num_miners)
        shares_M = np.array([shares.get(uid, 0.0) for uid in range(self.num_miners)])
        normalized_M: Floats = shares_M / shares_M.sum()
        return normalized_M

    def guessed_account(self, length: int, window: int, known_W: Flags) -> Floats:
        """The account after the newest known window."""
        known = np.flatnonzero(up_to(window, known_W))
        newest = int(known[-1]) if len(known) else -1
        return self.account(length, newest, known_W)


def play(seed: int) -> Entries:
    """Entries of a swarm without attackers; RuntimeError if it stopped before its end."""
    usual = MINERS - SLOW_MINERS
    roster = [*(Actor() for _ in range(usual)), *(Fewer(SLOW_SHARE) for _ in range(SLOW_MINERS))]
    case = AttackCase(attack="", miners=MINERS, attackers=0, seed=seed, defended=True)
    swarm = Swarm(replace(case.trial, rounds=WINDOWS), roster)
    entries: dict[int, dict[int, Entry]] = {uid: {} for uid in range(MINERS)}
    uids = {actor.hotkey(uid, 0): uid for uid, actor in enumerate(roster)}
    for window, _ in enumerate(swarm.windows()):
        for hotkey, history in swarm.histories.items():
            if window in history:
                entries[uids[hotkey]][window] = history[window]
    if swarm.outcome.stopped is not None:
        raise RuntimeError(f"the swarm stopped in window {swarm.outcome.stopped}")
    return entries


@cache
def load_crowd(seed: int) -> PlayedCrowd:
    """A played crowd."""
    return PlayedCrowd.of(play(seed), shipped_rules(), seed)


def shipped_rules() -> WeightRules:
    """The rules of pay of the localnet's plan, without duels."""
    choices = RunChoices(owner_hotkey=OWNER, start_block=1000)
    spec = draft_spec(load_plan(ROOT / "runs" / "localnet.toml"), choices)
    return replace(pay_rules(spec).weights, duel_share=0.0)


def facts_of(crowd: PlayedCrowd) -> dict[str, Any]:
    """Of a played crowd: how often a miner's gap is above 0, and the correlation of a miner's gap,
    less the mean of all, in neighbouring windows.
    """
    own_WM = crowd.tilts_WM - crowd.tilts_WM.mean(axis=1, keepdims=True)
    pairs = [np.corrcoef(each_W[:-1], each_W[1:])[0, 1] for each_W in own_WM.T]
    return {
        "gap_correlation": float(np.mean(pairs)),
        "gap_above_0": [float(share) for share in (own_WM > 0).mean(axis=0)],
    }
