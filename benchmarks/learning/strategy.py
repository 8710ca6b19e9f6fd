"""The interface of a rule, and the two shapes that rules come in.

`PerStep`: gradients are exchanged at every step. `LocalUpdate`: miners make H inner steps,
send what they learned, and the rule merges it, at once (lag 0) or a round later (lag 1).
The lag, its remedies and the exclusion of useless payloads are here once for every rule.

Lag 1 is the protocol's: theta_{n+2} = theta_{n+1} - U_n, and the miners of round n started
from theta_n, which lacks U_{n-1}. After the last round what is under way is applied too.

Remedies, with p_i miner i's payload under way, e_i its error feedback, alpha the outer rate:
    eager c         start_i = theta - alpha c p_i;  c = 1/R: as the mean rule will apply it
    step ahead c    start_i -= alpha c e_i
    compensate c    delta_i -= c p_i before it enters error feedback
    catch up s      at inner step s start and place move to theta less the update under way
    outer warm-up n alpha_j = alpha (j + 1) / n in round j < n
    dense rounds n  4 top_k in rounds before n

Legend: R miners, N parameters.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.learning.judge import Judge
from benchmarks.learning.messages import DenseCodec, Message, SparseCodec
from benchmarks.learning.workers import Workers
from template.base.feedback import RETURNED_SHARE

DENSER = 4


class Strategy(ABC):
    """A rule at work on one trial. Counts the bytes that one miner sends and fetches.

    `noise_kept`: payloads of noise that a round used, for each round with a judge.
    """

    def __init__(self, workers: Workers) -> None:
        self.workers, self.trial = workers, workers.trial
        self.bytes_up, self.bytes_down = 0.0, 0.0
        self.noise_kept: list[int] = []

    @abstractmethod
    def round(self, number: int, params_N: Tensor) -> Tensor:
        """The parameters after round `number`; those given are not changed."""

    def finish(self, params_N: Tensor) -> Tensor:
        """The parameters when nothing is under way any more."""
        return params_N

    def count(self, sizes_bytes: Sequence[int]) -> None:
        """One exchange: each sends its own message and fetches those of all others."""
        mean_bytes = sum(sizes_bytes) / len(sizes_bytes)
        self.bytes_up += mean_bytes
        self.bytes_down += mean_bytes * (len(sizes_bytes) - 1)

    def zeros(self) -> Tensor:
        """Something for every miner to keep; [R, N]."""
        return torch.zeros(self.trial.miners, self.workers.space.num_elements)


class PerStep(Strategy):
    """Gradients of all miners at the same parameters, H times a round."""

    def round(self, number: int, params_N: Tensor) -> Tensor:
        params_N = params_N.clone()
        for step in range(self.trial.inner_steps):
            gradients_RN = self.workers.gradients(params_N, number, step)
            self.step(params_N, gradients_RN, self.workers.inner_lr(number, step))
        return params_N

    @abstractmethod
    def step(self, params_N: Tensor, gradients_RN: Tensor, lr: float) -> None:
        """One step on the parameters, in place. Calls `count`."""


class LocalUpdate(Strategy):
    """H inner steps, one message a round. A rule gives `merge`, and `codec` if not sparse."""

    def __init__(self, workers: Workers) -> None:
        super().__init__(workers)
        self.residual_RN = self.zeros()
        self._judge = Judge(workers)
        self._sent: list[Message] = []

    @abstractmethod
    def merge(self, params_N: Tensor, messages: Sequence[Message], alpha: float) -> Tensor:
        """New parameters from the messages of one round, those of useless miners left out."""

    def codec(self, top_k: int) -> DenseCodec | SparseCodec:
        trial = self.trial
        return SparseCodec(self.workers.space, top_k, trial.decay, trial.bits)

    def solo(self, message: Message, alpha: float) -> Tensor:
        """What a payload would take off the parameters if it were alone; [N]."""
        return alpha * message.dense

    def alpha(self, number: int) -> float:
        """Outer learning rate for the messages of a round."""
        warmup = self.trial.outer_warmup
        return self.trial.outer_lr * min(1.0, (number + 1) / warmup if warmup else 1.0)

    def round(self, number: int, params_N: Tensor) -> Tensor:
        if self.trial.catch_up_step:
            return self._round_with_catch_up(number, params_N)
        deltas_RN = self.workers.train(self._starts(number, params_N), number)
        messages = self._send(number, deltas_RN)
        self.count([message.num_bytes for message in messages])
        if self.trial.lag == 0:
            return self._merge(number, params_N, messages)
        before, self._sent = self._sent, messages
        return self._merge(number - 1, params_N, before) if before else params_N

    def _round_with_catch_up(self, number: int, params_N: Tensor) -> Tensor:
        """Lag 1, where miners learn the update under way in the middle of a round.

        What they trained so far is kept: start and place are moved alike.
        """
        starts_RN = self._starts(number, params_N)
        places_RN, middle = starts_RN.clone(), self.trial.catch_up_step
        self.workers.advance(places_RN, number, 0, middle)
        after_N = self._merge(number - 1, params_N, self._sent) if self._sent else params_N
        places_RN += after_N - starts_RN
        self.workers.advance(places_RN, number, middle, self.trial.inner_steps)
        self._sent = self._send(number, after_N - places_RN)
        self.count([message.num_bytes for message in self._sent])
        return after_N

    def finish(self, params_N: Tensor) -> Tensor:
        if not self._sent:
            return params_N
        return self._merge(self.trial.rounds - 1, params_N, self._sent)

    def _starts(self, number: int, params_N: Tensor) -> Tensor:
        trial = self.trial
        starts_RN = params_N.repeat(trial.miners, 1)
        if trial.eager and self._sent:
            own_RN = torch.stack([message.dense for message in self._sent])
            starts_RN -= self.alpha(number - 1) * trial.eager * own_RN
        if trial.step_ahead:
            starts_RN -= self.alpha(number) * trial.step_ahead * self.residual_RN
        return starts_RN

    def _send(self, number: int, deltas_RN: Tensor) -> list[Message]:
        trial = self.trial
        dense = number < trial.dense_rounds
        codec = self.codec(trial.top_k * DENSER if dense else trial.top_k)
        if trial.compensate and self._sent:
            deltas_RN -= trial.compensate * torch.stack([m.dense for m in self._sent])
        first_noise = trial.miners - trial.noise_miners
        for miner in range(first_noise, trial.miners):
            deltas_RN[miner] = self.noise(number, miner, deltas_RN[:first_noise])
            self.residual_RN[miner] = 0.0
        return [
            codec.send(delta_N, residual_N, trial.steps_of(miner))
            for miner, (delta_N, residual_N) in enumerate(
                zip(deltas_RN, self.residual_RN, strict=True)
            )
        ]

    def noise(self, number: int, miner: int, honest_RN: Tensor) -> Tensor:
        """A random direction as long, tensor by tensor, as the honest ones are on average."""
        generator = torch.Generator().manual_seed(1000 * number + miner)
        noise_N = torch.randn(honest_RN.shape[1], generator=generator)
        parts = [self.workers.space.views(row) for row in honest_RN]
        for name, view in self.workers.space.views(noise_N).items():
            norm = sum(float(part[name].norm()) for part in parts) / len(parts)
            view *= norm / view.norm().clamp(min=1e-30)
        return noise_N

    def _merge(self, number: int, params_N: Tensor, messages: Sequence[Message]) -> Tensor:
        alpha = self.alpha(number)
        if not self.trial.noise_miners:
            return self.merge(params_N, messages, alpha)
        steps = [self.solo(message, alpha) for message in messages]
        keep = self._judge.useful(number, params_N, steps)
        for miner, message in enumerate(messages):
            if not keep[miner]:
                self.residual_RN[miner] += RETURNED_SHARE * message.dense
        self.noise_kept.append(sum(keep[-self.trial.noise_miners :]))
        return self.merge(params_N, [m for m, k in zip(messages, keep, strict=True) if k], alpha)
