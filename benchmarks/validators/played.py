"""Crowds of played swarms: gains as the attack suite's validators measure them, page by page.

Eight honest miners, pay by `evaluation.weights` with an account of another length. Evidence of
work is left out: all miners claim what they train.

Legend: W windows, M miners, S held-out sequences.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from torch import Tensor

from benchmarks.attacks.actor import Actor
from benchmarks.attacks.panel import Panel, Sent, Setting
from benchmarks.attacks.suite import Case as AttackCase
from benchmarks.attacks.swarm import Swarm
from benchmarks.learning.strategies.ours import Ours
from benchmarks.learning.text import ROOT
from benchmarks.validators.crowd import Crowd, Flags, Floats, up_to
from evaluation.gain import relative_gains
from evaluation.history import Entry
from evaluation.judge import Measured
from evaluation.weights import WeightRules, chain_weights
from evaluation.work import HELD_OUT
from template.commands.plan import load_plan

MINERS: Final = 8
WINDOWS: Final = 96
LOSS_ERROR: Final = 1e-5
"""Largest difference of two honest validators' losses, nats per token."""


class Listening(Panel):
    """Keeps the drop of the loss, float64 [M, S], of every window."""

    def __init__(self, swarm: "PlayedSwarm", roster: Sequence[Actor]) -> None:
        super().__init__(swarm.workers, swarm.judges_by, roster, Setting())
        self.drops: list[Floats] = []

    def _measure(self, number: int, params_N: Tensor, sent: Sent, repeated: Set[int]) -> Measured:
        measured = super()._measure(number, params_N, sent, repeated)
        held_S = measured.owners_S == HELD_OUT
        drops_MS = [
            measured.before_S[held_S] - measured.after_S[uid][held_S] for uid in sorted(sent.keys)
        ]
        self.drops.append(np.stack(drops_MS))
        return measured


class PlayedSwarm(Swarm):
    """A swarm of honest miners that keeps what was measured."""

    def __init__(self, seed: int, windows: int) -> None:
        roster = [Actor() for _ in range(MINERS)]
        case = AttackCase(attack="", miners=MINERS, attackers=0, seed=seed, defended=True)
        super().__init__(replace(case.trial, rounds=windows), roster)
        self.listening = Listening(self, roster)
        self.panel = self.listening

    @property
    def judges_by(self) -> Ours:
        """The outer step that payloads are scored with."""
        return self._ours


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayedCrowd(Crowd):
    """`drops_WMS`: of the loss by each payload. `rules`: of pay; the account's length replaces
    `history_windows`. `shares_WM`: of the window's relative gains.
    """

    drops_WMS: Floats
    rules: WeightRules

    @classmethod
    def of(cls, drops_WMS: Floats, rules: WeightRules, seed: int) -> Self:
        """A crowd from what one validator measured."""
        gains_WM = drops_WMS.mean(axis=2)
        relative_WM = np.array(
            [list(relative_gains(dict(enumerate(gains_M))).values()) for gains_M in gains_WM]
        )
        return cls(
            shares_WM=relative_WM,
            tilts_WM=_tilts(drops_WMS, seed),
            seed=seed,
            drops_WMS=drops_WMS,
            rules=rules,
        )

    def measured_by(self, validator: int) -> Self:
        rng = np.random.default_rng((self.seed, 1, validator))
        errors_WMS = rng.uniform(-LOSS_ERROR, LOSS_ERROR, self.drops_WMS.shape)
        return self.of(self.drops_WMS + errors_WMS, self.rules, self.seed)

    def account(self, length: int, window: int, known_W: Flags) -> Floats:
        """Shares by `chain_weights`, of the miners' part; alike while nobody is paid."""
        counted = np.flatnonzero(up_to(window, known_W))
        histories = {
            uid: {
                int(w): Entry(relative_gain=float(self.shares_WM[w, uid]), pages=1) for w in counted
            }
            for uid in range(self.num_miners)
        }
        rules = replace(self.rules, history_windows=length)
        shares = chain_weights(histories, range(self.num_miners), window, rules, None)
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


def play(seed: int, windows: int = WINDOWS) -> Floats:
    """Drops of the loss [W, M, S] of a swarm; RuntimeError if it stopped before its end."""
    swarm = PlayedSwarm(seed, windows)
    swarm.run()
    drops = swarm.listening.drops
    if len(drops) != windows:
        raise RuntimeError(f"{len(drops)} of {windows} windows were measured")
    return np.stack(drops)


def load_crowd(seed: int, folder: Path | None) -> PlayedCrowd:
    """A played crowd; with a folder from the file that holds the swarm's drops, made if absent."""
    path = None if folder is None else folder / f"swarm-{seed}.npy"
    if path is not None and path.exists():
        drops_WMS = np.load(path, allow_pickle=False)
    else:
        drops_WMS = play(seed)
        if path is not None:
            np.save(path, drops_WMS)
    return PlayedCrowd.of(drops_WMS, shipped_rules(), seed)


def shipped_rules() -> WeightRules:
    """The rules of pay in the localnet's plan, which are those of all shipped plans."""
    plan = load_plan(ROOT / "runs" / "localnet.toml")
    evaluation, weights = plan["evaluation"], plan["weights"]
    return WeightRules(
        history_windows=weights["history_windows"],
        most_windows=max(weights["history_windows"], evaluation["work_windows"]),
        min_windows=weights["min_windows"],
        confidence_z=evaluation["confidence_z"],
        min_relative_gain=evaluation["min_relative_gain"],
        gain_power=weights["gain_power"],
        credit_share=weights["credit_share"],
        max_share=weights["max_share"],
    )


def facts_of(crowd: PlayedCrowd) -> dict[str, Any]:
    """Of a played crowd, by thirds of the run: mean gain in nats per token, standard deviation of
    a window's gain over its mean, and of all of the run the correlation of a miner's tilts in
    neighbouring windows.
    """
    thirds = np.array_split(crowd.drops_WMS.mean(axis=2), 3)
    tilts_WM = crowd.tilts_WM
    pairs = [np.corrcoef(each_W[:-1], each_W[1:])[0, 1] for each_W in tilts_WM.T]
    return {
        "gain": [float(gains_WM.mean()) for gains_WM in thirds],
        "noise": [float((g.std(axis=0, ddof=1) / g.mean(axis=0)).mean()) for g in thirds],
        "tilt_correlation": float(np.mean(pairs)),
        "tilt_above_0": [float(share) for share in (tilts_WM > 0).mean(axis=0)],
    }


def _tilts(drops_WMS: Floats, seed: int) -> Floats:
    """Gain on a drawn half of the sequences less that on the rest, in units of the spread."""
    tilts = []
    for window, drops_MS in enumerate(drops_WMS):
        order_S = np.random.default_rng((seed, 3, window)).permutation(drops_MS.shape[1])
        one, other = np.array_split(order_S, 2)
        tilts.append(drops_MS[:, one].mean(axis=1) - drops_MS[:, other].mean(axis=1))
    tilts_WM = np.array(tilts)
    # Pages shift all payloads' tilts alike, which no duel sees.
    own_WM = tilts_WM - tilts_WM.mean(axis=1, keepdims=True)
    scaled_WM: Floats = own_WM / own_WM.std(axis=1, keepdims=True)
    return scaled_WM
