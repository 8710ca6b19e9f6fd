"""The attacks, by name, and what each may earn.

An exact copy of a payload of the same window is not among them: nobody can read one before all
are committed. What comes closest are two hotkeys of one machine that send the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.attacks import council, frames, idle, sybil, working
from benchmarks.attacks.actor import Actor

FREE, PARTIAL, SYBIL, VALIDATOR = "free", "partial", "sybil", "validator"
KINDS = (FREE, PARTIAL, SYBIL, VALIDATOR)


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack:
    """`team` makes attackers who belong together, `hotkeys` of them: one, or one machine's.
    `work`: the share of an honest miner's pages that each of them trains on. `validator` makes the
    dishonest one. `note`: why it does no harm undefended, where it does none.
    """

    kind: str
    team: Callable[[], Sequence[Actor]]
    hotkeys: int = 1
    work: float = 0.0
    validator: Callable[[], council.Validator] | None = None
    note: str = ""

    def group(self, count: int) -> list[Actor]:
        """So many attackers in the order of their uids; ValueError for a part of a team."""
        if count % self.hotkeys:
            raise ValueError(f"{count} attackers in teams of {self.hotkeys}")
        return [actor for _ in range(count // self.hotkeys) for actor in self.team()]


def _free(make: Callable[[], Actor], note: str = "") -> Attack:
    return Attack(kind=FREE, team=lambda: [make()], note=note)


def _partial(make: Callable[[], Actor], work: float, note: str = "") -> Attack:
    return Attack(kind=PARTIAL, team=lambda: [make()], work=work, note=note)


def _sybil(team: Callable[[], Sequence[Actor]], hotkeys: int) -> Attack:
    return Attack(kind=SYBIL, team=team, hotkeys=hotkeys, work=1 / hotkeys)


def _validator(
    validator: Callable[[], council.Validator], make: Callable[[], Actor], note: str = ""
) -> Attack:
    return Attack(kind=VALIDATOR, team=lambda: [make()], validator=validator, note=note)


ATTACKS: Mapping[str, Attack] = {
    "gaussian": _free(idle.Gaussian),
    "zero": _free(idle.Zero),
    "sign flip": _free(idle.Flipped),
    "a little is enough": _free(idle.LittleIsEnough),
    "inner product": _free(idle.InnerProduct),
    "index hijack": _free(idle.Hijack),
    "unique coordinates": _free(idle.Unique),
    "replay of its own": _free(idle.Replay),
    "replay of a rival's": _free(idle.ReplayRival),
    "delayed copy": _free(idle.Copy),
    "noisy copy": _free(lambda: idle.Copy(noise=0.5)),
    "partial copy": _free(lambda: idle.Copy(part=0.4)),
    "average of two": _free(lambda: idle.Copy(rivals=2)),
    "momentum rider": _free(idle.MomentumRider),
    "re-registered rider": _free(idle.RenewedRider),
    "not delivered": _free(idle.Undelivered, "whoever pays by payload pays nothing for none"),
    "delivered to one": _free(idle.DeliveredToOne),
    "honest, then flipped": _free(working.Sleeper),
    "honest, then a copier": _free(working.SleepingCopier),
    "NaN scale": _free(frames.NanScale),
    "duplicate index": _free(frames.DuplicateIndex),
    "wrong shape": _free(frames.WrongShape),
    "truncated": _free(frames.Truncated),
    "oversized": _free(frames.Oversized),
    "spike": _partial(working.Spike, 1.0),
    "magnitude 10": _partial(
        lambda: idle.Magnified(10.0), 1.0, "a mean over eight payloads bears two ten times as long"
    ),
    "magnitude 100": _partial(lambda: idle.Magnified(100.0), 1.0),
    "magnitude 1000": _partial(lambda: idle.Magnified(1000.0), 1.0),
    "half, magnified": _partial(lambda: idle.Magnified(10.0, 0.5), 0.5),
    "half, magnified, all claimed": _partial(lambda: idle.Magnified(10.0, 0.5, 1.0), 0.5),
    "a quarter, magnified, all claimed": _partial(lambda: idle.Magnified(10.0, 0.25, 1.0), 0.25),
    "half of the steps": _partial(lambda: working.Fewer(0.5), 0.5),
    "a quarter, all claimed": _partial(working.Overclaimed, 0.25),
    "a quarter of each batch": _partial(working.SmallerBatch, 0.25),
    "stale base, claimed fresh": _partial(working.StaleBase, 1.0),
    "over-fit": _partial(working.Overfit, 1 / 15),
    "over-fit, few claimed": _partial(working.OverfitFewClaimed, 4 / 15),
    "poisoned": _partial(working.Poisoned, 1.0),
    "only good draws": _partial(
        working.GoodDraws, 1.0, "whoever pays by payload pays nothing for what is held back"
    ),
    "part-time flipped": _partial(working.PartTimeFlipper, 0.5),
    "part-time copier": _partial(working.PartTimeCopier, 0.5),
    "one machine, two hotkeys": _sybil(lambda: sybil.shared_out(2), 2),
    "one machine, four hotkeys": _sybil(lambda: sybil.shared_out(4), 4),
    "same payload, two hotkeys": _sybil(lambda: sybil.trained_once(2, noise=0.0), 2),
    "one training, two hotkeys": _sybil(lambda: sybil.trained_once(2, noise=0.05), 2),
    "one training split over two": _sybil(lambda: sybil.split(2), 2),
    "one training split over four": _sybil(lambda: sybil.split(4), 4),
    "lying validator": _validator(council.Liar, idle.Flipped),
    "validator and free riders": _validator(council.Patron, lambda: idle.Copy(rivals=2)),
    "names what nobody has": _validator(council.NamesTheMissing, idle.Undelivered),
    "weight copier": _validator(
        council.WeightCopier,
        idle.Undelivered,
        "without commit-reveal it earns what an honest validator earns; it moves no weight",
    ),
}
