"""A validator whose parameters are wrong in one bit."""

from dataclasses import replace

import torch

from template.base.validator import Validator
from template.sync.follower import Follower
from template.training.outer import OuterState


class FlippingValidator(Validator):
    """Honest, but flips one bit of its parameters before it votes on `FLIP_WINDOW`."""

    FLIP_WINDOW = 2

    def step(self) -> bool:
        if self.follower.next_window == self.FLIP_WINDOW:
            flip_ledger(self.follower)
        return super().step()


def flip_ledger(follower: Follower) -> None:
    follower.ledger = replace(follower.ledger, state=_flip(follower.state))


def _flip(state: OuterState) -> OuterState:
    name = sorted(state.params)[-1]
    flipped = state.params[name].clone()
    flipped.view(torch.int32).view(-1)[-1] ^= 1
    return replace(state, params={**state.params, name: flipped})
