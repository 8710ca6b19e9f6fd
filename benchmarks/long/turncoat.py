"""Miners that change their conduct in the middle of a run."""

from benchmarks.attacks.actor import Actor, View
from benchmarks.attacks.idle import Flipped, Gaussian
from benchmarks.learning.messages import Message

SHARES = {"noise": 0.0, "flip": 1.0, "tenth": 0.1}


class Turncoat(Actor):
    """Honest but from window `first` to `stop`, when it sends noise, the opposite of its work, or a
    tenth of the work.
    """

    def __init__(self, kind: str, first: int, stop: int) -> None:
        self._kind, self._turned = kind, range(first, stop)

    def dishonest(self, number: int) -> bool:
        return number in self._turned

    def share_in(self, number: int) -> float:
        return SHARES[self._kind] if self.dishonest(number) else 1.0

    def send(self, honest: Message, view: View) -> Message | None:
        if not self.dishonest(view.number) or self._kind == "tenth":
            return honest
        attacker = Gaussian() if self._kind == "noise" else Flipped()
        return attacker.send(honest, view)
