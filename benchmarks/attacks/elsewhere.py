"""Attackers who claim their own page lists, while the training was on other pages.

Such a training costs as much as an honest one, or more. Pay is for assigned pages, though, and
none of these pages were assigned: their `work` is 0, and they may earn what idle attackers may.

Legend: N parameters.
"""

from torch import Tensor

from benchmarks.attacks.actor import Attacker, View
from benchmarks.attacks.idle import noise_like
from benchmarks.attacks.leftover import LeftOver
from benchmarks.learning.messages import Message

JUDGED_PAGES = 32


class Shadow(Attacker):
    """Repeats the training of the first miner, error feedback included, to the last bit.

    A real shadow does not know the private order of the victim's pages: this one guesses it.
    """

    share = 1.0
    victim = 0

    def __init__(self) -> None:
        self.left = LeftOver()

    def source(self, uid: int, step: int) -> tuple[int, int]:
        return self.victim, step

    def send(self, honest: Message, view: View) -> Message | None:
        return self.left.add_and_send(view)


class LateThief(Attacker):
    """Sends what a rival committed in the window before and delivered too late to be applied.

    The rival is a miner outside the roster, whose honest training is none of the thief's work. No
    validator has ever read its payload, so that no comparison with earlier payloads finds it out.
    """

    def __init__(self) -> None:
        self.left = LeftOver()
        self.late: Message | None = None

    def send(self, honest: Message, view: View) -> Message | None:
        stolen, self.late = self.late, self._payload_of_rival(view)
        return stolen or view.encoded(noise_like(view))

    def _payload_of_rival(self, view: View) -> Message:
        trial = view.workers.trial
        end_N = trained_apart(view, view.params_N, trial.miners + view.uid, trial.inner_steps)
        self.left.add(view.params_N - end_N, trial.decay)
        return self.left.next(view)


class PrivateModel(Attacker):
    """Trains a model of its own, and sends how far theta is from it.

    The model goes on from window to window for as long as its loss on some pages is below that of
    theta; otherwise it begins again at theta. `times`: inner steps in a window, over those of an
    honest miner: the bound of what the attack may cost. The pages are from a rival's shard, so that
    no page of the own list is among them.
    """

    times = 3

    def __init__(self) -> None:
        self.private_N: Tensor | None = None

    def send(self, honest: Message, view: View) -> Message | None:
        trial = view.workers.trial
        rival = trial.miners + (view.uid + 1) % trial.miners
        start_N, steps = self._start(view), self.times * trial.inner_steps
        self.private_N = trained_apart(view, start_N, rival, steps)
        return view.encoded(view.params_N - self.private_N)

    def _start(self, view: View) -> Tensor:
        if self.private_N is None:
            return view.params_N
        pages = view.workers.random_pages(view.rng, JUDGED_PAGES)
        mine = view.workers.losses(self.private_N, pages).mean()
        theirs = view.workers.losses(view.params_N, pages).mean()
        return self.private_N if mine < theirs else view.params_N


def trained_apart(view: View, start_N: Tensor, whose: int, steps: int) -> Tensor:
    """The parameters after inner steps of this window on the pages of `whose`, float32 [N].

    `whose`: a number outside the roster, with an AdamW state of its own. Its pages are from the
    shard of roster member `whose` modulo the number of miners.
    """
    workers, number, length = view.workers, view.number, view.workers.trial.inner_steps
    batches = [workers.draw(whose, number * steps + step) for step in range(steps)]
    rates = [workers.inner_lr(number, step % length) for step in range(steps)]
    return workers.trained(start_N, whose, batches, rates)
