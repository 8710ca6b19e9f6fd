"""Where a miner's training starts and moves on to, and what is kept in memory for it."""

import gc
import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from simulation.swarm import build_world
from simulation.world import World, hotkey_of
from template.base.miner import Miner
from template.base.preview import Preview
from template.base.starts import Expected, Starts
from template.base.work import HonestWork
from template.sync.follower import Follower
from template.training.outer import OuterState

Params = Mapping[str, Tensor]


@pytest.fixture
def world() -> World:
    return build_world({"owner": 0, "val-a": 1000, "m0": 0})


@pytest.fixture
def miner(world, tmp_path) -> Miner:
    return Miner(world.context(hotkey_of("m0"), tmp_path))


class Told:
    """A preview that says what a test lets it say."""

    pending, until_block, uids = True, 0, (3,)

    def __init__(self, state: OuterState) -> None:
        self.state = state
        self.says: Params | None = None
        self.is_closed = False

    def poll(self) -> Params | None:
        said, self.says = self.says, None
        return said

    def close(self) -> None:
        self.is_closed = True


def _theta(follower: Follower, window: int) -> OuterState:
    """Another theta, of a window, where the follower stands from now on."""
    state = follower.state
    params = {name: tensor + 0.5 for name, tensor in state.params.items()}
    moved = replace(state, window=window, params=params)
    follower.ledger = replace(follower.ledger, state=moved)
    return moved


def _starts(miner: Miner, window: int, made: list[Told], **given: Any) -> Starts:
    def preview(_window: int) -> Preview:
        made.append(Told(miner.follower.state))
        return cast(Preview, made[-1])

    follower = miner.follower
    return Starts(miner.context, follower, window, preview=preview, under_way=lambda: (), **given)


def test_training_moves_to_theta_then_to_the_preview_then_to_the_theta_after(miner) -> None:
    made: list[Told] = []
    _theta(miner.follower, 4)
    starts = _starts(miner, 5, made)
    assert starts.first() is miner.follower.state.params
    assert starts.poll() is None
    assert made == []
    state = _theta(miner.follower, 5)
    assert starts.poll() is state.params
    assert starts.poll() is None
    guess = made[0].says = dict(state.params)
    assert starts.poll() is guess
    assert starts.uids == (3,)
    assert starts.expects == Expected(window=6, state=state, params=guess)
    after = _theta(miner.follower, 6)
    assert starts.poll() is after.params
    assert starts.uids == (3,), "for the metrics"


def test_a_preview_that_comes_after_its_theta_is_not_taken(miner) -> None:
    """Long inner steps: theta is there before the preview of this theta was asked."""
    made: list[Told] = []
    state = _theta(miner.follower, 5)
    starts = _starts(miner, 5, made)
    assert starts.poll() is None
    after = _theta(miner.follower, 6)
    assert starts.poll() is after.params
    made[0].says = dict(state.params)
    assert starts.poll() is None
    assert starts.expects is None, "the next window starts from theta itself"
    assert made[0].is_closed
    assert len(made) == 2, "a slow machine asks for the preview of the theta after"


def test_what_was_expected_of_another_state_is_no_start(miner) -> None:
    before = miner.follower.state
    expected = Expected(window=5, state=before, params={})
    assert _starts(miner, 5, [], expected=expected).first() == {}
    assert _starts(miner, 6, [], expected=expected).first() is before.params
    healed = _theta(miner.follower, before.window)
    assert _starts(miner, 5, [], expected=expected).first() is healed.params


def test_theta_before_leaves_memory_once_training_has_moved_on(miner) -> None:
    made: list[Told] = []
    work = cast(HonestWork, miner.work)
    old = weakref.ref(next(iter(_theta(miner.follower, 5).params.values())))
    state = miner.follower.state
    work._expected = Expected(window=5, state=state, params=dict(state.params))
    setattr(work, "preview", lambda _window: cast(Preview, made.pop()))  # noqa: B010
    made.append(Told(state))
    starts = work.starts(5)
    starts.poll()
    preview = cast(Told, starts._preview)
    preview.says = dict(state.params)
    assert starts.poll() is not None
    after = _theta(miner.follower, 6)
    assert old() is not None
    assert starts.poll() is after.params
    del preview, state
    gc.collect()
    assert old() is None
    assert all(torch.isfinite(tensor).all() for tensor in after.params.values())
