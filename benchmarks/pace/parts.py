"""Miners that train a part of the model: steps, payloads and outer step of parts.

A part is a contiguous run of blocks: the embedding, the layers, what follows the layers. What is
outside the part stands still. Every tensor is divided by the number of payloads that hold it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from benchmarks.learning.messages import Message
from benchmarks.learning.strategies.ours import Ours
from benchmarks.learning.workers import Workers
from compression import SparseModel, apply, decode, encode_with_feedback, make_plan
from template.protocol.ranges import cut_model
from template.training.energy import Norms, cap_energy, cap_lengths
from template.training.outer import clip

if TYPE_CHECKING:
    from benchmarks.pace.race import Sent

Part = tuple[int, int]
"""Which, and of how many."""


def names_of(shapes: Mapping[str, tuple[int, ...]], part: Part) -> list[str]:
    """Tensors of a part, in the model's order."""
    which, parts = part
    held = cut_model(shapes, parts)[which]
    return [name for name in shapes if name in held]


class PartTrainer:
    """AdamW of parts: each tensor has moments of its own for each miner."""

    def __init__(self, workers: Workers, forgets: bool) -> None:
        self._workers, self._forgets = workers, forgets
        self._optimizers: dict[tuple[int, Part], torch.optim.AdamW] = {}

    def step(
        self,
        place_N: Tensor,
        miner: int,
        part: Part,
        pages: np.ndarray,
        lr: float,
        is_first: bool,
    ) -> None:
        """One inner step of a part, in place."""
        workers, space = self._workers, self._workers.space
        names, views = names_of(space.shapes, part), space.views(place_N)
        grads = space.views(workers.gradient(place_N, pages))
        key = (miner, part)
        if key not in self._optimizers or (is_first and self._forgets):
            training = workers.spec.training
            self._optimizers[key] = torch.optim.AdamW(
                [torch.nn.Parameter(views[name]) for name in names],
                lr=lr,
                betas=(training.adam_beta1, training.adam_beta2),
                weight_decay=training.weight_decay,
            )
        (group,) = self._optimizers[key].param_groups
        group["lr"] = lr
        for name, parameter in zip(names, group["params"], strict=True):
            parameter.data, parameter.grad = views[name], grads[name]
        torch.nn.utils.clip_grad_norm_(group["params"], workers.spec.training.max_gradient_norm)
        self._optimizers[key].step()


def send_part(
    workers: Workers, delta_N: Tensor, residual_N: Tensor, part: Part, steps: int
) -> Message:
    """The payload of a part; error feedback of the rest stays as it is."""
    space, trial = workers.space, workers.trial
    names = names_of(space.shapes, part)
    plan = make_plan({name: space.shapes[name] for name in names}, top_k=trial.top_k)
    deltas, residuals = space.views(delta_N), space.views(residual_N)
    body = encode_with_feedback(
        {n: deltas[n] for n in names}, {n: residuals[n] for n in names}, plan, trial.decay,
        num_threads=1,
    )  # fmt: skip
    tensors = decode(body, plan, num_threads=1).tensors
    dense_N = torch.zeros(space.num_elements)
    views = space.views(dense_N)
    for name, sparse in tensors.items():
        sparse.add_to(views[name], coefficient=1.0)
    return Message(num_bytes=len(body), dense=dense_N, steps=steps, tensors=tensors)


def merge_parts(rule: Ours, params_N: Tensor, sent: Sequence["Sent"]) -> Tensor:
    """The outer step, tensor by tensor: divisor, median count and clip of those who hold it."""
    outer, state, alpha = rule.outer, rule.state, rule.trial.outer_lr
    norms: list[Norms] = [
        {name: sparse.norm for name, sparse in one.message.tensors.items()} for one in sent
    ]
    past = [members for _, members in state.accepted_norms]
    factors: list[dict[str, float]] = [{} for _ in sent]
    for name in rule.workers.space.shapes:
        holders = [index for index, one in enumerate(norms) if name in one]
        if not holders:
            continue
        counts = sorted(sum(name in one for one in members) for members in past)
        usual = counts[(len(counts) - 1) // 2] if counts else 0
        divisor = max(len(holders), outer.min_divisor, usual)
        known = sorted(one[name] for members in past for one in members if name in one)
        if not known:
            limit = max(outer.initial_norm_share * state.initial_norms[name], 1e-3)
            present = sorted(norms[index][name] for index in holders)
            known = [min(limit, present[(len(present) - 1) // 2])]
        reference = known[(len(known) - 1) // 2]
        for index in holders:
            share = clip(norms[index][name], reference, outer.clip_factor) / divisor
            factors[index][name] = alpha * share
    coldkeys = rule.coldkeys([one.message for one in sent])
    even = cap_lengths(factors, norms, coldkeys, outer.max_length_ratio)
    capped = cap_energy(even, norms, coldkeys, outer.max_energy_share)
    rule.remember([one.message for one in sent])
    after_N = params_N.clone()
    views = rule.workers.space.views(after_N)
    for one, factor in zip(sent, capped, strict=True):
        minus = {name: -value for name, value in factor.items()}
        apply(views, SparseModel(tensors=one.message.tensors), minus)
    return after_N
