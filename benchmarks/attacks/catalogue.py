"""The attacks, by name, and what each may earn.

An exact copy of a payload of the same window is not among them: nobody can read one before all
are committed. What comes closest are two hotkeys of one machine that send the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.attacks import council, elsewhere, frames, idle, sybil, working
from benchmarks.attacks.actor import Actor
from localnet.adversaries.attacks import SIMULATED
from localnet.adversaries.tensors import COPY_NOISE, COPY_SHARE

FREE, PARTIAL, SYBIL, VALIDATOR = "free", "partial", "sybil", "validator"
KINDS = (FREE, PARTIAL, SYBIL, VALIDATOR)
JUST_UNDER_HALF = 0.499
"""Of the stake: one validator stands for all that are in league, who vote and weigh alike."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack:
    """`team` makes attackers who belong together, `hotkeys` of them: one, or one machine's.
    `work`: the share of an honest miner's pages that each of them trains on. `validator` makes the
    dishonest one. `stake`: its share of the stake, None for the attackers' share of the miners.
    `note`: why it does no harm undefended, where it does none.
    """

    kind: str
    team: Callable[[], Sequence[Actor]]
    hotkeys: int = 1
    work: float = 0.0
    validator: Callable[[], council.Validator] | None = None
    stake: float | None = None
    note: str = ""

    def group(self, count: int) -> list[Actor]:
        """So many attackers in the order of their uids; ValueError for a part of a team."""
        if count % self.hotkeys:
            raise ValueError(f"{count} attackers in teams of {self.hotkeys}")
        return [actor for _ in range(count // self.hotkeys) for actor in self.team()]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Players:
    """An attack's actors; kind and share of work stand in `localnet.adversaries.attacks`."""

    team: Callable[[], Sequence[Actor]]
    hotkeys: int = 1
    validator: Callable[[], council.Validator] | None = None
    stake: float | None = None
    note: str = ""


def _alone(make: Callable[[], Actor], note: str = "") -> _Players:
    return _Players(team=lambda: [make()], note=note)


def _sybil(team: Callable[[], Sequence[Actor]], hotkeys: int) -> _Players:
    return _Players(team=team, hotkeys=hotkeys)


def _validator(
    validator: Callable[[], council.Validator],
    make: Callable[[], Actor],
    note: str = "",
    stake: float | None = None,
) -> _Players:
    return _Players(team=lambda: [make()], validator=validator, stake=stake, note=note)


_PLAYERS: Mapping[str, _Players] = {
    "gaussian": _alone(idle.Gaussian),
    "zero": _alone(idle.Zero),
    "sign flip": _alone(idle.Flipped),
    "a little is enough": _alone(idle.LittleIsEnough),
    "inner product": _alone(idle.InnerProduct),
    "index hijack": _alone(idle.Hijack),
    "unique coordinates": _alone(idle.Unique),
    "replay of its own": _alone(idle.Replay),
    "replay of a rival's": _alone(idle.ReplayRival),
    "delayed copy": _alone(idle.Copy),
    "noisy copy": _alone(lambda: idle.Copy(noise=COPY_NOISE)),
    "partial copy": _alone(lambda: idle.Copy(part=COPY_SHARE)),
    "average of two": _alone(lambda: idle.Copy(rivals=2)),
    "momentum rider": _alone(idle.MomentumRider),
    "re-registered rider": _alone(idle.RenewedRider),
    "shadow training": _alone(elsewhere.Shadow),
    "late payload of a rival's": _alone(elsewhere.LateThief),
    "private model": _alone(elsewhere.PrivateModel),
    "not delivered": _alone(idle.Undelivered, "whoever pays by payload pays nothing for none"),
    "delivered to one": _alone(idle.DeliveredToOne),
    "honest, then flipped": _alone(working.Sleeper),
    "honest, then a copier": _alone(working.SleepingCopier),
    "NaN scale": _alone(frames.NanScale),
    "duplicate index": _alone(frames.DuplicateIndex),
    "wrong shape": _alone(frames.WrongShape),
    "truncated": _alone(frames.Truncated),
    "oversized": _alone(frames.Oversized),
    "spike": _alone(working.Spike),
    "magnitude 10": _alone(
        lambda: idle.Magnified(10.0), "a mean over eight payloads bears two ten times as long"
    ),
    "magnitude 100": _alone(lambda: idle.Magnified(100.0)),
    "magnitude 1000": _alone(lambda: idle.Magnified(1000.0)),
    "half, magnified": _alone(lambda: idle.Magnified(10.0, 0.5)),
    "half, magnified, all claimed": _alone(lambda: idle.Magnified(10.0, 0.5, 1.0)),
    "a quarter, magnified, all claimed": _alone(lambda: idle.Magnified(10.0, 0.25, 1.0)),
    "half of the steps": _alone(lambda: working.Fewer(0.5)),
    "a quarter, all claimed": _alone(working.Overclaimed),
    "four batches claimed, one trained": _alone(working.Widened),
    "narrow, then four batches claimed": _alone(lambda: working.Widened(4)),
    "half of the steps, four batches claimed": _alone(working.HalfOfWide),
    "a quarter of each batch": _alone(working.SmallerBatch),
    "a quarter of each page": _alone(lambda: working.FrontOfPages(0.25)),
    "half of each page": _alone(lambda: working.FrontOfPages(0.5)),
    "half of each page, anywhere": _alone(working.RandomHalfOfPages),
    "half a copy, a quarter of the work": _alone(lambda: working.PartCopied(0.5)),
    "part of a copy, a quarter of the work": _alone(lambda: working.PartCopied(COPY_SHARE)),
    "stale base, claimed fresh": _alone(working.StaleBase),
    "over-fit": _alone(working.Overfit),
    "over-fit, few claimed": _alone(working.OverfitFewClaimed),
    "poisoned": _alone(working.Poisoned),
    "only good draws": _alone(
        working.GoodDraws, "whoever pays by payload pays nothing for what is held back"
    ),
    "part-time flipped": _alone(working.PartTimeFlipper),
    "part-time copier": _alone(working.PartTimeCopier),
    "part-time residual": _alone(working.ResidualAlone),
    "part-time noise": _alone(working.GainInOddWindows),
    "one machine, two hotkeys": _sybil(lambda: sybil.shared_out(2), 2),
    "one machine, four hotkeys": _sybil(lambda: sybil.shared_out(4), 4),
    "same payload, two hotkeys": _sybil(lambda: sybil.trained_once(2, noise=0.0), 2),
    "one training, two hotkeys": _sybil(lambda: sybil.trained_once(2, noise=0.05), 2),
    "one training split over two": _sybil(lambda: sybil.split(2), 2),
    "one training split over four": _sybil(lambda: sybil.split(4), 4),
    "one training split over two, all claimed": _sybil(lambda: sybil.split(2, claims=1.0), 2),
    "one training split over four, all claimed": _sybil(lambda: sybil.split(4, claims=1.0), 4),
    "lying validator": _validator(council.Liar, idle.Flipped),
    "validator and free riders": _validator(council.Patron, lambda: idle.Copy(rivals=2)),
    "half of the stake and free riders": _validator(
        council.Patron, lambda: idle.Copy(rivals=2), stake=JUST_UNDER_HALF
    ),
    "log copier": _validator(
        council.LogCopier,
        idle.Undelivered,
        "it names and weighs as the validator that it copies: it moves no step and no weight",
    ),
    "lineage copier": _validator(council.LineageCopier, idle.Copy),
    "names what nobody has": _validator(council.NamesTheMissing, idle.Undelivered),
    "weight copier": _validator(
        council.WeightCopier,
        idle.Undelivered,
        "without commit-reveal it earns what an honest validator earns; it moves no weight",
    ),
}

ATTACKS: Mapping[str, Attack] = {
    name: Attack(
        kind=SIMULATED[name].kind,
        team=players.team,
        hotkeys=players.hotkeys,
        work=SIMULATED[name].share,
        validator=players.validator,
        stake=players.stake,
        note=players.note,
    )
    for name, players in _PLAYERS.items()
}
