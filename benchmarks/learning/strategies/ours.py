"""The project's outer step: the mean with a least divisor, clipped at past norms, energy capped.

Every miner has a coldkey of its own. References and coefficients are those of
`template.training.outer`; a test holds the parameters to those of `outer_step`, bit for bit.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.learning.messages import Message
from benchmarks.learning.strategy import LocalUpdate
from benchmarks.learning.workers import Workers
from compression import SparseModel, apply
from template.training.alpha import next_exponent
from template.training.energy import Factors, Norms, cap_energy, cap_lengths
from template.training.outer import (
    OuterState,
    clip_references,
    coefficients,
    first_state,
    scored_coefficients,
    scored_references,
    step_divisor,
)


class Ours(LocalUpdate):
    """theta - alpha * sum of w_i c_{i,t} g_i payload_i, w_i = 1 / max(accepted, n_min, usual)."""

    def __init__(self, workers: Workers) -> None:
        super().__init__(workers)
        self.outer = workers.spec.outer
        self._state = first_state(workers.space.views(workers.theta0()), workers.spec.run_id)

    def merge(self, params_N: Tensor, messages: Sequence[Message], alpha: float) -> Tensor:
        divisor = step_divisor(self._state, len(messages), self.outer)
        space, norms = self.workers.space, [_norms(message) for message in messages]
        factors: list[Factors] = [
            self._factors(m, alpha, divisor / share, norms)
            for m, share in zip(messages, self._shares(messages), strict=True)
        ]
        coldkeys = self.coldkeys(messages)
        even = cap_lengths(factors, norms, coldkeys, self.outer.max_length_ratio)
        capped = cap_energy(even, norms, coldkeys, self.outer.max_energy_share)
        self.remember(messages)
        after_N = params_N.clone()
        for message, factor in zip(messages, capped, strict=True):
            minus = {name: -value for name, value in factor.items()}
            apply(space.views(after_N), SparseModel(tensors=message.tensors), minus)
        return after_N

    @property
    def state(self) -> OuterState:
        """The norms that bound those of later rounds; the parameters in it are not kept up."""
        return self._state

    @property
    def state_alpha(self) -> float:
        """Alpha by the exponent in the state."""
        return self._state.alpha(self.outer)

    def move_alpha(self, pace: int) -> None:
        """As `outer_step` does after a step, by the votes."""
        exponent = next_exponent(self._state.exponent, pace)
        self._state = replace(self._state, exponent=exponent)

    def foretell(self, state: OuterState, params_N: Tensor, messages: Sequence[Message]) -> Tensor:
        """The parameters that `merge` would return at an earlier `state`, which is not kept."""
        now, self._state = self._state, state
        after_N = self.merge(params_N, messages, state.alpha(self.outer))
        self._state = now
        return after_N

    def coldkeys(self, messages: Sequence[Message]) -> list[bytes]:
        """Whose each payload is."""
        return [index.to_bytes(2, "little") for index in range(len(messages))]

    def scored(
        self, message: Message, beside: Iterable[Message], alpha: float, share: float
    ) -> Tensor:
        """What is taken off the parameters when validators score a payload; [N]."""
        references = scored_references(self._state, map(_norms, beside), self.outer)
        factors = scored_coefficients(alpha, 0, _norms(message), references, self.outer, share)
        return self._step(message, factors)

    def solo(self, message: Message, alpha: float) -> Tensor:
        return self._step(message, self._factors(message, alpha, 1.0))

    def _step(self, message: Message, factors: Factors) -> Tensor:
        step_N = torch.zeros_like(message.dense)
        for name, view in self.workers.space.views(step_N).items():
            message.tensors[name].add_to(view, coefficient=factors[name])
        return step_N

    def _factors(
        self, message: Message, alpha: float, divisor: float, present: Iterable[Norms] = ()
    ) -> Factors:
        references = clip_references(self._state, self.outer, present)
        return coefficients(alpha, 0, _norms(message), references, self.outer, divisor)

    def _shares(self, messages: Sequence[Message]) -> list[float]:
        """1 for every payload, or its steps over the mean number of steps."""
        if self.trial.weighting == "equal":
            return [1.0] * len(messages)
        mean_steps = sum(message.steps for message in messages) / len(messages)
        return [message.steps / mean_steps for message in messages]

    def remember(self, messages: Sequence[Message]) -> None:
        """The norms that bound those of later rounds."""
        window, outer = self._state.window, self.outer
        norms = tuple(map(_norms, messages))
        entries = (*self._state.accepted_norms, *([(window, norms)] if norms else []))
        recent = tuple(entry for entry in entries if entry[0] > window - outer.clip_windows)
        self._state = replace(self._state, window=window + 1, accepted_norms=recent)


def _norms(message: Message) -> dict[str, float]:
    return {name: sparse.norm for name, sparse in message.tensors.items()}
