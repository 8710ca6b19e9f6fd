"""One machine behind several hotkeys. A team has the uids from its leader's on."""

from collections.abc import Sequence

from benchmarks.attacks.actor import Actor, Attacker, View
from benchmarks.attacks.idle import standard
from benchmarks.attacks.leftover import LeftOver
from benchmarks.attacks.working import Fewer
from benchmarks.learning.messages import Message

INNER_STEPS = 15
"""Of the suite's runs."""


def parts(hotkeys: int) -> list[float]:
    """Each hotkey's share of the steps; together all of them, no step twice."""
    return [len(range(i, INNER_STEPS, hotkeys)) / INNER_STEPS for i in range(hotkeys)]


def shared_out(hotkeys: int) -> Sequence[Actor]:
    """Every hotkey is given its part of the steps, and claims so."""
    return [Fewer(part) for part in parts(hotkeys)]


def trained_once(hotkeys: int, *, noise: float) -> Sequence[Actor]:
    """One training, sent by every hotkey with so much noise, in standard deviations."""
    first, *others = parts(hotkeys)
    followers = [Follower(part, i, noise) for i, part in enumerate(others, 1)]
    return [Leader(hotkeys, first), *followers]


def split(hotkeys: int, *, claims: float | None = None) -> Sequence[Actor]:
    """One training; every hotkey sends what those before it left out, so that no two overlap.

    The training covers 1 / `hotkeys` of each one's page list. `claims`: the share of the list that
    each claims, by default no more than was trained.
    """
    first, *others = parts(hotkeys) if claims is None else [claims] * hotkeys
    left = LeftOver()
    return [SplitLeader(hotkeys, first, left), *(SplitFollower(part, left) for part in others)]


class Leader(Actor):
    """Trains on the pages of the whole team in turn; each of its hotkeys claims a part."""

    feeds_back = True

    def __init__(self, hotkeys: int, claims: float) -> None:
        self.hotkeys, self.claims = hotkeys, claims

    def dishonest(self, number: int) -> bool:
        return True

    def source(self, uid: int, step: int) -> tuple[int, int]:
        return uid + step % self.hotkeys, step // self.hotkeys


class Follower(Attacker):
    """Sends the leader's payload, with a little noise or as it is."""

    def __init__(self, claims: float, place: int, noise: float) -> None:
        self.claims, self.place, self.noise = claims, place, noise

    def send(self, honest: Message, view: View) -> Message | None:
        leader = view.sent_now[view.uid - self.place]
        if not self.noise:
            return leader
        kept_N = (leader.dense != 0).float()
        spread = leader.dense[leader.dense != 0].std()
        return view.encoded(leader.dense + self.noise * spread * kept_N * standard(view))


class SplitLeader(Leader):
    """Sends the largest values of the team's training."""

    feeds_back = False

    def __init__(self, hotkeys: int, claims: float, left: LeftOver) -> None:
        super().__init__(hotkeys, claims)
        self.left = left

    def send(self, honest: Message, view: View) -> Message | None:
        return self.left.add_and_send(view)


class SplitFollower(Attacker):
    """Sends the largest that are left."""

    def __init__(self, claims: float, left: LeftOver) -> None:
        self.claims, self.left = claims, left

    def send(self, honest: Message, view: View) -> Message | None:
        return self.left.next(view)
